"""Programs that the controller starts anew and watches: a service of the host, or a child of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from agent.child import die_with_parent
from agent.controller.said import LineLog, printable, without_values

collector_log = logging.getLogger("trustsoc.collector")

_COMMAND_S: Final = 60.0
_LOG_LINES: Final = 40
_LINE: Final = 2048
_LAST_WORDS_S: Final = 5.0
_READY: Final = "Everything is ready"


class ServiceTrouble(Exception):
    """The program could not be started; the message holds its own last words."""


class Service(Protocol):
    """A program that reads its configuration, or its own code, when it starts."""

    def restart(self) -> None:
        """Returns when it was started. Raises ServiceTrouble."""

    def alive(self) -> bool:
        """Whether it runs now."""

    def keep(self) -> None:
        """Starts it again where that is the controller's duty and it has ended."""

    def stop(self) -> None:
        """Ends it where it would end with the controller anyway."""


def healthy_for(service: Service, seconds: float, wait: Callable[[float], bool]) -> str:
    """Empty when the service was alive all that time, else what was wrong. `wait` is True when it must end early."""
    left = seconds
    while True:
        if not service.alive():
            return f"it did not stay alive for {seconds:g} s"
        if left <= 0:
            return ""
        if wait(min(0.5, left)):
            return "the controller was stopped before its health was known"
        left -= 0.5


def run_command(argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = _COMMAND_S) -> str:
    """Empty when the command succeeded, else its last words. It runs as whom this process acts, and cannot go back."""
    acts = os.geteuid() != os.getuid()
    try:
        done = subprocess.run(
            list(argv),
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            user=os.geteuid() if acts else None,
            group=os.getegid() if acts else None,
        )
    except subprocess.TimeoutExpired:
        return f"{argv[0]} did not end within {timeout_s:g} s"
    except OSError as error:
        return f"{argv[0]} cannot be run: {error.strerror}"
    if done.returncode == 0:
        return ""
    return f"{argv[0]} ended with {done.returncode}: {done.stdout[-1500:].decode('utf-8', 'replace').strip()}"


class CommandService:
    """A service of the host, by the commands that its owner configured."""

    def __init__(self, restart: Sequence[str], alive: Sequence[str]) -> None:
        self._restart = tuple(restart)
        self._alive = tuple(alive)

    def restart(self) -> None:
        """Runs the command that restarts it (without such a command: nothing). Raises ServiceTrouble."""
        trouble = run_command(self._restart) if self._restart else ""
        if trouble:
            raise ServiceTrouble(trouble)

    def alive(self) -> bool:
        """Whether the command that asks for it succeeds (without such a command: always)."""
        return not self._alive or not run_command(self._alive, timeout_s=10.0)

    def keep(self) -> None:
        """The host's own supervisor does."""

    def stop(self) -> None:
        """It lives on without the controller."""


class ChildService:
    """A collector that is a child of the controller: it dies with it and is started again when it ends.

    What it writes is in the controller's log, bounded, without control characters and the values of its variables.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], *, ready_s: float = 20.0) -> None:
        self._argv = tuple(argv)
        self._env = dict(env)
        self._ready_s = ready_s
        self._process: subprocess.Popen[str] | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._ready = threading.Event()
        self._reader: threading.Thread | None = None

    def restart(self) -> None:
        """Returns when the pipeline runs. Raises ServiceTrouble with the collector's own words."""
        self.stop()
        self._log.clear()
        self._ready = threading.Event()
        try:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                preexec_fn=die_with_parent(),  # noqa: PLW1509  # only a system call, made ready before the fork
            )
        except OSError as error:
            raise ServiceTrouble(f"{self._argv[0]} cannot be run: {error.strerror}") from error
        self._reader = threading.Thread(target=self._read, args=(self._process, self._ready), daemon=True)
        self._reader.start()
        if not self._ready.wait(self._ready_s) or not self.alive():
            self.stop()
            raise ServiceTrouble("the collector did not start: " + "\n".join(list(self._log)[-10:])[-1500:])

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def keep(self) -> None:
        """Starts it again when it has ended; trouble with that shows in `alive`."""
        if not self.alive():
            with contextlib.suppress(ServiceTrouble):
                self.restart()

    def stop(self) -> None:
        """Lets it send what it holds, then ends it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            # Its last words too; a program of its own may hold the pipe open for longer.
            self._reader.join(_LAST_WORDS_S)

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        if process.stderr is None:
            return
        log = LineLog(collector_log.info, time.monotonic)
        with process.stderr:
            # A line that has no end is read in pieces instead of into memory.
            while line := process.stderr.readline(_LINE):
                text = without_values(printable(line.rstrip("\n")), self._env)
                self._log.append(text)
                log.line(text)
                if _READY in line:
                    ready.set()
        log.end()
        # An end is news too: nobody needs to wait any longer.
        status = process.wait()
        if process is self._process:
            collector_log.warning("the collector ended by itself with %d", status)
        ready.set()


def environment(file: str) -> dict[str, str]:
    """The variables of a child: PATH, and the lines NAME=value of the file. Raises OSError."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {"PATH": os.environ.get("PATH", os.defpath)} | {name.strip(): value for name, value in pairs}
