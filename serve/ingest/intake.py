"""The one way into the journal, shared by every door: OTLP over HTTP and gRPC, signed, NDJSON, bulk, syslog.

A door decodes its protocol into a `Submission`; the intake makes it durable and says where it stands. Whatever is
refused is raised as a `WireError` with a reason and counted; the door only puts it into its protocol's terms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

import structlog

from actors.metrics import Metrics
from detect.batch import BatchKind
from detect.record import TenantId
from serve.errors import WireError
from serve.ingest.admission import Admission, Ticket
from serve.ingest.receipts import Receipt, ReceiptSigner, batch_id
from store.journal import Appended, Encoding, IdempotencyConflict, JournalEntry, Overloaded, UnknownTenant
from store.postgres import StorageUnavailable

logger = structlog.get_logger("intake")

DoorName = Literal["otlp_http", "signed", "otlp_grpc", "ndjson", "bulk", "syslog"]
"""The ways in, as metrics name them."""

_AFTER_A_DEFECT_S = 30
_KEY_LIMIT = 120  # bytes; the journal holds 128
_RUN = re.compile(r"[A-Za-z0-9._-]{0,64}")


class Journal(Protocol):
    """Where batches become durable (store.journal.JournalWriter)."""

    async def append(self, entry: JournalEntry) -> Appended: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, as the credential says: the tenant, and the agent's name within it (the id of its key).

    `run` is the sender's own name for the life of its spool, by which the loss ledger keeps its books; empty: none.
    """

    tenant: TenantId
    agent: str
    run: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """One batch that a door has checked and counted. `payload` is the body as received, or as converted, in `encoding`.

    `digest` is the SHA-256 of what was received, after decompression: it tells a repeat from another batch.
    `idempotency_key` is the sender's text for this batch, the same on every retry; empty: the content is the key.
    """

    sender: Sender
    kind: BatchKind
    encoding: Encoding
    payload: bytes
    records: int
    digest: bytes
    idempotency_key: str = ""
    door: DoorName = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The batch is on disk as `seq` of the tenant's journal; a duplicate stands where its original does."""

    seq: int
    duplicate: bool
    records: int
    receipt: str = ""
    elsewhere: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What every door over HTTP or gRPC tells the sender besides its protocol's own answer."""
        told = {"X-Batch-Seq": str(self.seq), "X-Batch-Duplicate": "true" if self.duplicate else "false"}
        if self.elsewhere:
            told["X-Batch-Elsewhere"] = "true"
        if self.receipt:
            told["X-Receipt"] = self.receipt
        return told


@dataclass(frozen=True, slots=True)
class Account:
    """In whose books a refusal counts, and with how many records (0 where nobody has counted them)."""

    sender: Sender
    records: int


class Refusals(Protocol):
    """Where refusals are counted for the senders' books (serve.ingest.ledger.RejectionTally)."""

    def add(self, sender: Sender, reason: str, *, retryable: bool, requests: int = 1, records: int = 0) -> None: ...


