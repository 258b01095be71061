"""`trustsoc up --detach`: the same `up` in a session of its own, which reports to its parent until it is ready.

The report travels through a pipe as JSON lines, {"step"}, {"error"} or {"ready"}: the first administrator's key must
reach the terminal of the person who asked, and no log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cluster.command_error import CommandError
from cluster.data_directory import DataDirectory
from cluster.lifecycle import Progress

_LOG_TAIL_BYTES = 2000


class Ready(msgspec.Struct, frozen=True):
    """What a detached start says in the end. `new_admin_key` is set on the first start only."""

    base_url: str
    new_admin_key: str | None = None


class ParentReport:
    """The child's end of the pipe. A parent that has gone is no reason to stop."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
        os.set_inheritable(descriptor, False)

    def step(self, text: str) -> None:
        self._write({"step": text})

    def error(self, text: str) -> None:
        self._write({"error": text})

    def ready(self, ready: Ready) -> None:
        """The last word: the parent stops listening."""
        self._write({"ready": msgspec.to_builtins(ready)})
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()

    def _write(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._pipe.write(json.dumps(message) + "\n")


def start_detached(directory: DataDirectory, options: Sequence[str], progress: Progress) -> Ready:
    """Starts `trustsoc up` with the options in the background and waits until it is ready; raises CommandError.

    A caller that gives up waiting (StopRequested, Ctrl-C) takes the child down with it.
    """
    directory.create()
    log_path = directory.path / "up.log"
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, encoding="utf-8") as pipe:
        try:
            child = _spawn(directory, options, log_path, write_end)
        finally:
            os.close(write_end)
        try:
            return _listen(pipe, child, log_path, progress)
        except BaseException:
            child.terminate()
            child.wait()
            raise


def _spawn(directory: DataDirectory, options: Sequence[str], log_path: Path, write_end: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cluster.cli", "up", "--data-dir", str(directory.path)]
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [*command, "--report-fd", str(write_end), *options],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            pass_fds=(write_end,),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _listen(pipe: Any, child: subprocess.Popen[bytes], log_path: Path, progress: Progress) -> Ready:
    for line in pipe:
        message = json.loads(line)
        if "step" in message:
            progress(message["step"])
        elif "error" in message:
            child.wait()
            raise CommandError(message["error"])
        elif "ready" in message:
            return msgspec.convert(message["ready"], Ready)
    code = child.wait()
    raise CommandError(
        f"`trustsoc up` ended with exit code {code} before it was ready; {log_path} ends with:\n{_tail(log_path)}"
    )


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace").strip()
