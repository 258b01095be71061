"""BLOCK_IP: never an address that this host needs, nothing without the owner's word, and the real nftables obey."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.block_guard import CannotTell, own_addresses, plain_address, server_addresses, why_never
from agent.controller.block_ip import BlockIp, block_commands, table_commands
from agent.controller.executor import JobFailed, JobRejected
from agent.host_policy import BlockPolicy, HostPolicy
from tests.unit.agent.controller.running_job import RunningJob

BAD = "203.0.113.7"
SERVER = "198.51.100.1"


def ran(args: dict[str, Any], block: BlockPolicy, nft: tuple[str, ...] = ("nft",), *, dry_run: bool = False) -> Any:
    executor = BlockIp([SERVER, "127.0.0.1"], nft, lambda: {ip_address("192.0.2.10"), ip_address("2001:db8::10")})
    run = RunningJob("BLOCK_IP", args, HostPolicy(block_ip=block), dry_run=dry_run)
    return executor.run(run), run.output.text


@pytest.mark.parametrize("block", [BlockPolicy(), BlockPolicy(mode="enforce")], ids=["policy", "job"])
def test_dry_run_is_the_default_and_says_exactly_what_would_be_done(block: BlockPolicy) -> None:
    args = {"address": BAD, "seconds": 600}
    ending, output = ran(args, block, ("/nowhere/nft",), dry_run=block.mode == "enforce")
    assert (ending.state, ending.reason) == ("succeeded", "dry_run")
    assert ending.data["enforced"] is False
    document = json.loads(output.partition("'")[2].rpartition("'")[0])
    assert document == {"nftables": ending.data["commands"]}
    assert document["nftables"] == table_commands() + block_commands(ip_address(BAD), 600)


NEVER = {
    "loopback": "127.0.0.1",
    "loopback of a net": "127.9.9.9",
    "loopback of version 6": "::1",
    "any": "0.0.0.0",  # noqa: S104
    "any of version 6": "::",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "link-local": "fe80::1",
    "the server": SERVER,
    "the server in version 6": f"::ffff:{SERVER}",
    "its own": "192.0.2.10",
    "its own in version 6": "2001:db8::10",
    "the owner's list": "10.1.2.3",
    "the owner's list in version 6": "2001:db8:1::5",
}


@pytest.mark.parametrize("address", NEVER.values(), ids=NEVER)
@pytest.mark.parametrize("dry_run", [True, False])
def test_some_addresses_are_never_blocked(address: str, dry_run: bool) -> None:
    block = BlockPolicy(mode="enforce", never=(ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")))
    with pytest.raises(JobRejected) as caught:
        ran({"address": address, "seconds": 60}, block, ("/nowhere/nft",), dry_run=dry_run)
    assert caught.value.reason == "never_blocked"


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"address": BAD},
        {"seconds": 60},
        {"address": "10.0.0.0/8", "seconds": 60},
        {"address": "evil.example", "seconds": 60},
        {"address": "2001:db8::1%eth0", "seconds": 60},
        {"address": "203.0.113.07", "seconds": 60},
        {"address": 3405803783, "seconds": 60},
        {"address": BAD, "seconds": 0},
        {"address": BAD, "seconds": -1},
        {"address": BAD, "seconds": 86_401},
        {"address": BAD, "seconds": True},
        {"address": BAD, "seconds": 60, "table": "filter"},
        {"address": BAD + "; flush ruleset", "seconds": 60},
    ],
)
def test_arguments_are_one_address_and_a_bounded_time(args: dict[str, Any]) -> None:
    with pytest.raises(JobRejected) as caught:
        ran(args, BlockPolicy())
    assert caught.value.reason == "bad_arguments"


@given(st.ip_addresses(), st.lists(st.ip_addresses(network="10.0.0.0/8"), max_size=3))
def test_whatever_is_in_a_list_is_never_blocked(address: Any, own: list[Any]) -> None:
    network: IPv4Network | IPv6Network = ip_network(f"{address}/{16 if address.version == 4 else 48}", strict=False)
    assert why_never(address, [network], own, [])
    assert all(why_never(mine, [], own, []) for mine in own)
    assert plain_address(str(address)) in (address, getattr(address, "ipv4_mapped", None))


def test_the_host_s_own_addresses_are_read_from_the_kernel(tmp_path: Path) -> None:
    assert ip_address("127.0.0.1") in own_addresses()
    proc = tmp_path / "net"
    proc.mkdir()
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("# mine\nsearch example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver x\n")
    with pytest.raises(CannotTell):
        own_addresses(proc, resolvers)
    (proc / "fib_trie").write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.8\n        /32 host LOCAL\n"
        "     |-- 192.0.2.0\n        /24 link UNICAST\n"
    )
    (proc / "route").write_text("Iface\tDestination\tGateway\neth0\t00000000\t010200C0\neth0\t000200C0\t00000000\n")
    (proc / "if_inet6").write_text("20010db8000000000000000000000008 02 40 00 80 eth0\n")
    found = {str(address) for address in own_addresses(proc, resolvers)}
    assert found == {"192.0.2.8", "192.0.2.1", "2001:db8::8", "192.0.2.53", "fe80::1"}


def test_without_knowing_the_server_s_address_nothing_is_blocked() -> None:
    with pytest.raises(CannotTell):
        server_addresses(["no-such-host.invalid"])
    executor = BlockIp(["no-such-host.invalid"])
    run = RunningJob("BLOCK_IP", {"address": BAD, "seconds": 60}, HostPolicy())
    with pytest.raises(JobRejected) as caught:
        executor.run(run)
    assert caught.value.reason == "cannot_tell"


def test_a_host_without_nft_says_so() -> None:
    with pytest.raises(JobFailed) as caught:
        ran({"address": BAD, "seconds": 60}, BlockPolicy(mode="enforce"), ("/nowhere/nft",))
    assert caught.value.reason == "unavailable"


@pytest.fixture
def network() -> Iterator[tuple[str, ...]]:
    """How a command is run in a network of its own, so that the tests' machine is left alone."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("nft", "unshare", "nsenter"))):
        pytest.skip("needs root, nftables (apt-get install nftables) and util-linux")
    # cat ends when its input does: it never outlives the test.
    holder = subprocess.Popen(
        [shutil.which("unshare") or "", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 5
        while (
            holder.poll() is None and os.readlink(f"/proc/{holder.pid}/ns/net") == own and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        if holder.poll() is not None:
            pytest.skip("this machine allows no network namespaces")
        yield ("nsenter", "-t", str(holder.pid), "-n")
    finally:
        holder.communicate()


def listed(network: tuple[str, ...]) -> dict[str, int]:
    """The blocked addresses with the seconds that are left."""
    said = subprocess.run([*network, "nft", "-j", "list", "ruleset"], capture_output=True, check=True).stdout
    sets = [item["set"] for item in json.loads(said)["nftables"] if "set" in item]
    elements = [element["elem"] for known in sets for element in known.get("elem", [])]
    return {element["val"]: element["expires"] for element in elements}


def test_the_kernel_holds_what_was_asked_for_as_long_as_was_asked(network: tuple[str, ...]) -> None:
    block = BlockPolicy(mode="enforce", most_addresses=2)
    nft = (*network, "nft")
    for address in (BAD, "2001:db8:9::1"):
        ending, _ = ran({"address": address, "seconds": 600}, block, nft)
        assert (ending.state, ending.reason, ending.data["enforced"]) == ("succeeded", "", True)
    assert set(listed(network)) == {BAD, "2001:db8:9::1"}
    assert 590 < listed(network)[BAD] <= 600
    # A second time sets the time anew, and is no second address.
    ran({"address": BAD, "seconds": 30}, block, nft)
    assert listed(network)[BAD] <= 30
    with pytest.raises(JobRejected) as caught:
        ran({"address": "203.0.113.8", "seconds": 60}, block, nft)
    assert caught.value.reason == "too_many"
    rules = subprocess.run([*nft, "-j", "list", "ruleset"], capture_output=True, check=True, text=True).stdout
    assert sum("rule" in item for item in json.loads(rules)["nftables"]) == 2, "the table is made once"


def test_the_time_runs_out_by_itself(network: tuple[str, ...]) -> None:
    ran({"address": BAD, "seconds": 1}, BlockPolicy(mode="enforce"), (*network, "nft"))
    deadline = time.monotonic() + 10
    while listed(network) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not listed(network)


def test_a_table_that_somebody_changed_is_left_alone(network: tuple[str, ...]) -> None:
    subprocess.run([*network, "nft", "add table inet trustsoc_agent"], check=True)
    with pytest.raises(JobFailed) as caught:
        ran({"address": BAD, "seconds": 60}, BlockPolicy(mode="enforce"), (*network, "nft"))
    assert caught.value.reason == "foreign_table"


_SENDING = """
import fcntl, socket, struct
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inbox.bind(("127.0.0.1", 9999))
inbox.settimeout(0.5)
for source in ("127.0.0.2", "127.0.0.3"):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((source, 0))
    sender.sendto(source.encode(), ("127.0.0.1", 9999))
    try:
        print(inbox.recv(100).decode())
    except TimeoutError:
        print("nothing")
"""


def test_packets_of_a_blocked_address_do_not_arrive_and_those_of_others_do(network: tuple[str, ...]) -> None:
    # Loopback addresses can be had without a second host; the guard would refuse them, so only the commands are used.
    commands = table_commands() + block_commands(ip_address("127.0.0.2"), 60)
    document = json.dumps({"nftables": commands})
    subprocess.run([*network, "nft", "-j", "-f", "-"], input=document, text=True, check=True)
    said = subprocess.run([*network, sys.executable, "-c", _SENDING], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["nothing", "127.0.0.3"]
