"""What it takes to start, what the signals do, and that masking comes before the disk or nothing is kept."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from typing import Any

import httpx
import pytest

from agent.forwarder.__main__ import main
from agent.forwarder.config import ConfigError, config_from, read_config, read_token
from agent.forwarder.process import Forwarder
from agent.masking.key import KEY_BYTES, MaskingKey
from agent.spool import Spool
from tests.unit.agent.forwarder.conftest import PROTOBUF, TOKEN, Host, lines_of, request, running, wait_for
from tests.unit.agent.forwarder.server import TinyServer

EVERYWHERE = "0.0.0.0"  # noqa: S104  # that is what must be refused


@pytest.mark.parametrize("token", ["", "  \n", "None", "none", "null", "changeme", "short", "x" * 15, "two words here"])
def test_a_token_that_could_be_guessed_refuses_to_start(
    host: Host, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (host.folder / "token").write_text(token)
    with pytest.raises(ConfigError, match="token"):
        read_token(host.folder / "token")
    with pytest.raises(ConfigError):
        Forwarder(host.config(1))
    assert main(["--config", str(host.write(host.stated(1)))]) == 2
    assert "token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "key", "value", "what"),
    [
        ("server", "url", "http://soc.example.org", "https"),
        ("server", "url", "https://soc.example.org/prefix", "https"),
        ("server", "url", "https://soc:99999", "Port"),
        ("server", "key", 7, "server.key"),
        ("server", "client_id", "", "client_id"),
        ("listen", "address", EVERYWHERE, "remote"),
        ("listen", "address", "somewhere", "listen.address"),
        ("listen", "port", "4319", "listen.port"),
        ("listen", "surprise", 1, "surprise"),
        ("spool", "most_bytes", 1000, "most_bytes"),
        ("spool", "most_bytes", -1, "most_bytes"),
        ("listen", "port", 65_536, "listen.port"),
        ("ship", "answer_s", 0, "answer_s"),
        ("ship", "statement_s", float("inf"), "statement_s"),
        ("ship", "in_flight", 0, "in_flight"),
        ("ship", "in_flight", True, "in_flight"),
        ("ship", "longest_retry_s", 0.001, "first_retry_s"),
    ],
)
def test_a_wrong_setting_is_named(host: Host, section: str, key: str, value: Any, what: str) -> None:
    stated = host.stated(1)
    stated[section][key] = value
    with pytest.raises(ConfigError, match=what):
        config_from(stated)


@pytest.mark.parametrize(("section", "key"), [("server", "url"), ("listen", "token"), ("spool", "folder")])
def test_a_missing_setting_is_named(host: Host, section: str, key: str) -> None:
    stated = host.stated(1)
    del stated[section][key]
    with pytest.raises(ConfigError, match=f"{section}.{key} is missing"):
        config_from(stated)


def test_another_address_needs_to_be_meant(host: Host) -> None:
    stated = host.stated(1)
    stated["listen"] |= {"address": EVERYWHERE, "remote": True}
    assert config_from(stated).listen.remote


@pytest.mark.parametrize(
    "content", ["", "{}", '{"key_id": "k"}', '{"key_id": "k k", "secret": "s"}', "[1]", "tss_secret"]
)
def test_a_signing_key_that_cannot_sign_is_named_and_not_shown(host: Host, content: str) -> None:
    (host.folder / "signing_key.json").write_text(content)
    with pytest.raises(ConfigError, match="the signing key in") as refused:
        Forwarder(host.config(1))
    assert "tss_secret" not in str(refused.value)


def test_check_reads_everything_and_starts_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    path = host.write(host.stated(1))
    assert main(["--config", str(path), "--check"]) == 0
    assert "in order" in capsys.readouterr().out
    assert not (host.folder / "spool").exists()
    (host.folder / "signing_key.json").unlink()
    assert main(["--config", str(path), "--check"]) == 2
    assert main(["--config", str(host.folder / "nothing.yml")]) == 2


def started(host: Host, port: int, **ship: Any) -> tuple[subprocess.Popen[bytes], str]:
    ready = host.folder / "ready"
    command = [sys.executable, "-m", "agent.forwarder", "--config", str(host.write(host.stated(port, **ship)))]
    process = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.PIPE)
    wait_for(lambda: ready.exists() and ready.read_text(), "the forwarder", 60)
    return process, f"http://127.0.0.1:{ready.read_text()}"


def test_sigterm_drains_and_says_goodbye(host: Host, server: TinyServer) -> None:
    process, url = started(host, server.port, drain_s=10)
    for number in range(5):
        assert httpx.post(f"{url}/v1/logs", content=request(f"line {number}"), headers=PROTOBUF).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert sorted(lines_of(server.journal.bodies())) == [f"line {number}" for number in range(5)]
    assert server.journal.statements[-1]["stored"] == 5
    assert process.stderr is not None
    process.stderr.close()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz")


def test_sighup_takes_over_a_new_token_and_new_credentials(host: Host, server: TinyServer) -> None:
    server.keys = {"b1b2c3d4e5f6": "tss_new"}
    process, url = started(host, server.port, refused_retry_s=3600, longest_retry_s=3600)
    try:
        assert httpx.post(f"{url}/v1/logs", content=request("line"), headers=PROTOBUF).status_code == 200
        wait_for(lambda: httpx.get(f"{url}/healthz").json()["state"] == "failing", "the refusal noticed")
        (host.folder / "token").write_text("another-local-token")
        host.sign_with("b1b2c3d4e5f6", "tss_new")
        process.send_signal(signal.SIGHUP)
        server.wait(lambda journal: journal.records() == 1, "the batch sent with the new key")
        new = PROTOBUF | {"Authorization": "Bearer another-local-token"}
        assert httpx.post(f"{url}/v1/logs", content=request("two"), headers=PROTOBUF).status_code == 503
        assert httpx.post(f"{url}/v1/logs", content=request("two"), headers=new).status_code == 200
        (host.folder / "token").write_text("")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: httpx.get(f"{url}/healthz").json()["state"] == "degraded", "the empty token noticed")
        assert httpx.post(f"{url}/v1/logs", content=request("three"), headers=new).status_code == 200, "the old stays"
    finally:
        process.terminate()
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()


def test_sighup_while_it_starts_ends_nothing_and_counts_afterwards(host: Host, server: TinyServer) -> None:
    """Who renews a key says so by it, and does not look how long the forwarder has been up."""
    ready, key = host.folder / "ready", host.folder / "signing_key.json"
    old, new = key.read_text(), host.folder / "new.json"
    new.write_text(json.dumps({"key_id": "b1b2c3d4e5f6", "secret": "tss_new"}))
    key.unlink()
    os.mkfifo(key)
    command = [sys.executable, "-m", "agent.forwarder", "--config", str(host.write(host.stated(server.port)))]
    process = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.DEVNULL)
    try:
        with key.open("w") as reading:  # opened once the forwarder reads it, and there it waits
            new.replace(key)
            process.send_signal(signal.SIGHUP)
            reading.write(old)
        wait_for(lambda: process.poll() is not None or (ready.exists() and ready.read_text()), "the forwarder", 60)
        assert process.poll() is None
        url = f"http://127.0.0.1:{ready.read_text()}/status"
        wait_for(lambda: httpx.get(url).json()["key_id"] == "b1b2c3d4e5f6", "the new key taken over")
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_two_forwarders_cannot_share_a_spool(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    path = host.write(host.stated(1))
    spool = Spool(host.folder / "spool")
    try:
        assert main(["--config", str(path)]) == 1
        assert "another process" in capsys.readouterr().err
    finally:
        spool.close()


async def test_what_is_masked_is_what_reaches_the_disk_and_the_server(host: Host, server: TinyServer) -> None:
    forwarder = Forwarder(host.config(server.port), lambda body, _: body.replace(b"secret", b"*" * 6))
    await forwarder.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{forwarder.port}") as client:
        answer = await client.post("/v1/logs", content=request("my secret", "no"), headers=PROTOBUF)
        assert answer.status_code == 200
    assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
    await forwarder.stop()
    assert lines_of(server.journal.bodies()) == ["my ******", "no"]
    assert b"secret" not in b"".join(path.read_bytes() for path in (host.folder / "spool").glob("*.seg"))


async def test_what_cannot_be_masked_is_not_stored_and_not_given_up(host: Host) -> None:
    def broken(body: bytes, kind: str) -> bytes:
        raise ValueError("no mask for this")

    forwarder = Forwarder(host.config(1), broken)
    await forwarder.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{forwarder.port}") as client:
        answer = await client.post("/v1/logs", content=request("my secret"), headers=PROTOBUF)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert (await client.get("/healthz")).json()["state"] == "failing"
    books = forwarder.spool.books()
    await forwarder.stop()
    assert books.accepted == 0
    spool = host.folder / "spool"
    assert b"secret" not in b"".join(path.read_bytes() for path in spool.iterdir() if path.is_file())


async def test_a_certificate_that_was_renewed_is_used_without_a_restart(host: Host, server: TinyServer) -> None:
    own = host.folder / "tls"
    shutil.copytree(host.certificates, own)
    local = Host(host.folder, own)
    async with running(read_config(local.write(local.stated(server.port)))) as (forwarder, client):
        await client.post("/v1/logs", content=request("before"), headers=PROTOBUF)
        assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
        (own / "agents" / "acme.web-1.pem").write_text("broken")
        forwarder.reload()
        await client.post("/v1/logs", content=request("meanwhile"), headers=PROTOBUF)
        assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0), "the old one stays while the new is broken"
        shutil.copytree(host.certificates, own, dirs_exist_ok=True)
        forwarder.reload()
        await client.post("/v1/logs", content=request("after"), headers=PROTOBUF)
        assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
    assert lines_of(server.journal.bodies()) == ["before", "meanwhile", "after"]
    assert TOKEN not in str(forwarder.status.status())


async def test_the_configured_policy_masks_and_is_read_anew(host: Host, server: TinyServer) -> None:
    key = host.folder / "masking.key"
    key.write_text(MaskingKey(b"k" * KEY_BYTES).text)
    key.chmod(0o600)
    policy = host.folder / "masking.yml"
    policy.write_text("version: 1\npatterns:\n  - {name: mail, kind: email, action: token}\n")
    first = policy.read_bytes()
    stated = host.stated(server.port, in_flight=1)
    stated["masking"] = {"key": str(key), "policy": str(policy)}
    async with running(read_config(host.write(stated))) as (forwarder, client):
        for line in ("from alice@example.org", "again alice@example.org"):
            assert (await client.post("/v1/logs", content=request(line), headers=PROTOBUF)).status_code == 200
        policy.write_text("no policy")
        forwarder.reload()
        assert "masking policy" in forwarder.meter.troubles()
        third = request("third alice@example.org")
        assert (await client.post("/v1/logs", content=third, headers=PROTOBUF)).status_code == 200
        assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
        assert forwarder.status.status()["masked"]["records"] == 3
        names = {"policy": sha256(first).hexdigest(), "key": MaskingKey(b"k" * KEY_BYTES).fingerprint}
        assert forwarder.status.status()["masking"] == names, "of the policy that is in force"
        assert 'trustsoc_forwarder_masked_total{what="records"} 3' in forwarder.status.metrics()
    lines = lines_of(server.journal.bodies())
    assert not any("alice" in line for line in lines)
    assert len({line.split()[1] for line in lines}) == 1, "one token for one address, also while the policy is broken"
    with pytest.raises(ConfigError, match="masking"):
        Forwarder(read_config(host.write(stated)))
