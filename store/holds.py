"""Legal holds, and how long a tenant keeps its raw logs. A hold is obeyed inside the functions that delete."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from store.audit import append_audit
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import iso_time, text

LONGEST_RETENTION_DAYS = 3650
_REASON_BYTES = 2000


class HoldNotFound(Exception):
    """The tenant has no such hold, or it has been released already."""


@dataclass(frozen=True, slots=True)
class LegalHold:
    """What must not be deleted: records and batches received in [held_from, held_to); None: without that bound."""

    hold_id: UUID
    reason: str
    held_from: datetime | None
    held_to: datetime | None
    placed_by: str
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None


async def place_hold(
    tx: TenantTransaction, reason: str, held_from: datetime | None, held_to: datetime | None, *, actor: str
) -> LegalHold:
    """Places a hold; from the commit on nothing that it covers is deleted. Waits for deletions under way.

    Raises ValueError for an empty reason, a time without a zone, or a range that ends before it begins.
    """
    if not reason.strip():
        raise ValueError("a hold needs a reason: the case or order that asks for it")
    for moment in (held_from, held_to):
        if moment is not None and moment.tzinfo is None:
            raise ValueError("a time needs a time zone: write it as 2026-03-01T00:00:00Z")
    if held_from is not None and held_to is not None and held_from >= held_to:
        raise ValueError("the hold ends before it begins")
    row = await tx.connection.fetchrow(
        sql("hold_insert"), tx.tenant, uuid4(), text(reason.strip(), _REASON_BYTES), held_from, held_to, text(actor)
    )
    hold = _hold(row)
    span = {name: None if at is None else iso_time(at) for name, at in (("from", held_from), ("to", held_to))}
    await append_audit(tx, actor, "hold.place", f"hold:{hold.hold_id}", {"reason": hold.reason} | span)
    return hold


async def release_hold(tx: TenantTransaction, hold_id: UUID, reason: str, *, actor: str) -> LegalHold:
    """Ends a hold; what it kept goes with the next sweep. The row stays. Raises HoldNotFound, ValueError."""
    if not reason.strip():
        raise ValueError("a release needs a reason: who decided that the hold is over")
    row = await tx.connection.fetchrow(sql("hold_release"), hold_id, text(actor))
    if row is None:
        raise HoldNotFound(f"this tenant has no hold {hold_id} in force")
    await append_audit(tx, actor, "hold.release", f"hold:{hold_id}", {"reason": text(reason.strip(), _REASON_BYTES)})
    return _hold(row)


async def list_holds(tx: TenantTransaction) -> list[LegalHold]:
    """The tenant's holds, those in force first, then the newest."""
    return [_hold(row) for row in await tx.connection.fetch(sql("hold_list"))]


async def own_retention(tx: TenantTransaction) -> int | None:
    """The tenant's own retention of raw logs in days; None: the installation's."""
    days: int | None = await tx.connection.fetchval(sql("retention_read"))
    return days


async def set_retention(tx: TenantTransaction, days: int | None, *, actor: str) -> None:
    """Gives the tenant a retention of its own, or with None the installation's again. Raises ValueError."""
    if days is not None and not 1 <= days <= LONGEST_RETENTION_DAYS:
        raise ValueError(f"raw logs are kept for 1 to {LONGEST_RETENTION_DAYS} days")
    await tx.connection.execute(sql("retention_write"), days)
    await append_audit(tx, actor, "tenant.retention", f"tenant:{tx.tenant}", {"raw_log_retention_days": days})


def _hold(row: asyncpg.Record | None) -> LegalHold:
    values: dict[str, Any] = dict(row or {})
    values["hold_id"] = UUID(int=values["hold_id"].int)
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = value.astimezone(UTC)
    return LegalHold(**values)
