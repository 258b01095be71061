"""What the agent remembers of the jobs it was given: started, how far, how they ended, whether the server knows.

An append-only journal of one line an event (CRC-32 in hex, a space, canonical JSON), each synced before the step that
it announces. A job is remembered for a day beyond its expiry, so no repetition of it is ever run. A tail that a crash
cut off is dropped: nothing had happened yet. Damage anywhere else costs memory, so what was issued before is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from agent.canonical import NotCanonical, canonical, read_canonical
from agent.controller.durable import private_folder, sync_folder, write_whole
from agent.jobs import Job, read_job

MOST_JOBS: Final = 10_000
_KEPT_AFTER_EXPIRY_MS: Final = 86_400_000
_MOST_LINE: Final = 2_097_152
_COMPACT_BYTES: Final = 4_194_304

FinalState = Literal["succeeded", "failed", "rejected"]


class MemoryFull(Exception):
    """So many jobs are remembered that no further one may be started."""


class JournalBusy(RuntimeError):
    """Another controller uses this journal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended. Times in milliseconds since the epoch; `reason` is a machine word, empty when there is none."""

    state: FinalState
    reason: str
    detail: str
    output: str
    output_truncated: bool
    started_at: int
    ended_at: int
    data: dict[str, Any]


@dataclass(slots=True)
class RememberedJob:
    """One job: `text` is its canonical form, `checkpoint` the last that its executor noted, None before the first."""

    id: UUID
    text: str
    type: str
    idempotency_key: str
    started_at: int
    expires_at: int
    lease: UUID
    attempt: int
    checkpoint: dict[str, Any] | None = None
    outcome: Outcome | None = None
    acknowledged: bool = False

    @property
    def job(self) -> Job:
        """The job itself; its signature was verified before it was remembered."""
        return read_job(self.text.encode())


@dataclass(slots=True)
class _Memory:
    jobs: dict[UUID, RememberedJob] = field(default_factory=dict)
    refuse_issued_before: int = 0
    forgotten_until: int = 0


class ExecutedJobs:
    """The journal in a folder that this process alone uses. Raises JournalBusy; OSError when the disk refuses.

    After an OSError nothing of that event is in the journal or in memory.
    """

    def __init__(self, folder: Path, now_ms: int) -> None:
        private_folder(folder)
        self._path = folder / "jobs.journal"
        self._lock = os.open(folder / "jobs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise JournalBusy(f"another controller uses {folder}") from error
        self.damaged = False
        self._memory = self._read(now_ms)
        self._file = -1
        self._bytes = 0
        self._compact(now_ms)

    def close(self) -> None:
        """Gives the journal up; idempotent."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def find(self, job_id: UUID) -> RememberedJob | None:
        """The job of that id, if it was ever started or rejected here."""
        return self._memory.jobs.get(job_id)

    def find_key(self, idempotency_key: str) -> RememberedJob | None:
        """The job of that idempotency key."""
        jobs = self._memory.jobs.values()
        return next((known for known in jobs if known.idempotency_key == idempotency_key), None)

    def forgotten(self, job: Job) -> bool:
        """Whether the job may have been run by one whose memory is gone: it must not be run."""
        memory = self._memory
        return job.issued_at < memory.refuse_issued_before or job.expires_at <= memory.forgotten_until

    def unfinished(self) -> list[RememberedJob]:
        """Jobs that were started and have not ended, oldest first."""
        return [known for known in self._memory.jobs.values() if known.outcome is None]

    def unacknowledged(self) -> list[RememberedJob]:
        """Jobs that ended and whose result the server has not taken yet, oldest first."""
        return [known for known in self._memory.jobs.values() if known.outcome and not known.acknowledged]

    def starts(self, job_type: str) -> list[int]:
        """When jobs of the type were started, oldest first, in ms; rejected ones do not count."""
        jobs = self._memory.jobs.values()
        ran = (known for known in jobs if known.type == job_type and _ran(known))
        return sorted(known.started_at for known in ran)

    def start(self, job: Job, *, lease: UUID, attempt: int, now_ms: int) -> RememberedJob:
        """Remembers, durably, that the job is about to be run or rejected. Raises MemoryFull."""
        if len(self._memory.jobs) >= MOST_JOBS:
            self._compact(now_ms)
        if len(self._memory.jobs) >= MOST_JOBS:
            raise MemoryFull(f"{MOST_JOBS} jobs are remembered until they expire")
        known = RememberedJob(
            id=job.id,
            text=job.canonical().decode(),
            type=job.type,
            idempotency_key=job.idempotency_key,
            started_at=now_ms,
            expires_at=job.expires_at,
            lease=lease,
            attempt=attempt,
        )
        self._append(_started(known))
        self._memory.jobs[job.id] = known
        return known

    def lease(self, known: RememberedJob, lease: UUID, attempt: int) -> None:
        """Notes that the job came again, under another lease."""
        if (known.lease, known.attempt) == (lease, attempt):
            return
        self._append({"e": "lease", "id": str(known.id), "lease": str(lease), "attempt": attempt})
        known.lease, known.attempt, known.acknowledged = lease, attempt, False

    def checkpoint(self, known: RememberedJob, data: dict[str, Any]) -> None:
        """Remembers, durably, how far the job is."""
        self._append({"e": "checkpoint", "id": str(known.id), "data": data})
        known.checkpoint = data

    def finish(self, known: RememberedJob, outcome: Outcome) -> None:
        """Remembers, durably, how the job ended."""
        self._append(_finished(known.id, outcome))
        known.outcome = outcome

    def acknowledge(self, known: RememberedJob, now_ms: int) -> None:
        """Notes that the server took the result; its output need not be kept any longer."""
        self._append({"e": "acknowledged", "id": str(known.id)})
        _let_go(known)
        if self._bytes > _COMPACT_BYTES:
            self._compact(now_ms)

    def _append(self, event: dict[str, Any]) -> None:
        line = _line(event)
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            # What is there of the line must not stay before the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._bytes)
            raise
        self._bytes += len(line)

    def _read(self, now_ms: int) -> _Memory:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return _Memory()
        memory = _Memory()
        # What follows the last newline never became durable; a line before it did.
        *whole, _torn = lines
        bad = 0
        for number, line in enumerate(whole):
            try:
                _replay(memory, _event(line))
            except (ValueError, KeyError, TypeError):
                # The very last line may be a torn one whose end a crash left on the disk.
                bad += number < len(whole) - 1
        if bad:
            self.damaged = True
            memory.refuse_issued_before = now_ms
            aside = self._path.with_name(f"jobs.damaged-{now_ms}")
            # A second name, not another: a crash here must not leave a journal that knows nothing.
            os.link(self._path, aside)
            sync_folder(aside.parent)
        return memory

    def _compact(self, now_ms: int) -> None:
        memory = self._memory
        past = [known for known in memory.jobs.values() if _forgettable(known, now_ms)]
        for known in past:
            memory.forgotten_until = max(memory.forgotten_until, known.expires_at)
            del memory.jobs[known.id]
        data = b"".join(_line(event) for event in _events(memory))
        write_whole(self._path, data)
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._bytes = len(data)


