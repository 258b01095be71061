"""The demo's agent: enrolled by a one-time token, run as on any host, asked for a sign of life, and gone afterwards.

It is `trustsoc-agent` itself in two folders of the data directory: collector, forwarder with its spool, controller.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agent.child import die_with_parent
from agent.collector import CollectorError, CollectorProfile, find_binary, render_profile
from agent.controller.identity import IdentityError, IdentityFolder
from agent.installation.enrolment import Enrolling, enrol_host
from agent.installation.overview import forwarder_status
from agent.installation.places import InstallationError, Places, is_running
from agent.installation.settings_files import Choices
from agent.jobs import JobRefused, verify_result
from cluster.client import path_segment
from cluster.command_error import CommandError
from cluster.demo import DemoSite
from cluster.intrusion import FILES, HOST
from cluster.process_family import MARK_VARIABLE

_ROOT: Final = Path(__file__).resolve().parents[1]
_ANSWER_S: Final = 60.0
_POLL_S: Final = 0.1
# The agent gives its forwarder 45 s to end before it kills it.
_STOP_S: Final = 60.0
_OPEN_STATES: Final = {"awaiting_approval", "queued", "leased", "running"}


class DemoAgent:
    """An agent with a name of its own on the log files that the intrusion writes."""

    def __init__(self, site: DemoSite) -> None:
        self._site = site
        self._home = site.data / "demo-agent"
        self._places = Places(self._home / "settings", self._home / "state")
        self._name = f"demo-{secrets.token_hex(3)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._ping: dict[str, Any] = {}

    def start(self, progress: Callable[[str], None]) -> None:
        """Returns when it runs and has answered a PING. Raises CommandError with its own last words."""
        try:
            find_binary()
        except CollectorError as error:
            raise CommandError(str(error)) from error
        progress(f"enrolling the agent {self._name} by a one-time token")
        self._clear()
        self._enrol()
        progress("starting the agent: collector, forwarder, controller")
        self._process = self._started()
        self._ping = self._pinged()

    def account(self) -> dict[str, Any]:
        """Its name, the PING with the verified result, and the forwarder's books."""
        books = forwarder_status(self._places) or {}
        names = ("accepted", "stored", "duplicate", "rejected", "in_flight")
        return {"agent": self._name, "ping": self._ping, "books": {name: books.get(name) for name in names}}

    def stop(self) -> None:
        """Lets it send what it holds, ends it, and takes its identity away here and at the server."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._home.exists():
            self._clear()

    def _clear(self) -> None:
        """Removes the folders, also those of a demo that was killed, and the agent that they were of."""
        if is_running(self._places):
            raise CommandError(f"the agent of another demo runs on {self._home}: wait until it has ended")
        with contextlib.suppress(IdentityError, CommandError):
            name = IdentityFolder(self._places.state).read().agent
            # The cluster may be what failed; the agent then lives on with it, without its keys.
            self._site.client.post(f"/api/agents/{path_segment(name)}/revoke", {})
        shutil.rmtree(self._home, ignore_errors=True)

    def _enrol(self) -> None:
        places, folder = self._places, self._site.folder
        self._home.mkdir(mode=0o700)
        places.settings.mkdir(mode=0o755)
        port = _free_port()
        tail = tuple(str(folder / name) for name in FILES)
        # An enrolment keeps settings that are there. The files appear after the collector does, so each is to be read
        # from its first line, and the host of the story is not this one.
        profile = CollectorProfile(tail, f"http://127.0.0.1:{port}", HOST, start_at="beginning")
        places.collector.write_text(render_profile(profile), encoding="utf-8")
        wanted = {"agent": self._name, "hours": 1, "note": "demo", "labels": {"role": "demo"}}
        token = self._site.client.post("/api/agent-tokens", wanted)["token"]
        # Root stays root, also where the account of an installed agent is.
        user = "root" if os.geteuid() == 0 else ""
        authority = self._site.data / "tls" / "authority.pem"
        try:
            enrol_host(places, Enrolling(self._site.agent_url, authority, token, self._name, user, Choices(port, tail)))
        except InstallationError as error:
            raise CommandError(f"the demo's agent was not enrolled: {error}") from error

    def _started(self) -> subprocess.Popen[bytes]:
        folders = ["--settings", str(self._places.settings), "--state", str(self._places.state)]
        # The cluster's variables hold its secrets. The mark is what finds a process that stayed behind.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name == MARK_VARIABLE or not name.startswith(("TRUSTSOC_", "RAY_"))
        }
        with (self._home / "agent.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "agent.cli", "run", *folders],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env=environment,
                # Ctrl-C goes to the demo alone, which keeps the order: the agent ends before what it sends to.
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509  # only system calls, made ready before the fork
            )

    def _pinged(self) -> dict[str, Any]:
        """A PING, which the controller answers once its collector reads the files."""
        client = self._site.client
        made = client.post("/api/jobs", {"agent": self._name, "type": "PING", "args": {"echo": "demo"}})["job"]
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            job = client.get(f"/api/jobs/{path_segment(made['job_id'])}")
            if job["state"] not in _OPEN_STATES:
                return self._verified(job)
            time.sleep(_POLL_S)
        raise CommandError(f"the demo's agent did not answer; the end of its log:\n{self._log()}")

    def _verified(self, job: dict[str, Any]) -> dict[str, Any]:
        """What is shown of the job, once its result is good. Raises CommandError."""
        key = IdentityFolder(self._places.state).result_key().public_key()
        try:
            result = verify_result(str(job["result"]).encode(), str(job["result_signature"]), key, self._name)
        except JobRefused as refusal:
            raise CommandError(f"the result of the PING is not what the agent signed: {refusal}") from refusal
        if result.state != "succeeded":
            raise CommandError(f"the PING {result.state} ({result.reason}): {result.detail}\n{self._log()}")
        return {
            "job_id": str(result.job),
            "state": result.state,
            "output": result.output.strip(),
            "milliseconds": result.ended_at - result.started_at,
            "signature": job["result_signature"],
        }

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return (self._home / "agent.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
