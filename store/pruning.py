"""Throwing away what nobody needs any more, in bounded steps: judged batches, raw records, rollups.

The functions of the owner (migration 0010) decide what may go and look at the legal holds; here is only how often they
are asked. A step is a transaction of its own, so that appends and judgements wait for little.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from detect.batch import RollupSpan
from detect.record import TenantId
from store.journal import JournalRow, read_journal
from store.postgres import Pool, TenantTransaction, tenant_transaction
from store.queries import sql

SHORTEST_HORIZON = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Rows that one transaction may look at or delete, and how many transactions one round may make."""

    rows: int = 2000
    steps: int = 50


@dataclass(frozen=True, slots=True)
class PrunedJournal:
    """What is gone of a tenant's journal: batches before `before_seq` may be; counts of those that are."""

    before_seq: int
    batches: int
    records: int


class JournalPruned(Exception):
    """The journal does not reach back that far any more. `before_seq` is where it begins to be whole."""

    def __init__(self, seq: int, before_seq: int) -> None:
        super().__init__(
            f"batch {seq} was pruned: the journal is whole from batch {before_seq} on; begin there, or restore a backup"
        )
        self.seq = seq
        self.before_seq = before_seq


async def prune_journal(
    pool: Pool, tenant: TenantId, keep: timedelta, now: datetime, limits: StepLimits | None = None
) -> int:
    """Deletes the tenant's batches that are judged, exploded, older than `keep` (at least an hour) and needed by
    neither the oldest snapshot, a parked record nor a hold; returns how many. Takes a pool of the app role.
    """
    limits = limits or StepLimits()
    horizon = now - max(keep, SHORTEST_HORIZON)
    deleted, after = 0, 0
    for _ in range(limits.steps):
        async with tenant_transaction(pool, tenant) as tx:
            row = await tx.connection.fetchrow(sql("journal_prune"), horizon, after, limits.rows)
        if row is None:
            break
        deleted += row["deleted_batches"]
        if row["examined_to"] is None:
            break
        after = row["examined_to"]
    return deleted


async def pruned_journal(tx: TenantTransaction) -> PrunedJournal:
    """How far the tenant's journal has been pruned; before_seq is 1 when it is whole."""
    row = await tx.connection.fetchrow(sql("journal_pruned"))
    return PrunedJournal(1, 0, 0) if row is None else PrunedJournal(**row)


async def require_unpruned(tx: TenantTransaction, first_seq: int) -> None:
    """Raises JournalPruned when the journal is not whole from `first_seq` on."""
    pruned = await pruned_journal(tx)
    if first_seq < pruned.before_seq:
        raise JournalPruned(first_seq, pruned.before_seq)


async def read_unpruned(tx: TenantTransaction, after: int, limit: int, max_bytes: int) -> list[JournalRow]:
    """Batches from `after` + 1 on without a gap, as read_journal bounds them; JournalPruned when that one is gone."""
    rows = await read_journal(tx, after, limit, max_bytes)
    whole = [row for place, row in enumerate(rows, start=after + 1) if row.seq == place]
    if not whole:
        await require_unpruned(tx, after + 1)
        raise JournalPruned(after + 1, rows[0].seq if rows else after + 2)
    return whole


async def prune_raw_logs(
    pool: Pool, tenant: TenantId, retention_days: int, now: datetime, limits: StepLimits | None = None
) -> int:
    """Deletes the tenant's records past its retention (its own, else `retention_days`) where other tenants keep the
    day's partition; returns how many. Takes a pool of the app role.
    """
    before = now.astimezone(UTC).date() - timedelta(days=retention_days)
    return await _repeat(pool, tenant, sql("raw_logs_prune"), (before,), limits or StepLimits(rows=5000))


async def prune_rollups(
    pool: Pool, tenant: TenantId, span: RollupSpan, keep: timedelta, now: datetime, limits: StepLimits | None = None
) -> int:
    """Deletes the tenant's windows of a span that began more than `keep` ago; returns how many. Takes an app pool."""
    before = now - max(keep, SHORTEST_HORIZON)
    return await _repeat(pool, tenant, sql("rollups_prune"), (span, before), limits or StepLimits(rows=5000))


async def _repeat(
    pool: Pool, tenant: TenantId, statement: str, arguments: tuple[object, ...], limits: StepLimits
) -> int:
    deleted = 0
    for _ in range(limits.steps):
        async with tenant_transaction(pool, tenant) as tx:
            gone: int = await tx.connection.fetchval(statement, *arguments, limits.rows)
        deleted += gone
        if gone < limits.rows:
            break
    return deleted