class Intake:
    """Stores submissions. `hint` tells the detector that there is work; losing one costs a poll interval."""

    def __init__(
        self,
        journal: Journal,
        hint: Callable[[TenantId], None],
        metrics: Metrics,
        receipts: ReceiptSigner | None = None,
        refusals: Refusals | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._journal = journal
        self._hint = hint
        self._metrics = metrics
        self._receipts = receipts
        self._refusals = refusals
        self._admission = admission or Admission.open(metrics)

    def request(self, sender: Sender, declared: int | None) -> Ticket:
        """A place for one request, to be held (`async with`) from before its body is read until its answer is made.

        `declared` is the length that the sender states, None for none. Entering raises WireError 429 or 503. A stream
        without an end takes a place for each batch that it gathers.
        """
        return self._admission.request(sender, declared)

    async def store(self, submission: Submission, ticket: Ticket | None = None) -> Acknowledgement:
        """Makes the batch durable. Raises WireError, and only that, for whatever keeps it from being stored.

        With the ticket of its request a batch is charged what was not foreseen; without one it may be refused here.
        """
        entry = JournalEntry(
            tenant=submission.sender.tenant,
            agent=submission.sender.agent,
            idempotency_key=_journal_key(submission.idempotency_key, submission.digest),
            digest=submission.digest,
            kind=submission.kind,
            encoding=submission.encoding,
            records=submission.records,
            payload=submission.payload,
            received=datetime.now(UTC),
            run=submission.sender.run,
        )
        charged = self._admission.charged(submission.sender, submission.records, len(submission.payload), ticket)
        with on_account_of(submission.sender, submission.records), errors_on_the_wire(), charged:
            appended = await self._journal.append(entry)
        self._count(submission, appended)
        records = submission.records if appended.stored_records is None else appended.stored_records
        receipt = self._receipt(entry, appended.seq, records)
        return Acknowledgement(appended.seq, appended.duplicate, records, receipt, appended.elsewhere)

    def refused(self, error: WireError) -> None:
        """Counts a request that no door could accept, by its reason; in the sender's books where it is known."""
        self._metrics.count("ingest_rejected_requests", reason=error.reason)
        if self._refusals is not None and isinstance(error.account, Account):
            account = error.account
            self._refusals.add(account.sender, error.reason, retryable=error.retryable, records=account.records)

    def refused_records(self, sender: Sender, reason: str, records: int) -> None:
        """Counts records that can never be stored, of a request whose others are, in the sender's books."""
        if self._refusals is not None:
            self._refusals.add(sender, reason, retryable=False, requests=0, records=records)

    def _receipt(self, entry: JournalEntry, seq: int, records: int) -> str:
        if self._receipts is None:
            return ""
        batch = batch_id(entry.tenant, entry.agent, entry.idempotency_key, entry.digest)
        return self._receipts.sign(Receipt(str(entry.tenant), str(batch), seq, entry.digest.hex(), records))

    def _count(self, submission: Submission, appended: Appended) -> None:
        if appended.duplicate:
            self._metrics.count("ingest_duplicate_records", submission.records)
            return
        self._metrics.count("ingest_records", submission.records)
        self._metrics.count("ingest_door_records", submission.records, door=submission.door)
        self._metrics.count("ingest_bytes", len(submission.payload))
        self._hint(submission.sender.tenant)


@contextmanager
def on_account_of(sender: Sender, records: int = 0) -> Iterator[None]:
    """A refusal that leaves the block is counted in the sender's books as well (Intake.refused)."""
    try:
        yield
    except WireError as error:
        error.account = error.account or Account(sender, records)
        raise


def agent_run(headers: Mapping[str, str]) -> str:
    """The sender's name for the life of its spool, from X-Agent-Run; WireError 400 for a name that cannot be one."""
    run = headers.get("x-agent-run", "")
    if not _RUN.fullmatch(run):
        raise WireError(400, "X-Agent-Run takes up to 64 of A-Z, a-z, 0-9, '.', '_' and '-': name the run anew")
    return run


@contextmanager
def errors_on_the_wire() -> Iterator[None]:
    """Errors of the store leave the block as the WireError that every door knows how to say.

    So do errors that nobody expected, as 503: a sender drops its data on 500, and a defect here must not cost it.
    """
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
    except UnknownTenant as error:
        raise WireError(401, "the tenant of this key does not exist any more: ask your administrator") from error
    except WireError:
        raise
    except Exception as error:
        logger.error("unexpected error at a door", exc_info=error)
        detail = "an unexpected error, which is logged: keep the batch and retry later"
        raise WireError(503, detail, retry_after_s=_AFTER_A_DEFECT_S, reason="internal") from error


def _journal_key(stated: str, digest: bytes) -> bytes:
    if not stated:
        return digest
    key = stated.encode("utf-8", "surrogatepass")
    if len(key) > _KEY_LIMIT:
        raise WireError(400, f"X-Idempotency-Key is longer than {_KEY_LIMIT} bytes")
    return b"key:" + key


def _whole(seconds: float) -> int:
    return max(1, round(seconds))
