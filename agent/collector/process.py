"""The OpenTelemetry Collector as a child process that runs a small profile and dies with its parent."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.child import die_with_parent
from agent.collector.binary import CollectorError, find_binary
from agent.collector.profile import KEY_VARIABLE
from agent.collector.small_profile import CollectorProfile, render_profile

_READY: Final = "Everything is ready"
_LOG_LINES: Final = 200


class Collector:
    """One collector process. Call `start` from a thread that lives on: the child dies with the thread that made it.

    `profile` may also be a configuration as text; `folder` is a private folder for what the program reads.
    `arguments` are further ones of the program (binary.SYNCHRONOUS).
    """

    def __init__(
        self,
        profile: CollectorProfile | str,
        key: str,
        folder: Path,
        *,
        binary: Path | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        if not key:
            raise ValueError("the collector needs an ingest key")
        self._profile = profile
        self._key = key
        self._folder = folder
        self._binary = binary
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._changed = threading.Condition()
        self._ended = False

    def start(self, timeout_seconds: float = 20.0) -> None:
        """Returns when the pipeline runs; raises CollectorError with the collector's own words when it does not."""
        if self._process is not None:
            raise CollectorError("the collector has been started already")
        binary = self._binary or find_binary()
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "collector.yaml"
        profile = self._profile
        text = profile if isinstance(profile, str) else render_profile(profile)
        configuration.write_text(text, encoding="utf-8")
        self._log.clear()
        self._ended = False
        self._process = subprocess.Popen(
            [str(binary), f"--config={configuration}", *self._arguments],
            env={**os.environ, KEY_VARIABLE: self._key},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  # only a system call, made ready before the fork
        )
        self._reader = threading.Thread(target=self._read_log, name="collector-log", daemon=True)
        self._reader.start()
        if not self.wait_for_log(_READY, timeout_seconds):
            self.stop(0.0)
            reason = "stopped" if self._ended else f"was not ready within {timeout_seconds:.0f} s"
            raise CollectorError(f"the collector {reason}; the end of its log:\n{self.log_tail()}")

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Lets the collector send what it holds, then ends it; safe to call at any time."""
        process, self._process = self._process, None
        if process is None:
            return
        if timeout_seconds > 0:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_seconds)
        if process.poll() is None:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()
        if process.stderr is not None:
            process.stderr.close()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def wait_for_log(self, text: str, timeout_seconds: float) -> bool:
        """Waits for the collector to write the text; False when it ended or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._wrote(text), timeout_seconds)
            return self._wrote(text)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines that the collector wrote, without the ingest key."""
        with self._changed:
            text = "\n".join(list(self._log)[-lines:])
        return text.replace(self._key, "[key]")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wrote(self, text: str) -> bool:
        return any(text in line for line in self._log)

    def _read_log(self) -> None:
        process = self._process
        if process is None or process.stderr is None:
            return
        for line in process.stderr:
            with self._changed:
                self._log.append(line.rstrip("\n")[:4096])
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
