"""`trustsoc-agent run`: forwarder and controller as children, started again when they end, stopped in the right order.

The collector is the controller's child, which tries its configurations out. All of them write to this process's
standard error. Signals wait until they are asked for: no handler can come between two steps.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.child import die_with_parent
from agent.controller.durable import write_whole
from agent.installation.account import owner_of
from agent.installation.places import InstallationError, Places, RunLock, provide_token

logger = logging.getLogger("agent.run")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_WELL_S: Final = 60.0
_UNUSABLE: Final = 2
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Program:
    """A child: its name in the log, its command, and how long it may take to end once it is asked to (seconds).

    `pid_file` gets its process id. One with `ends_all` has the whole agent end when it ends well by itself.
    """

    name: str
    argv: tuple[str, ...]
    stop_s: float
    pid_file: Path | None = None
    ends_all: bool = False


class Child:
    """One program that is kept running. Times are of the monotonic clock, in seconds."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.starts = 0
        self.last_status: int | None = None
        self.due = 0.0
        self._failures = 0
        self._began = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, now: float) -> None:
        """Starts it; a command that cannot be run counts as one that ended."""
        self.starts += 1
        self._began = now
        try:
            # Its own session: what a terminal sends goes to the supervisor alone, which keeps the order.
            self._process = subprocess.Popen(
                self.program.argv,
                stdin=subprocess.DEVNULL,
                cwd=_ROOT,
                start_new_session=True,
                preexec_fn=die_with_parent(_SIGNALS),  # noqa: PLW1509  # only system calls, made ready before the fork
            )
        except (OSError, subprocess.SubprocessError) as error:
            logger.error("%s cannot be started: %s", self.program.name, error)
            self._ended(127, now)
            return
        logger.info("%s runs as process %d", self.program.name, self._process.pid)
        if self.program.pid_file is not None:
            _note(self.program.pid_file, f"{self._process.pid}\n".encode())

    def reap(self, now: float) -> bool:
        """Whether it has ended since it was last asked; then it is due again after a pause."""
        status = self._process.poll() if self._process is not None else None
        if status is None:
            return False
        self._ended(status, now)
        return True

    def tell(self, number: signal.Signals) -> None:
        """Sends it a signal where it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Asks it to end, and ends it when it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            status = self._process.wait(self.program.stop_s)
        except subprocess.TimeoutExpired:
            logger.error("%s did not end within %g s: it is killed", self.program.name, self.program.stop_s)
            self._process.kill()
            status = self._process.wait()
        logger.info("%s ended with %d", self.program.name, status)
        self._ended(status, time.monotonic())

    def _ended(self, status: int, now: float) -> None:
        self._process = None
        self.last_status = status
        if self.program.pid_file is not None:
            # A number that another process gets must not be signalled.
            self.program.pid_file.unlink(missing_ok=True)
        self._failures = 1 if now - self._began >= _WELL_S else self._failures + 1
        self.due = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10))


class Supervisor:
    """Keeps programs running, in their order, until it is asked to stop; then stops them in the opposite order."""

    def __init__(self, places: Places, programs: Sequence[Program]) -> None:
        self._places = places
        self._children = [Child(program) for program in programs]
        self._started_at = time.time()

    def run(self) -> int:
        """The exit status: 0 after a signal or when a program asked for a new start, 2 when one cannot be used.

        Raises AgentBusy when another agent runs here, OSError.
        """
        lock = RunLock(self._places)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            provide_token(self._places)
            return self._supervise()
        finally:
            for child in reversed(self._children):
                child.stop()
            with contextlib.suppress(OSError):
                self._places.record.unlink(missing_ok=True)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            lock.release()

    def _supervise(self) -> int:
        while True:
            now = time.monotonic()
            changed = False
            for child in self._children:
                if child.reap(now):
                    changed = True
                    status = self._judge(child)
                    if status is not None:
                        return status
                if child.pid is None and child.due <= now:
                    child.start(now)
                    changed = True
            if changed:
                self._write_record()
            waits = [max(0.05, child.due - now) for child in self._children if child.pid is None]
            came = signal.sigtimedwait(_SIGNALS, min([1.0, *waits]))
            if came is None or came.si_signo == signal.SIGCHLD:
                continue
            if came.si_signo == signal.SIGHUP:
                self._reload()
                continue
            logger.info("stopping: %s", signal.Signals(came.si_signo).name)
            return 0

    def _judge(self, child: Child) -> int | None:
        """The exit status when the end of a child is to be the end of all, else None."""
        name, status = child.program.name, child.last_status
        if status == 0 and child.program.ends_all:
            logger.warning(
                "%s ended to be started anew: so does the agent, for what started it to start it again", name
            )
            return 0
        if status == _UNUSABLE and child.starts == 1:
            logger.error("%s cannot be used as it is set up: the agent ends; `trustsoc-agent doctor` says more", name)
            return _UNUSABLE
        pause = child.due - time.monotonic()
        logger.error("%s ended with %s: it is started again in %.0f s", name, status, max(0.0, pause))
        return None

    def _reload(self) -> None:
        for child in self._children:
            if child.program.pid_file is not None:
                child.tell(signal.SIGHUP)

    def _write_record(self) -> None:
        _note(self._places.record, json_record(self._started_at, self._children))


def _note(path: Path, data: bytes) -> None:
    """Writes what is good to know and not needed to run: a full disk must not end what could empty it."""
    try:
        write_whole(path, data)
    except OSError as error:
        logger.error("%s cannot be written: %s", path, error.strerror)


def json_record(started_at: float, children: Sequence[Child]) -> bytes:
    """What `status` reads: this process, and of each child its id (null: it is down), starts and last exit status."""
    import json

    programs: list[dict[str, Any]] = [
        {"name": child.program.name, "pid": child.pid, "starts": child.starts, "last_status": child.last_status}
        for child in children
    ]
    return json.dumps({"pid": os.getpid(), "started_at": round(started_at, 3), "programs": programs}).encode()


def programs_of(places: Places) -> list[Program]:
    """What runs on a host, in the order of starting: who sends comes after who takes."""
    python = sys.executable
    return [
        Program(
            "forwarder",
            (python, "-m", "agent.forwarder", "--config", str(places.forwarder)),
            stop_s=45.0,
            pid_file=places.forwarder_pid,
        ),
        Program(
            "controller",
            (python, "-m", "agent.controller", "--config", str(places.controller)),
            stop_s=30.0,
            ends_all=True,
        ),
    ]


def run_agent(places: Places) -> int:
    """Runs the agent that is enrolled here: see Supervisor.run. Raises InstallationError, OSError."""
    if not (places.state / "identity.json").exists():
        raise InstallationError(f"{places.state} holds no identity: `trustsoc-agent enroll` makes one")
    owner = owner_of(places.state)
    if owner is not None:
        # Whatever root made there, the agent could not open afterwards.
        raise InstallationError(
            f"{places.state} is {owner.name}'s: `systemctl start trustsoc-agent`, or run it as {owner.name}"
        )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return Supervisor(places, programs_of(places)).run()
