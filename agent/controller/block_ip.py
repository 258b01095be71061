"""BLOCK_IP: drops what comes from one address, for a time, in a table of nftables of the agent's own.

The kernel forgets the address by itself. Unless the host's policy says `enforce`, the exact commands are told and
nothing is done. Nothing but the table `inet trustsoc_agent` is ever touched.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

from agent.controller.block_guard import Address, CannotTell, own_addresses, plain_address, server_addresses, why_never
from agent.controller.executor import INTERRUPTED, Arguments, Ending, JobFailed, JobRejected, JobRun

_FAMILY: Final = "inet"
_TABLE: Final = "trustsoc_agent"
_SETS: Final = {4: ("blocked4", "ipv4_addr", "ip"), 6: ("blocked6", "ipv6_addr", "ip6")}
_COMMAND_S: Final = 15.0


def table_commands() -> list[dict[str, Any]]:
    """Makes the table, its two sets with timeouts and the chain that drops what comes from them."""
    place = {"family": _FAMILY, "table": _TABLE}
    sets = [
        {"add": {"set": place | {"name": name, "type": kind, "flags": ["timeout"]}}} for name, kind, _ in _SETS.values()
    ]
    chain = {"name": "input", "type": "filter", "hook": "input", "prio": -10, "policy": "accept"}
    rules = [{"add": {"rule": place | {"chain": "input", "expr": _drop(name, ip)}}} for name, _, ip in _SETS.values()]
    return [{"add": {"table": {"family": _FAMILY, "name": _TABLE}}}, *sets, {"add": {"chain": place | chain}}, *rules]


def block_commands(address: Address, seconds: int) -> list[dict[str, Any]]:
    """Puts the address into its set for so many seconds from now, also where it is there already."""
    name = _SETS[address.version][0]
    where = {"family": _FAMILY, "table": _TABLE, "name": name}
    text = str(address)
    timed = {"elem": {"val": text, "timeout": seconds}}
    # Adding what is there keeps the old time; adding, deleting and adding again in one transaction does not.
    return [
        {"add": {"element": where | {"elem": [text]}}},
        {"delete": {"element": where | {"elem": [text]}}},
        {"add": {"element": where | {"elem": [timed]}}},
    ]


class BlockIp:
    """Arguments: `address` (one, no network) and `seconds`. `nft` is how the program is run, `hosts` the servers."""

    type: Final = "BLOCK_IP"

    def __init__(
        self, hosts: Sequence[str], nft: Sequence[str] = ("nft",), own: Callable[[], set[Address]] = own_addresses
    ) -> None:
        self._hosts = tuple(hosts)
        self._nft = tuple(nft)
        self._own = own

    def run(self, run: JobRun) -> Ending:
        """Carries the job out, or says how it would."""
        policy = run.policy.block_ip
        arguments = Arguments(run.job.args)
        text = arguments.text("address", most=64)
        seconds = arguments.number("seconds", least=1, most=policy.most_seconds)
        arguments.done()
        address = self._allowed(run, text)
        dry = run.job.dry_run or policy.mode == "dry_run"
        if not dry and shutil.which(self._nft[0]) is None:
            raise JobFailed("unavailable", "nft is not installed on this host")
        known = self._table() if not dry else None
        commands = ([] if known is not None else table_commands()) + block_commands(address, seconds)
        document = json.dumps({"nftables": commands}, separators=(",", ":"))
        run.write(f"nft -j -f - <<< '{document}'")
        data = {"address": str(address), "seconds": seconds, "enforced": not dry, "commands": commands}
        if dry:
            why = "the job" if run.job.dry_run else "the host's policy"
            return Ending("succeeded", "dry_run", f"nothing was blocked: {why} says dry run", data)
        if known is not None and len(known) >= policy.most_addresses and str(address) not in known:
            raise JobRejected("too_many", f"{len(known)} addresses are blocked, which is all that the policy allows")
        self._call(["-f", "-"], document)
        data["expires_at"] = run.now_ms() + seconds * 1000
        return Ending("succeeded", "", "", data)

    def resume(self, run: JobRun) -> Ending:
        """The transaction took place or did not; nobody knows, and it is not repeated."""
        return INTERRUPTED

    def _allowed(self, run: JobRun, text: str) -> Address:
        try:
            address = plain_address(text)
        except ValueError as error:
            raise JobRejected("bad_arguments", f"address must be one IPv4 or IPv6 address: {error}") from error
        try:
            why = why_never(address, run.policy.block_ip.never, self._own(), server_addresses(self._hosts))
        except CannotTell as error:
            raise JobRejected("cannot_tell", f"{error}; nothing is blocked without knowing that") from error
        if why:
            raise JobRejected("never_blocked", f"{address} is never blocked here: {why}")
        return address

    def _table(self) -> set[str] | None:
        """The addresses that are blocked now, None when the table is not there or not whole."""
        try:
            listed = json.loads(self._call(["list", "table", _FAMILY, _TABLE], ""))["nftables"]
        except JobFailed as failure:
            if "No such file" in str(failure):
                return None
            raise
        sets = [item["set"] for item in listed if "set" in item]
        elements = [element for known in sets for element in known.get("elem", [])]
        if len(sets) < len(_SETS) or sum("rule" in item for item in listed) < len(_SETS):
            raise JobFailed("foreign_table", f"the table {_TABLE} is not as this agent makes it: remove it")
        return {element["elem"]["val"] if isinstance(element, dict) else str(element) for element in elements}

    def _call(self, arguments: Sequence[str], document: str) -> str:
        try:
            done = subprocess.run(
                [*self._nft, "-j", *arguments],
                input=document,
                capture_output=True,
                text=True,
                timeout=_COMMAND_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JobFailed("unavailable", f"nft could not be run: {error}") from error
        if done.returncode != 0:
            raise JobFailed("nft_failed", f"nft ended with {done.returncode}: {done.stderr.strip()[:1000]}")
        return done.stdout


def _drop(name: str, protocol: str) -> list[dict[str, Any]]:
    source = {"payload": {"protocol": protocol, "field": "saddr"}}
    return [{"match": {"op": "==", "left": source, "right": f"@{name}"}}, {"drop": None}]
