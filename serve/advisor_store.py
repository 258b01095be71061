"""What the advisor needs of a store, and how Postgres gives it: one short transaction a call, always of one tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from detect.record import TenantId
from serve.views import incident_view
from store import advisories
from store.advisories import AdvisoryVersion, AdvisoryWork
from store.postgres import Pool, system_transaction, tenant_transaction
from store.search import get_incident


class AdvisoryStore(Protocol):
    """Queue and versions of advisories. Work is leased: what is neither finished nor postponed comes back by itself.

    Every call may raise store.postgres.StorageUnavailable.
    """

    async def due(self, now: datetime, limit: int) -> list[AdvisoryWork]:
        """Leases work of all tenants, the oldest first."""
        ...

    async def detail(self, tenant: TenantId, incident_id: UUID) -> dict[str, Any] | None:
        """The incident with its timeline as the API shows it; None when there is no such incident."""
        ...

    async def latest(self, tenant: TenantId, incident_id: UUID) -> AdvisoryVersion | None:
        """The newest advisory of the incident."""
        ...

    async def save(
        self,
        tenant: TenantId,
        incident_id: UUID,
        revision: int,
        *,
        generator: str,
        fallback_reason: str | None,
        body: dict[str, Any],
    ) -> int:
        """Stores the next version and returns its number."""
        ...

    async def finish(self, tenant: TenantId, incident_id: UUID, revision: int) -> bool:
        """Takes the revision from the queue; False when a newer one waits."""
        ...

    async def postpone(
        self, tenant: TenantId, incident_id: UUID, revision: int, *, until: datetime, error: str
    ) -> bool:
        """Puts the revision off, with the reason; False when a newer one waits."""
        ...


class PostgresAdvisoryStore:
    """`writer` sees the queue of all tenants, `app` one tenant at a time."""

    def __init__(self, app: Pool, writer: Pool) -> None:
        self._app = app
        self._writer = writer

    async def due(self, now: datetime, limit: int) -> list[AdvisoryWork]:
        async with system_transaction(self._writer) as transaction:
            return await advisories.due(transaction, now, limit)

    async def detail(self, tenant: TenantId, incident_id: UUID) -> dict[str, Any] | None:
        async with tenant_transaction(self._app, tenant) as transaction:
            row = await get_incident(transaction, incident_id)
        return None if row is None else incident_view(row)

    async def latest(self, tenant: TenantId, incident_id: UUID) -> AdvisoryVersion | None:
        async with tenant_transaction(self._app, tenant) as transaction:
            return await advisories.latest(transaction, incident_id)

    async def save(
        self,
        tenant: TenantId,
        incident_id: UUID,
        revision: int,
        *,
        generator: str,
        fallback_reason: str | None,
        body: dict[str, Any],
    ) -> int:
        async with tenant_transaction(self._app, tenant) as transaction:
            return await advisories.save_version(
                transaction,
                incident_id,
                revision,
                generator=generator,
                fallback_reason=fallback_reason,
                body=body,
            )

    async def finish(self, tenant: TenantId, incident_id: UUID, revision: int) -> bool:
        async with tenant_transaction(self._app, tenant) as transaction:
            return await advisories.finish(transaction, incident_id, revision)

    async def postpone(
        self, tenant: TenantId, incident_id: UUID, revision: int, *, until: datetime, error: str
    ) -> bool:
        async with tenant_transaction(self._app, tenant) as transaction:
            return await advisories.postpone(transaction, incident_id, revision, until=until, error=error)
