"""What an executor is: one type of job, checked against the host's policy, carried out, and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.executed import FinalState
from agent.host_policy import HostPolicy
from agent.jobs import Job


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, in an executor's words. `reason` is a machine word, `detail` says what happened and where."""

    state: FinalState
    reason: str = ""
    detail: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class JobFailed(Exception):
    """The job could not be done, and nothing is left changed by it."""

    def __init__(self, reason: str, detail: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.data = dict(data or {})


class JobRejected(JobFailed):
    """The job must not be done here: its arguments are wrong or the host's policy says no."""


class ToBeContinued(Exception):
    """The job goes on in the controller that is started next, whose `resume` ends it; the message says why."""


class JobRun(Protocol):
    """What a running job may use of the controller."""

    @property
    def job(self) -> Job:
        """The job, verified."""

    @property
    def policy(self) -> HostPolicy:
        """The host's policy as it was when the job began."""

    @property
    def lease(self) -> str:
        """The lease under which it runs."""

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint of this job, also from before a restart."""

    def write(self, text: str) -> None:
        """Adds to the output: streamed to the server, bounded, control characters replaced."""

    def note(self, data: dict[str, Any]) -> None:
        """Makes a checkpoint durable before the step that it announces."""

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""

    def wait(self, seconds: float) -> bool:
        """Waits; True when the controller is asked to stop meanwhile."""


class Executor(Protocol):
    """One type of job.

    `run` returns how it ended or raises JobRejected or JobFailed, whose words become the result, or ToBeContinued; any
    other exception is a failure with the reason `internal`. With `run.job.dry_run` it says what it would do and
    changes nothing.
    """

    @property
    def type(self) -> str:
        """The type of its jobs."""

    def run(self, run: JobRun) -> Ending:
        """Carries the job out."""

    def resume(self, run: JobRun) -> Ending:
        """Ends a job that a restart of the controller interrupted; `run.checkpoint` says how far it was."""


INTERRUPTED = Ending("failed", "interrupted", "the controller ended while the job ran; it is not run again")


class Arguments:
    """The arguments of a job, read strictly: each of its kind, and none that nobody reads."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self._args = dict(args)

    def text(self, name: str, default: str | None = None, *, most: int = 4096) -> str:
        """A text of 1 to `most` characters (or the default). Raises JobRejected."""
        value = self._args.pop(name, default)
        if type(value) is not str or len(value) > most or (not value and value != default):
            raise JobRejected("bad_arguments", f"{name} must be text of 1 to {most} characters")
        return value

    def number(self, name: str, default: int | None = None, *, least: int = 0, most: int = 2**53 - 1) -> int:
        """An integer between `least` and `most` (or the default). Raises JobRejected."""
        value = self._args.pop(name, default)
        if type(value) is not int or not least <= value <= most:
            raise JobRejected("bad_arguments", f"{name} must be an integer from {least} to {most}")
        return value

    def done(self) -> None:
        """Raises JobRejected when there is an argument that was not asked for."""
        if self._args:
            raise JobRejected("bad_arguments", f"unknown arguments: {', '.join(sorted(self._args))[:200]}")
