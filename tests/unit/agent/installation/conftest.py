"""A host on which an agent is enrolled by the command itself, at a server of real TLS; and the ways to run it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.cli import main
from agent.installation.places import Places
from tests.unit.agent.controller.control_server import AGENT, ControlServer, control_server
from tests.unit.agent.forwarder.server import TinyServer


class KnownResultKey:
    """The public half of the agent's key, where the server has a whole one in other tests."""

    def __init__(self, text: str) -> None:
        self._raw = base64.b64decode(text)

    def public_key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self._raw)


@dataclass(frozen=True, slots=True)
class Site:
    """A Control API and a place to send logs to, behind one authority; `answer` changes what enrolment is answered."""

    control: ControlServer
    ingest: TinyServer
    folder: Path
    answer: dict[str, Any]

    def hook(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if path != "/agent/enroll":
            return None
        status, answer = self.control._enrolled(body)
        self.control.result_key = KnownResultKey(body["result_key"])
        urls = {"ingest": f"https://127.0.0.1:{self.ingest.port}", "control": self.control.url}
        return status, answer | {"endpoints": urls, "poll_s": 1} | self.answer if status == 201 else answer


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "server"
    folder.mkdir()
    with control_server(folder) as control:
        (folder / "server.key").write_bytes((folder / "server.pem").read_bytes())
        ingest = TinyServer(folder)
        ingest.keys = {control.signing_key.key_id: control.signing_key.secret}
        made = Site(control, ingest, folder, {})
        control.hook = made.hook
        (folder / "enrolment").write_text("tse_good\n")
        yield made
        ingest.close()


@dataclass(frozen=True, slots=True)
class Host:
    """A host with the agent's folders; `command` is what an operator types."""

    places: Places
    site: Site
    logs: Path
    port: int

    def command(self, *words: str) -> int:
        command, *rest = words
        return main([command, "--settings", str(self.places.settings), "--state", str(self.places.state), *rest])

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def enrol(self, *more: str, tail: bool = False) -> int:
        words = ["enroll", "--server", self.site.control.url, "--authority", str(self.site.folder / "authority.pem")]
        words += ["--token-file", str(self.site.folder / "enrolment"), "--name", AGENT, "--port", str(self.port)]
        return self.command(*words, *(["--tail", f"{self.logs}/*.log"] if tail else []), *more)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def host(tmp_path: Path, site: Site) -> Host:
    logs = tmp_path / "logs"
    logs.mkdir()
    return Host(Places(tmp_path / "settings", tmp_path / "state"), site, logs, free_port())


@dataclass(slots=True)
class Running:
    """`trustsoc-agent run` as a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    host: Host

    @property
    def record(self) -> dict[str, Any]:
        try:
            found = json.loads(self.host.places.record.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def pid(self, name: str) -> int | None:
        for program in self.record.get("programs", []):
            if program["name"] == name:
                return program["pid"]
        return None

    def wait_ready(self) -> None:
        wait_for(self.host.answers, "a forwarder that answers: see the agent's log", 60)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


@pytest.fixture
def run(tmp_path: Path, host: Host) -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def begin() -> Running:
        log = tmp_path / f"agent-{len(started)}.log"
        folders = ["--settings", str(host.places.settings), "--state", str(host.places.state)]
        with log.open("wb") as stream:
            process = subprocess.Popen([sys.executable, "-m", "agent.cli", "run", *folders], stderr=stream)
        started.append(Running(process, log, host))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def is_alive(pid: int) -> bool:
    """Whether the process does anything: one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def descendants(pid: int) -> list[int]:
    """The ids of all processes below one."""
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found += [int(entry), *descendants(int(entry))]
    return found


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)
    return value
