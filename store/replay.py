"""What a replay of the past reads: through transactions in which the server itself refuses to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from detect.record import TenantId
from store.postgres import Pool, TenantTransaction, storage_errors, tenant_transaction
from store.queries import sql

EVENT_COLUMNS = (
    "event_id", "seq", "position", "time", "end_time", "kind", "detector", "rule_id", "rule_version", "title",
    "description", "severity", "score", "activity", "outcome", "techniques", "tactics", "entities", "evidence",
    "matched", "attributes",
)  # fmt: skip
"""The columns of an event after the tenant, in the order of store.detection_rows.event_row."""

_PAGE = 1000


class ReplayRunning(Exception):
    """A replay of this tenant is under way already."""


@asynccontextmanager
async def read_only_transaction(pool: Pool, tenant: TenantId) -> AsyncIterator[TenantTransaction]:
    """As tenant_transaction, but nothing can be written. `pool` is of the app role."""
    async with tenant_transaction(pool, tenant) as tx:
        await tx.connection.execute(sql("become_read_only"))
        yield tx


@asynccontextmanager
async def one_replay(pool: Pool, tenant: TenantId) -> AsyncIterator[None]:
    """Keeps other replays of the tenant out, on every replica, until the block or the process ends.

    Raises ReplayRunning, StorageUnavailable.
    """
    with storage_errors():
        connection = await pool.acquire()
    try:
        with storage_errors():
            if not await connection.fetchval(sql("replay_lock"), str(tenant)):
                raise ReplayRunning("a replay of this tenant is under way: wait for its end")
        yield
    finally:
        await pool.release(connection)  # which frees its locks


async def replay_bounds(tx: TenantTransaction) -> tuple[int, int]:
    """How far the tenant has been judged, and how far its journal goes."""
    row = await tx.connection.fetchrow(sql("replay_bounds"))
    return (0, 0) if row is None else (row["mark"], row["last_seq"])


async def retried_later(tx: TenantTransaction, first: int, last: int) -> frozenset[int]:
    """Batches in the range of which something was judged again after it."""
    return frozenset(row["seq"] for row in await tx.connection.fetch(sql("replay_retried_later"), first, last))


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as a tuple of EVENT_COLUMNS, with its repeats (events that were folded into it) up to batch `judged`."""

    row: tuple[Any, ...]
    repeats: int
    judged: int


async def stored_events(pool: Pool, tenant: TenantId, first: int, last: int) -> AsyncIterator[StoredEvent]:
    """The stored events whose records are in batches `first` to `last`."""
    after: tuple[int, int, UUID] = (first - 1, 2**31 - 1, UUID(int=2**128 - 1))
    while True:
        async with read_only_transaction(pool, tenant) as tx:
            rows = await tx.connection.fetch(sql("replay_stored_events"), last, *after, _PAGE)
        for row in rows:
            yield StoredEvent(tuple(row[column] for column in EVENT_COLUMNS), row["repeats"], row["judged"])
        if len(rows) < _PAGE:
            return
        after = (rows[-1]["seq"], rows[-1]["position"], rows[-1]["event_id"])


@dataclass(frozen=True, slots=True)
class ReplayRange:
    """Batches `first` to `last`, and when those were received."""

    first: int
    last: int
    received_first: datetime
    received_last: datetime


async def range_of(tx: TenantTransaction, since: datetime, until: datetime | None) -> ReplayRange | None:
    """The judged batches received in [since, until), as far as they can be replayed; None when there are none."""
    mark, _ = await replay_bounds(tx)
    earliest = await tx.connection.fetchval(sql("replayable_from"))
    first = await tx.connection.fetchval(sql("batch_received_from"), since)
    last = mark if until is None else await tx.connection.fetchval(sql("batch_received_before"), until)
    if first is None or last is None:
        return None
    first, last = max(first, earliest), min(last, mark)
    if first > last:
        return None
    received = [await tx.connection.fetchval(sql("batch_received"), seq) for seq in (first, last)]
    if None in received:
        return None
    return ReplayRange(first, last, *received)
