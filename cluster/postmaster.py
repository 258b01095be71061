"""One run of PostgreSQL's server process: start it safely after any kind of death, wait for it, end it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster.postgres_orphans import await_orphans, pid_file_lines
from cluster.unprivileged import RunAs, identity, plain_environment

_POLL_SECONDS = 0.02
_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_LOG_TAIL_BYTES = 2000

# What is logged must not hold statements or parameters: they carry customers' data and key digests.
SETTINGS: dict[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length_on_error": "0",
}


class PostmasterError(Exception):
    """The server did not start; the message has the end of its log."""


class Postmaster:
    """Starts the server in the calling thread, which must live as long as the server should."""

    def __init__(self, binaries: Path, data: Path, port: int, log_path: Path, run_as: RunAs | None) -> None:
        self._program = binaries / "postgres"
        self._data = data
        self._port = port
        self._log_path = log_path
        self._run_as = run_as
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def launch(self, timeout_s: float, stopping: threading.Event) -> None:
        """Returns when the server accepts connections, or when `stopping` is set. Raises PostmasterError.

        Right after a crash the orphans of the old server may hold its memory for a moment, so failures are retried
        until the time is over.
        """
        deadline = time.monotonic() + timeout_s
        pause = _RETRY_SECONDS
        while not stopping.is_set():
            await_orphans(self._data, deadline - time.monotonic(), stopping)
            self._process = self._spawn()
            if self._await_ready(deadline, stopping):
                return
            if time.monotonic() + pause > deadline:
                self.kill()
                raise PostmasterError(f"PostgreSQL did not start in {timeout_s:g} s: {self._log_tail()}")
            stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    def wait(self, timeout_s: float) -> int | None:
        """Waits for the end of the server and returns its exit code (negative for a signal); None while it runs."""
        if self._process is None:
            return 0
        if not hasattr(os, "pidfd_open"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout_s)
            return None
        # Popen's own wait with a timeout looks twenty times a second.
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self._process.pid)
            try:
                # Not select(): a process that holds a thousand connections has numbers that it cannot take.
                ended = select.poll()
                ended.register(descriptor, select.POLLIN)
                ended.poll(timeout_s * 1000)
            finally:
                os.close(descriptor)
        return self._process.poll()

    def interrupt(self) -> None:
        """Fast shutdown: open transactions roll back, a checkpoint is written."""
        self._signal(signal.SIGINT)

    def quit(self) -> None:
        """Immediate shutdown: as a crash, recovered from at the next start."""
        self._signal(signal.SIGQUIT)

    def kill(self) -> None:
        """Ends a server that does not answer, and its process entry."""
        self._signal(signal.SIGQUIT)
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # does nothing for a process that has ended

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [str(self._program), "-D", str(self._data)]
        for name, value in (SETTINGS | {"port": str(self._port)}).items():
            command += ["-c", f"{name}={value}"]
        descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                command,
                cwd="/",
                env=plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # Ctrl-C in the terminal is for us; we end the server in our own order
                preexec_fn=_bind_to_parent(),  # noqa: PLW1509 # it makes two system calls and takes no lock
                **identity(self._run_as),
            )
        finally:
            os.close(descriptor)

    def _await_ready(self, deadline: float, stopping: threading.Event) -> bool:
        process = self._process
        assert process is not None  # noqa: S101 # launch() has just set it
        while process.poll() is None:
            if stopping.is_set():
                self.interrupt()
                return True
            if self._says_ready(process.pid):
                return True
            if time.monotonic() > deadline:
                return False
            stopping.wait(_POLL_SECONDS)
        return False

    def _says_ready(self, pid: int) -> bool:
        # postmaster.pid: line 1 is the process id, line 8 the state (PostgreSQL's miscadmin.h).
        lines = pid_file_lines(self._data)
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _log_tail(self) -> str:
        return self._log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()


def _bind_to_parent() -> Callable[[], None] | None:
    """What the child does between fork and exec, after its change of user: ask for SIGINT at its parent's death.

    Everything is looked up beforehand, since little is safe to do there. Only Linux has such a signal; elsewhere an
    orphan is ended at the next start.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=False).prctl
    parent = os.getpid()
    number = int(signal.SIGINT)

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)

    return bind
