"""The loss ledger in the store: what is known of each (agent, run), what senders state, and single batches by seq.

The books of stored and duplicate records are written by journal_append (migration 0008), in the transaction of the
batches themselves; nothing here writes them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from store.paging import InvalidCursor, Page, page_size
from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql
from store.values import iso_time, json_text, key_text, text

_LONGEST_CURSOR = 1024


@dataclass(frozen=True, slots=True)
class RunBooks:
    """What the journal knows of a run, in records unless the name says batches. `head` is the tenant's newest seq,
    `last_seq` the seq of the newest batch counted in `stored` (0 for none)."""

    head: int
    stored: int
    elsewhere: int
    last_seq: int
    stored_batches: int
    duplicate_batches: int
    duplicate: int


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A run's newest statement as it is kept, the server's books when it was judged, and the verdict."""

    accepted: int
    stored: int
    duplicate: int
    in_flight: int
    rejected: Mapping[str, int]
    known_stored: int
    known_elsewhere: int
    known_seq: int
    missing: int
    excess: int
    detail: str
    stated_at: datetime
    raised_missing: int = 0
    raised_excess: int = 0


@dataclass(frozen=True, slots=True)
class Rejections:
    """Refusals of one kind to add to a run's books."""

    agent: str
    run: str
    reason: str
    retryable: bool
    requests: int
    records: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Gaps:
    """Sums over all tenants: runs whose books do not balance, and by how many records."""

    runs: int
    missing: int
    excess: int


async def lock_run(tx: TenantTransaction, agent: str, run: str) -> None:
    """Until the transaction ends nobody else judges a statement of the run."""
    await tx.connection.execute(sql("ledger_statement_lock"), str(tx.tenant), agent, run)


async def read_books(tx: TenantTransaction, agent: str, run: str) -> RunBooks:
    """What the journal knows of the run; zeros for one that it never heard of."""
    row = await tx.connection.fetchrow(sql("ledger_books_read"), agent, run)
    return RunBooks(**row) if row else RunBooks(0, 0, 0, 0, 0, 0, 0)


async def read_statement(tx: TenantTransaction, agent: str, run: str) -> StatementRow | None:
    """The newest statement of the run."""
    row = await tx.connection.fetchrow(sql("ledger_statement_read"), agent, run)
    return None if row is None else StatementRow(**{**row, "rejected": orjson.loads(row["rejected"])})


async def write_statement(tx: TenantTransaction, agent: str, run: str, row: StatementRow) -> None:
    """Keeps the statement in place of the one before; what was raised stays."""
    await tx.connection.execute(
        sql("ledger_statement_write"),
        *(tx.tenant, agent, run, row.accepted, row.stored, row.duplicate, row.in_flight, json_text(row.rejected)),
        *(row.known_stored, row.known_elsewhere, row.known_seq, row.missing, row.excess, text(row.detail)),
        row.stated_at,
    )


async def mark_raised(tx: TenantTransaction, agent: str, run: str, missing: int, excess: int) -> None:
    """Remembers which gap has become a row of the journal."""
    await tx.connection.execute(sql("ledger_gap_raised"), agent, run, missing, excess)


async def add_rejections(tx: TenantTransaction, rejections: Sequence[Rejections]) -> None:
    """Adds to the books, in one statement. Each (agent, run, reason, retryable) may appear once."""
    ordered = sorted(rejections, key=lambda one: (one.agent, one.run, one.reason, one.retryable))
    await tx.connection.execute(
        sql("ledger_rejections_add"),
        tx.tenant,
        [one.agent for one in ordered],
        [one.run for one in ordered],
        [key_text(one.reason, 64) for one in ordered],
        [one.retryable for one in ordered],
        [one.requests for one in ordered],
        [one.records for one in ordered],
        [one.last_at for one in ordered],
    )


async def ledger_page(tx: TenantTransaction, agent: str | None, limit: int, cursor: str | None) -> Page:
    """The ledger by agent and run. Raises InvalidCursor."""
    after = ("", "") if cursor is None else _after(cursor)
    limit = page_size(limit)
    # The empty pair comes before every agent: control rows, the only ones without an agent, have no books.
    found = await tx.connection.fetch(sql("ledger_page"), agent and text(agent, 256), *after, limit + 1)
    rows = [_ledger_row(row) for row in found[:limit]]
    more = len(found) > limit
    return Page(rows, _cursor(rows[-1]["agent"], rows[-1]["run"]) if more else None)


async def forget_runs(tx: TenantTransaction, before: datetime) -> int:
    """Deletes the books of runs of which nothing was heard since `before`; the number of rows."""
    return int(await tx.connection.fetchval(sql("ledger_forget"), before))


async def read_gaps(tx: SystemTransaction) -> Gaps:
    """The gaps of all tenants."""
    [row] = await tx.connection.fetch(sql("ledger_gaps"))
    return Gaps(**row)


async def read_batch(tx: TenantTransaction, seq: int) -> dict[str, Any] | None:
    """What the journal says of a batch, its body left out; None for a seq that no sender's batch has (any more)."""
    row = await tx.connection.fetchrow(sql("batch_read"), seq)
    return None if row is None else dict(row)


def _ledger_row(row: Any) -> dict[str, Any]:
    times = [row[name] for name in ("last_at", "stated_at", "refused_at") if row[name] is not None]
    server = {
        name: row[name] or 0
        for name in ("stored_batches", "stored_records", "duplicate_batches", "duplicate_records", "elsewhere_records")
    }
    return {
        "agent": row["agent"],
        "run": row["run"],
        "server": server | {"rejections": orjson.loads(row["refusals"]) if row["refusals"] else []},
        "statement": None if row["stated_at"] is None else _stated(row),
        "first_batch": None if row["first_at"] is None else iso_time(row["first_at"]),
        "last_batch": None if row["last_at"] is None else iso_time(row["last_at"]),
        "last_seen": iso_time(max(times)),
    }


def _stated(row: Any) -> dict[str, Any]:
    said = {name: row[name] for name in ("accepted", "stored", "duplicate", "in_flight", "missing", "excess", "detail")}
    return said | {"rejected": orjson.loads(row["rejected"]), "stated_at": iso_time(row["stated_at"])}


def _cursor(agent: str, run: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(["ledger", agent, run])).rstrip(b"=").decode()


def _after(cursor: str) -> tuple[str, str]:
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(cursor[:_LONGEST_CURSOR] + "=" * (-len(cursor) % 4)))
    except (orjson.JSONDecodeError, binascii.Error, ValueError):
        raise InvalidCursor from None
    if not isinstance(parts, list) or len(parts) != 3 or parts[0] != "ledger":
        raise InvalidCursor
    _, agent, run = parts
    if not isinstance(agent, str) or not isinstance(run, str) or "\0" in agent + run:
        raise InvalidCursor
    return agent, run
