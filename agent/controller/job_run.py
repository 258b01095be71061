"""One job while it runs: its output, its checkpoints, and the messages that keep its lease."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from agent.controller.control_client import Refused, Unreachable
from agent.controller.said import printable
from agent.executed import ExecutedJobs, RememberedJob
from agent.host_policy import HostPolicy
from agent.jobs import MOST_OUTPUT, Job

STREAM_EVERY_S: Final = 1.0
KEEP_LEASE_EVERY_S: Final = 15.0


class JobOutput:
    """The first 65,536 bytes (in UTF-8) of what a job says; safe for threads."""

    def __init__(self) -> None:
        self._text = ""
        self._left = MOST_OUTPUT
        self._lock = threading.Lock()
        self.truncated = False

    @property
    def text(self) -> str:
        """All that was kept."""
        with self._lock:
            return self._text

    def write(self, text: str) -> None:
        """Adds what there is room for; control characters other than newline and tab become U+FFFD."""
        data = printable(text).encode()
        with self._lock:
            kept = data[: self._left].decode("utf-8", "ignore")
            self.truncated = self.truncated or len(data) > self._left
            self._left = 0 if self.truncated else self._left - len(data)
            self._text += kept


class HostJobRun:
    """What an executor may use; the journal makes its checkpoints durable."""

    def __init__(
        self,
        known: RememberedJob,
        policy: HostPolicy,
        journal: ExecutedJobs,
        clock: Callable[[], int],
        stopping: threading.Event,
    ) -> None:
        self.job: Job = known.job
        self.policy = policy
        self.lease = str(known.lease)
        self.output = JobOutput()
        self._known = known
        self._journal = journal
        self._clock = clock
        self._stopping = stopping

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint of this job."""
        return self._known.checkpoint

    def write(self, text: str) -> None:
        """Adds a line to the output."""
        self.output.write(text if text.endswith("\n") else text + "\n")

    def note(self, data: dict[str, Any]) -> None:
        """Makes a checkpoint durable."""
        self._journal.checkpoint(self._known, data)

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""
        return self._clock()

    def wait(self, seconds: float) -> bool:
        """Waits; True when the controller is asked to stop meanwhile."""
        return self._stopping.wait(seconds)


class Post(Protocol):
    """How an object is sent to the Control API; raises Unreachable, Refused."""

    def __call__(self, path: str, body: dict[str, Any], *, timeout_s: float = ...) -> dict[str, Any]:
        """The answer's object."""


class OutputStream:
    """While it is entered: what a job says goes to the server, and a message now and then keeps the lease.

    A server that cannot be reached, or that gave the lease to another attempt, stops nothing: the result tells it all.
    """

    def __init__(self, run: HostJobRun, post: Post, *, first_after_s: float = STREAM_EVERY_S) -> None:
        self._run = run
        self._post = post
        self._pace = first_after_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._stream, name="job-output", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(KEEP_LEASE_EVERY_S)

    def _stream(self) -> None:
        sent, quiet = 0, 0.0
        while not self._done.wait(self._pace):
            fresh = self._run.output.text[sent:]
            quiet += self._pace
            if not fresh and quiet < KEEP_LEASE_EVERY_S:
                continue
            quiet = 0.0
            body = {"job": str(self._run.job.id), "lease": self._run.lease, "offset": sent, "data": fresh}
            with contextlib.suppress(Unreachable, Refused):
                self._post("/agent/jobs/output", body, timeout_s=KEEP_LEASE_EVERY_S)
                sent += len(fresh)
