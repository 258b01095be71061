"""The loss ledger at work: refusals gathered into senders' books, statements judged, gaps made known.

Stored and duplicate records are not counted here but by journal_append, in the batches' own transaction. Refusals are
counted in memory and brought to the store every second and at shutdown: a killed replica takes up to a second of
*refusals* with it, never a stored record. A gap becomes a control row of the tenant's journal, so that the detector
raises one event for it, the same on every replay (detect/ledger.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from actors.control import LedgerGap, append_ledger_gap
from actors.metrics import Metrics
from detect.record import TenantId
from serve.errors import WireError
from serve.ingest.balance import Balance, SenderBooks, ServerBooks, balance, compare
from serve.ingest.intake import Sender, errors_on_the_wire
from store.journal import JournalWriter
from store.ledger import (
    Rejections,
    RunBooks,
    StatementRow,
    add_rejections,
    lock_run,
    mark_raised,
    read_books,
    read_gaps,
    read_statement,
    write_statement,
)
from store.postgres import Pool, StorageUnavailable, system_transaction, tenant_transaction

logger = structlog.get_logger("ledger")

_FLUSH_S = 1.0
_MOST_WAITING = 10_000  # kinds of refusals; beyond, those of new runs are counted for the agent as a whole


@dataclass(frozen=True, slots=True)
class _Kind:
    tenant: TenantId
    agent: str
    run: str
    reason: str
    retryable: bool


@dataclass(slots=True)
class _Counts:
    requests: int
    records: int
    last_at: datetime


class RejectionTally:
    """Refusals of one replica by sender and reason, on their way to the store."""

    def __init__(self, pool: Pool, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._clock = clock
        self._waiting: dict[_Kind, _Counts] = {}
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, sender: Sender, reason: str, *, retryable: bool, requests: int = 1, records: int = 0) -> None:
        """Counts a refusal; `records` where they were counted before it."""
        kind = _Kind(sender.tenant, sender.agent, sender.run, reason, retryable)
        if kind not in self._waiting and len(self._waiting) >= _MOST_WAITING:
            kind = _Kind(sender.tenant, sender.agent, "", reason, retryable)
        counts = self._waiting.setdefault(kind, _Counts(0, 0, self._clock()))
        counts.requests += requests
        counts.records += records
        counts.last_at = self._clock()

    def start(self) -> None:
        """Begins to bring the counts to the store every second."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ledger-rejections")

    async def stop(self) -> None:
        """Brings the last counts to the store; what it cannot take is named in the log."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        await self.flush()
        if self._waiting:
            lost = sum(counts.requests for counts in self._waiting.values())
            logger.warning("refusals were not brought to the ledger", requests=lost)

    async def flush(self) -> None:
        """One attempt for each tenant; counts that the store cannot take now wait for the next."""
        waiting, self._waiting = self._waiting, {}
        by_tenant: dict[TenantId, list[Rejections]] = {}
        for kind, counts in waiting.items():
            row = Rejections(
                kind.agent, kind.run, kind.reason, kind.retryable, counts.requests, counts.records, counts.last_at
            )
            by_tenant.setdefault(kind.tenant, []).append(row)
        for tenant, rows in by_tenant.items():
            try:
                async with tenant_transaction(self._pool, tenant) as transaction:
                    await add_rejections(transaction, rows)
            except StorageUnavailable as error:
                logger.info("refusals wait for the store", error=str(error))
                for row in rows:
                    sender = Sender(tenant, row.agent, row.run)
                    self.add(sender, row.reason, retryable=row.retryable, requests=row.requests, records=row.records)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _FLUSH_S)
            try:
                await self.flush()
            except Exception:  # a defect in bookkeeping must not end all bookkeeping
                logger.exception("refusals could not be brought to the ledger")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a sender hears of its statement. `taken` is False for one that is older than what is known."""

    taken: bool
    balance: Balance
    books: RunBooks