def _ran(known: RememberedJob) -> bool:
    return known.outcome is None or known.outcome.state != "rejected"


def _forgettable(known: RememberedJob, now_ms: int) -> bool:
    return known.outcome is not None and now_ms > known.expires_at + _KEPT_AFTER_EXPIRY_MS


def _line(event: dict[str, Any]) -> bytes:
    data = canonical(event, most_bytes=_MOST_LINE)
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _event(line: bytes) -> dict[str, Any]:
    checksum, _, data = line.partition(b" ")
    if b"%08x" % zlib.crc32(data) != checksum:
        raise NotCanonical("the checksum is wrong")
    event: dict[str, Any] = read_canonical(data, most_bytes=_MOST_LINE)
    return event


def _started(known: RememberedJob) -> dict[str, Any]:
    at = {"at": known.started_at, "lease": str(known.lease), "attempt": known.attempt}
    return {"e": "started", "id": str(known.id), "job": known.text, **at}


def _let_go(known: RememberedJob) -> None:
    known.acknowledged = True
    if known.outcome is not None and known.outcome.output:
        known.outcome = replace(known.outcome, output="", output_truncated=True)


def _finished(job_id: UUID, outcome: Outcome) -> dict[str, Any]:
    return {
        "e": "finished",
        "id": str(job_id),
        "state": outcome.state,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "output": outcome.output,
        "output_truncated": outcome.output_truncated,
        "started_at": outcome.started_at,
        "ended_at": outcome.ended_at,
        "data": outcome.data,
    }


def _events(memory: _Memory) -> Iterable[dict[str, Any]]:
    yield {"e": "bounds", "issued": memory.refuse_issued_before, "expiring": memory.forgotten_until}
    for known in memory.jobs.values():
        yield _started(known)
        if known.outcome is None:
            if known.checkpoint is not None:
                yield {"e": "checkpoint", "id": str(known.id), "data": known.checkpoint}
            continue
        yield _finished(known.id, known.outcome)
        if known.acknowledged:
            yield {"e": "acknowledged", "id": str(known.id)}


def _replay(memory: _Memory, event: dict[str, Any]) -> None:
    kind = event.pop("e")
    if kind == "bounds":
        memory.refuse_issued_before, memory.forgotten_until = event["issued"], event["expiring"]
        return
    job_id = UUID(event.pop("id"))
    if kind == "started":
        job = read_job(event["job"].encode())
        memory.jobs[job_id] = RememberedJob(
            id=job_id,
            text=event["job"],
            type=job.type,
            idempotency_key=job.idempotency_key,
            started_at=event["at"],
            expires_at=job.expires_at,
            lease=UUID(event["lease"]),
            attempt=event["attempt"],
        )
        return
    _CHANGES[kind](memory.jobs[job_id], event)


def _changed_lease(known: RememberedJob, event: dict[str, Any]) -> None:
    known.lease, known.attempt, known.acknowledged = UUID(event["lease"]), event["attempt"], False


def _changed_checkpoint(known: RememberedJob, event: dict[str, Any]) -> None:
    known.checkpoint = event["data"]


def _changed_outcome(known: RememberedJob, event: dict[str, Any]) -> None:
    known.outcome = Outcome(**event)


def _changed_acknowledged(known: RememberedJob, _event: dict[str, Any]) -> None:
    _let_go(known)


_CHANGES: Final[dict[str, Callable[[RememberedJob, dict[str, Any]], None]]] = {
    "lease": _changed_lease,
    "checkpoint": _changed_checkpoint,
    "finished": _changed_outcome,
    "acknowledged": _changed_acknowledged,
}
