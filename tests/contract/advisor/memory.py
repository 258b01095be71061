"""An advisory store in memory, with the same behaviour as the one in Postgres (the suite runs on both)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from detect.record import TenantId
from store.advisories import LEASE, AdvisoryVersion, AdvisoryWork
from store.postgres import StorageUnavailable

Key = tuple[TenantId, UUID]


@dataclass
class Waiting:
    work: AdvisoryWork
    not_before: datetime
    error: str | None = None


@dataclass
class MemoryAdvisoryStore:
    """`away` makes every call fail as a lost database does."""

    now: datetime
    incidents: dict[Key, dict[str, Any]] = field(default_factory=dict)
    queue: dict[Key, Waiting] = field(default_factory=dict)
    versions: dict[Key, list[AdvisoryVersion]] = field(default_factory=dict)
    away: bool = False

    async def put(self, tenant: TenantId, incident: dict[str, Any]) -> None:
        """What a detector does: stores the incident and queues its revision."""
        key = (tenant, UUID(incident["incident_id"]))
        self.incidents[key] = incident
        work = AdvisoryWork(tenant, key[1], incident["revision"], 0)
        self.queue[key] = Waiting(work, self.now)

    async def due(self, now: datetime, limit: int, lease: timedelta = LEASE) -> list[AdvisoryWork]:
        self._reach()
        ready = sorted(
            (item for item in self.queue.values() if item.not_before <= now), key=lambda item: item.not_before
        )
        for item in ready[:limit]:
            item.work = replace(item.work, attempts=item.work.attempts + 1)
            item.not_before = now + lease
        return [item.work for item in ready[:limit]]

    async def detail(self, tenant: TenantId, incident_id: UUID) -> dict[str, Any] | None:
        self._reach()
        return self.incidents.get((tenant, incident_id))

    async def latest(self, tenant: TenantId, incident_id: UUID) -> AdvisoryVersion | None:
        self._reach()
        return next(reversed(self.versions.get((tenant, incident_id), [])), None)

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
        self._reach()
        kept = self.versions.setdefault((tenant, incident_id), [])
        stored = json.loads(json.dumps(body))
        kept.append(AdvisoryVersion(len(kept) + 1, revision, generator, fallback_reason, stored, self.now))
        return len(kept)

    async def finish(self, tenant: TenantId, incident_id: UUID, revision: int) -> bool:
        self._reach()
        item = self.queue.get((tenant, incident_id))
        if item is None or item.work.revision > revision:
            return False
        del self.queue[(tenant, incident_id)]
        return True

    async def postpone(
        self, tenant: TenantId, incident_id: UUID, revision: int, *, until: datetime, error: str
    ) -> bool:
        self._reach()
        item = self.queue.get((tenant, incident_id))
        if item is None or item.work.revision != revision:
            return False
        item.not_before, item.error = until, error
        return True

    def _reach(self) -> None:
        if self.away:
            raise StorageUnavailable("ConnectionRefusedError", 0.01)