class LedgerDesk:
    """Takes statements: the newest of each run is kept, judged, and what does not balance is raised."""

    def __init__(
        self,
        pool: Pool,
        writer_pool: Pool,
        journal: JournalWriter,
        hint: Callable[[TenantId], None],
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._writer_pool = writer_pool
        self._journal = journal
        self._hint = hint
        self._metrics = metrics

    async def state(self, sender: Sender, stated: SenderBooks) -> Verdict:
        """Judges a statement. Raises WireError 409 when its counts contradict those stated before, 503 for trouble."""
        with errors_on_the_wire():
            verdict, raised = await self._judge(sender, stated)
            if verdict.taken and not verdict.balance.balanced and not raised:
                await self._raise_gap(sender, verdict.balance)
        self._metrics.count("ledger_statements", verdict=_word(verdict))
        return verdict

    async def show_gaps(self) -> None:
        """Brings the gauges of what is missing up to date, over all tenants. Raises StorageUnavailable."""
        async with system_transaction(self._writer_pool) as transaction:
            gaps = await read_gaps(transaction)
        self._metrics.set("ledger_gaps", gaps.runs)
        self._metrics.set("ledger_missing_records", gaps.missing)
        self._metrics.set("ledger_excess_records", gaps.excess)

    async def _judge(self, sender: Sender, stated: SenderBooks) -> tuple[Verdict, bool]:
        """The verdict, and whether a gap of this size was raised before."""
        async with tenant_transaction(self._pool, sender.tenant) as transaction:
            await lock_run(transaction, sender.agent, sender.run)
            known = await read_statement(transaction, sender.agent, sender.run)
            books = await read_books(transaction, sender.agent, sender.run)
            order = "newer" if known is None else compare(stated, _sender_books(known))
            if order == "contradictory":
                self._metrics.count("ledger_statements", verdict="contradictory")
                detail = (
                    "some counts of this run went back while others went on, as after a spool was restored from a "
                    "copy: begin a new run"
                )
                raise WireError(409, detail, reason="ledger_contradiction")
            if known is not None and order == "older":
                return Verdict(False, Balance(known.missing, known.excess, known.detail), books), True
            before = ServerBooks() if known is None else _server_books(known)
            found = balance(stated, ServerBooks(books.stored, books.elsewhere, books.last_seq), before)
            await write_statement(transaction, sender.agent, sender.run, _row(stated, books, found))
        raised = known is not None and (known.raised_missing, known.raised_excess) == (found.missing, found.excess)
        return Verdict(True, found, books), raised

    async def _raise_gap(self, sender: Sender, found: Balance) -> None:
        """A row in the journal, once for a gap of this size; then the statement remembers that it is there."""
        gap = LedgerGap(sender.agent, sender.run, found.missing, found.excess, found.detail)
        await append_ledger_gap(self._journal, sender.tenant, gap, datetime.now(UTC))
        self._hint(sender.tenant)
        logger.warning("the books of a sender do not balance", tenant=str(sender.tenant), **_shown(gap))
        async with tenant_transaction(self._pool, sender.tenant) as transaction:
            await mark_raised(transaction, sender.agent, sender.run, found.missing, found.excess)
        await self.show_gaps()


def _sender_books(row: StatementRow) -> SenderBooks:
    return SenderBooks(row.accepted, row.stored, row.duplicate, row.in_flight, row.rejected)


def _server_books(row: StatementRow) -> ServerBooks:
    return ServerBooks(row.known_stored, row.known_elsewhere, row.known_seq)


def _row(stated: SenderBooks, books: RunBooks, found: Balance) -> StatementRow:
    return StatementRow(
        accepted=stated.accepted,
        stored=stated.stored,
        duplicate=stated.duplicate,
        in_flight=stated.in_flight,
        rejected=stated.rejected,
        known_stored=books.stored,
        known_elsewhere=books.elsewhere,
        known_seq=books.last_seq,
        missing=found.missing,
        excess=found.excess,
        detail=found.detail,
        stated_at=datetime.now(UTC),
    )


def _word(verdict: Verdict) -> str:
    if not verdict.taken:
        return "older"
    return "balanced" if verdict.balance.balanced else "gap"


def _shown(gap: LedgerGap) -> dict[str, Any]:
    return {"agent": gap.agent, "run": gap.run, "missing": gap.missing, "excess": gap.excess, "detail": gap.detail}
