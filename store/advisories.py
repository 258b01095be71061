"""The advisory queue and the versions of advisories. Work is leased by time: a worker that dies loses it by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from detect.record import TenantId
from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql
from store.values import json_text, text

LEASE = timedelta(minutes=2)


class IncidentNotFound(Exception):
    """The tenant has no such incident."""


@dataclass(frozen=True, slots=True)
class AdvisoryWork:
    """An incident's revision that waits for an advisory. `attempts` counts this lease too."""

    tenant: TenantId
    incident_id: UUID
    revision: int
    attempts: int


@dataclass(frozen=True, slots=True)
class AdvisoryVersion:
    """One stored advisory. `fallback_reason` says why prose was not used, None when it was."""

    version: int
    revision: int
    generator: str
    fallback_reason: str | None
    body: dict[str, Any]
    created_at: datetime


async def due(tx: SystemTransaction, now: datetime, limit: int, lease: timedelta = LEASE) -> list[AdvisoryWork]:
    """Leases up to `limit` pieces of work of all tenants; nobody else gets them before `now + lease`."""
    rows = await tx.connection.fetch(sql("advisory_lease"), now, limit, now + lease)
    return [
        AdvisoryWork(
            TenantId(UUID(int=row["tenant_id"].int)), UUID(int=row["incident_id"].int), row["revision"], row["attempts"]
        )
        for row in rows
    ]


async def finish(tx: TenantTransaction, incident_id: UUID, revision: int) -> bool:
    """Takes a finished revision out of the queue; False when a newer one waits (or nothing does)."""
    return await tx.connection.fetchval(sql("advisory_finish"), incident_id, revision) is not None


async def postpone(tx: TenantTransaction, incident_id: UUID, revision: int, *, until: datetime, error: str) -> bool:
    """Puts a failed revision off with the reason; False when a newer one waits (or nothing does)."""
    row = await tx.connection.fetchval(sql("advisory_postpone"), incident_id, revision, until, text(error))
    return row is not None


async def save_version(
    tx: TenantTransaction,
    incident_id: UUID,
    revision: int,
    *,
    generator: str,
    fallback_reason: str | None,
    body: dict[str, Any],
) -> int:
    """Stores an advisory as the incident's next version, from 1, and returns it. Raises IncidentNotFound."""
    if await tx.connection.fetchval(sql("advisory_lock_incident"), incident_id) is None:
        raise IncidentNotFound(f"this tenant has no incident {incident_id}")
    reason = None if fallback_reason is None else text(fallback_reason)
    version: int = await tx.connection.fetchval(
        sql("advisory_insert"), tx.tenant, incident_id, revision, text(generator), reason, json_text(body)
    )
    return version


async def latest(tx: TenantTransaction, incident_id: UUID) -> AdvisoryVersion | None:
    """The newest advisory of an incident."""
    row = await tx.connection.fetchrow(sql("advisory_latest"), incident_id)
    return None if row is None else AdvisoryVersion(**{**row, "body": orjson.loads(row["body"])})
