"""The one way into the journal, shared by every door: OTLP over HTTP and gRPC, signed, NDJSON, bulk, syslog.

A door decodes its protocol into a `Submission`; the intake makes it durable and says where it stands. Whatever is
refused is raised as a `WireError` with a reason and counted; the door only puts it into its protocol's terms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from actors.metrics import Metrics
from detect.batch import BatchKind
from detect.record import TenantId
from serve.errors import WireError
from store.journal import Appended, Encoding, IdempotencyConflict, JournalEntry, Overloaded
from store.postgres import StorageUnavailable

_KEY_LIMIT = 120  # bytes; the journal holds 128


class Journal(Protocol):
    """Where batches become durable (store.journal.JournalWriter)."""

    async def append(self, entry: JournalEntry) -> Appended: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, as the credential says: the tenant, and the agent's name within it (the id of its key)."""

    tenant: TenantId
    agent: str


@dataclass(frozen=True, slots=True)
class Submission:
    """One batch that a door has checked and counted. `payload` is the body as received, in `encoding`.

    `idempotency_key` is the sender's text for this batch, the same on every retry; empty: the content is the key.
    """

    sender: Sender
    kind: BatchKind
    encoding: Encoding
    payload: bytes
    records: int
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The batch is on disk as `seq` of the tenant's journal; a duplicate stands where its original does."""

    seq: int
    duplicate: bool
    records: int

    @property
    def headers(self) -> dict[str, str]:
        """What every door over HTTP or gRPC tells the sender besides its protocol's own answer."""
        return {"X-Batch-Seq": str(self.seq), "X-Batch-Duplicate": "true" if self.duplicate else "false"}


class Intake:
    """Stores submissions. `hint` tells the detector that there is work; losing one costs a poll interval."""

    def __init__(self, journal: Journal, hint: Callable[[TenantId], None], metrics: Metrics) -> None:
        self._journal = journal
        self._hint = hint
        self._metrics = metrics

    async def store(self, submission: Submission) -> Acknowledgement:
        """Makes the batch durable. Raises WireError, and only that, for whatever keeps it from being stored."""
        digest = hashlib.sha256(submission.payload).digest()
        entry = JournalEntry(
            tenant=submission.sender.tenant,
            agent=submission.sender.agent,
            idempotency_key=_journal_key(submission.idempotency_key, digest),
            digest=digest,
            kind=submission.kind,
            encoding=submission.encoding,
            records=submission.records,
            payload=submission.payload,
            received=datetime.now(UTC),
        )
        with errors_on_the_wire():
            appended = await self._journal.append(entry)
        self._count(submission, appended)
        return Acknowledgement(appended.seq, appended.duplicate, submission.records)

    def refused(self, error: WireError) -> None:
        """Counts a request that no door could accept, by its reason."""
        self._metrics.count("ingest_rejected_requests", reason=error.reason)

    def _count(self, submission: Submission, appended: Appended) -> None:
        if appended.duplicate:
            self._metrics.count("ingest_duplicate_records", submission.records)
            return
        self._metrics.count("ingest_records", submission.records)
        self._metrics.count("ingest_bytes", len(submission.payload))
        self._hint(submission.sender.tenant)


@contextmanager
def errors_on_the_wire() -> Iterator[None]:
    """Errors of the store leave the block as the WireError that every door knows how to say."""
    try:
        yield
    except Overloaded as error:
        detail = "too many batches wait for the journal: retry later"
        raise WireError(503, detail, retry_after_s=_whole(error.retry_after_s)) from error
    except StorageUnavailable as error:
        detail = "the log store is unavailable: retry later"
        raise WireError(503, detail, retry_after_s=_whole(error.retry_after_s)) from error
    except IdempotencyConflict as error:
        detail = "X-Idempotency-Key was used for another body: give each batch a key of its own"
        raise WireError(400, detail, reason="key_reused") from error


def _journal_key(stated: str, digest: bytes) -> bytes:
    if not stated:
        return digest
    key = stated.encode("utf-8", "surrogatepass")
    if len(key) > _KEY_LIMIT:
        raise WireError(400, f"X-Idempotency-Key is longer than {_KEY_LIMIT} bytes")
    return b"key:" + key


def _whole(seconds: float) -> int:
    return max(1, round(seconds))
