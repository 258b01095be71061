"""What the API can do, in terms of the store and the detectors: one method a question, each behind a key."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import structlog

from actors.directory import DetectorDirectory
from actors.metrics import DETECTOR_GAUGES, Metrics
from detect.record import RecordRef, TenantId
from serve.auth import Authenticator
from serve.disk_state import disk_trouble
from serve.errors import WireError
from serve.named_tenant import named_tenant
from serve.search_slots import SearchSlots
from serve.version import VERSION
from serve.views import event_view, incident_view, log_view
from store.advisories import latest
from store.postgres import Pool, StorageUnavailable, system_transaction, tenant_transaction
from store.search import (
    EventFilter,
    IncidentFilter,
    LogFilter,
    count_status,
    get_event,
    get_incident,
    get_record,
    search_events,
    search_incidents,
    search_logs,
)
from store.tenants import (
    KeyNotFound,
    KeyRow,
    Scope,
    Tenant,
    TenantExists,
    create_key,
    create_tenant,
    list_keys,
    list_tenants,
    revoke_key,
)
from store.values import iso_time

logger = structlog.get_logger("edge")

Headers = Mapping[str, str]

_SHOWN_RULES = 50


class AdvisorStatus(Protocol):
    """The advisor as the API sees it."""

    async def status(self) -> dict[str, Any]: ...

    async def analyze(self, incident: dict[str, Any], wait_s: float, cache_salt: str) -> dict[str, Any]: ...


class RulesInForce(Protocol):
    """Makes a tenant's rules anew, and puts them in force."""

    async def __call__(self, tenant: TenantId) -> None: ...


@dataclass(slots=True)
class EdgeServices:
    """Wired once per replica by serve/app.py."""

    authenticator: Authenticator
    app_pool: Pool
    writer_pool: Pool
    directory: DetectorDirectory
    advisor: AdvisorStatus
    enforce_rules: RulesInForce
    metrics: Metrics
    database_disk: Path | None = None
    searches: SearchSlots = field(init=False)

    def __post_init__(self) -> None:
        self.searches = SearchSlots(lambda: self.metrics.count("searches_refused"))

    async def _tenant(self, headers: Headers, scope: str = "read") -> TenantId:
        tenant, _ = await self.authenticator.tenant_principal(headers, scope)
        return TenantId(tenant)

    async def events(self, headers: Headers, wanted: EventFilter, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of detection events."""
        tenant = await self._tenant(headers)
        async with self.searches.slot(tenant), tenant_transaction(self.app_pool, tenant) as transaction:
            page = await search_events(transaction, wanted, limit, cursor)
        return {"items": [event_view(row) for row in page.items], "next_cursor": page.next_cursor}

    async def event(self, headers: Headers, event_id: UUID) -> dict[str, Any]:
        """One detection event; WireError 404."""
        async with tenant_transaction(self.app_pool, await self._tenant(headers)) as transaction:
            found = await get_event(transaction, event_id)
        return event_view(_found(found, f"event {event_id}"))

    async def incidents(
        self, headers: Headers, wanted: IncidentFilter, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        """A page of incidents."""
        async with tenant_transaction(self.app_pool, await self._tenant(headers)) as transaction:
            return asdict(await search_incidents(transaction, wanted, limit, cursor))

    async def incident(self, headers: Headers, incident_id: UUID) -> dict[str, Any]:
        """One incident with its timeline; WireError 404."""
        async with tenant_transaction(self.app_pool, await self._tenant(headers)) as transaction:
            found = await get_incident(transaction, incident_id)
        return incident_view(_found(found, f"incident {incident_id}"))

    async def advisory(self, headers: Headers, incident_id: UUID) -> dict[str, Any]:
        """The newest advisory of an incident; WireError 404."""
        async with tenant_transaction(self.app_pool, await self._tenant(headers)) as transaction:
            found = await latest(transaction, incident_id)
        if found is None:
            raise WireError(404, f"there is no advisory of incident {incident_id}")
        return {"incident_id": str(incident_id)} | asdict(found) | {"created_at": iso_time(found.created_at)}

    async def logs(self, headers: Headers, wanted: LogFilter, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of stored records."""
        tenant = await self._tenant(headers)
        async with self.searches.slot(tenant), tenant_transaction(self.app_pool, tenant) as transaction:
            page = await search_logs(transaction, wanted, limit, cursor)
        shown = {"next_cursor": page.next_cursor, "searched_to": page.searched_to}
        return {"items": [log_view(row) for row in page.items]} | shown

    async def log(self, headers: Headers, record_id: str) -> dict[str, Any]:
        """One stored record with its digest; WireError 404 or 422."""
        tenant = await self._tenant(headers)
        try:
            ref = RecordRef.parse(record_id)
        except ValueError as error:
            raise WireError(422, str(error)) from error
        async with tenant_transaction(self.app_pool, tenant) as transaction:
            found = await get_record(transaction, ref)
        return log_view(_found(found, f"record {record_id}"))

    async def status(self, headers: Headers) -> dict[str, Any]:
        """Components and, for a tenant's key, the tenant's counts."""
        principal = await self.authenticator.principal(headers)
        components = await self.components()
        counts = None
        if principal.tenant is not None and components["postgres"]["ready"]:
            async with tenant_transaction(self.app_pool, TenantId(principal.tenant)) as transaction:
                counts = await count_status(transaction)
        ready = bool(components["postgres"]["ready"] and components["detectors"]["ready"])
        return {"version": VERSION, "ready": ready, "components": components, "counts": counts}

    async def components(self) -> dict[str, dict[str, Any]]:
        """Postgres, detectors and advisor, all asked now: who does not answer holds up the others no longer."""
        postgres, whole_reports, advisor = await asyncio.gather(
            self._postgres(), self.directory.reports(), self.advisor.status()
        )
        reports = [
            {name: value for name, value in report.items() if name not in ("rule_hits", "rule_cost")}
            for report in whole_reports
        ]
        return {
            "postgres": postgres,
            "detectors": {"ready": _detectors_ready(reports), "actors": reports},
            "advisor": advisor,
        }

    async def _postgres(self) -> dict[str, Any]:
        try:
            async with system_transaction(self.writer_pool) as transaction:
                await transaction.connection.fetchval("SELECT 1")
        except StorageUnavailable as error:
            return {"ready": False, "detail": disk_trouble(self.database_disk) or error.reason}
        return {"ready": True, "detail": disk_trouble(self.database_disk)}

    async def analyze(self, headers: Headers, incident: dict[str, Any], wait_s: float) -> dict[str, Any]:
        """An advisory for an incident that the caller brings along; nothing of it is stored."""
        tenant = await self._tenant(headers)
        return await self.advisor.analyze(incident, wait_s, str(tenant))

    async def render_metrics(self) -> bytes:
        """The edge's metrics with the detectors' reports, in Prometheus text format."""
        hits: Counter[str] = Counter()
        costs: dict[str, float] = {}
        for report in await self.directory.reports():
            hits.update(report.get("rule_hits", {}))
            for rule, seconds in report.get("rule_cost", {}).items():
                costs[rule] = costs.get(rule, 0.0) + seconds
            for name in DETECTOR_GAUGES:
                if name.removeprefix("detector_") in report:
                    self.metrics.set(name, report[name.removeprefix("detector_")], actor=report["actor"])
        self.metrics.replace("rule_hits", "rule", {rule[:100]: n for rule, n in hits.most_common(_SHOWN_RULES)})
        dearest = sorted(costs.items(), key=lambda item: -item[1])[:_SHOWN_RULES]
        shown = {rule[:100]: seconds for rule, seconds in dearest}
        self.metrics.replace("rule_cost_seconds", "rule", shown)
        advisor = await self.advisor.status()
        self.metrics.set("llm_ready", float(advisor.get("llm", {}).get("state") == "ready"))
        return self.metrics.render()

    async def tenants(self, headers: Headers) -> list[dict[str, Any]]:
        """All tenants, for an administrator."""
        await self.authenticator.admin(headers)
        async with system_transaction(self.writer_pool) as transaction:
            return [_tenant_json(tenant) for tenant in await list_tenants(transaction)]

    async def create_tenant(self, headers: Headers, name: str) -> dict[str, Any]:
        """Makes a tenant and puts the rule pack in force for it, or leaves that to the housekeeping; WireError 409 when
        the name is taken."""
        administrator = await self.authenticator.admin(headers)
        try:
            tenant = await create_tenant(self.app_pool, name, actor=administrator.key_id)
        except TenantExists as error:
            raise WireError(409, str(error)) from error
        try:
            await self.enforce_rules(tenant)
        except Exception:  # the tenant is made, and asking again would say that the name is taken
            logger.exception("a new tenant has no rules yet: the housekeeping tries again", tenant=str(tenant))
        return _tenant_json(await named_tenant(self.writer_pool, name))

    async def keys(self, headers: Headers, name: str) -> list[dict[str, Any]]:
        """A tenant's keys without their secrets."""
        await self.authenticator.admin(headers)
        tenant = await named_tenant(self.writer_pool, name)
        async with tenant_transaction(self.app_pool, tenant.id) as transaction:
            return [_key_json(key) for key in await list_keys(transaction)]

    async def create_key(self, headers: Headers, name: str, label: str, scopes: list[Scope]) -> dict[str, Any]:
        """A new key; its text is in the answer and nowhere else."""
        administrator = await self.authenticator.admin(headers)
        tenant = await named_tenant(self.writer_pool, name)
        async with tenant_transaction(self.app_pool, tenant.id) as transaction:
            new = await create_key(transaction, label, scopes, actor=administrator.key_id)
            [row] = [key for key in await list_keys(transaction) if key.key_id == new.key_id]
        return _key_json(row) | {"key": new.secret_text}

    async def revoke_key(self, headers: Headers, name: str, key_id: str) -> None:
        """Revokes a key; WireError 404 when the tenant has none of that id."""
        administrator = await self.authenticator.admin(headers)
        tenant = await named_tenant(self.writer_pool, name)
        try:
            async with tenant_transaction(self.app_pool, tenant.id) as transaction:
                await revoke_key(transaction, key_id, actor=administrator.key_id)
        except KeyNotFound as error:
            raise WireError(404, f"tenant {name!r} has no key {key_id!r}") from error
        self.authenticator.forget()


def _detectors_ready(reports: list[dict[str, Any]]) -> bool:
    """Every detector works; one that has just been asked for may still be starting beside others that do."""
    states = {report["state"] for report in reports}
    return "running" in states and states <= {"running", "starting", "not made yet"}


def _tenant_json(tenant: Tenant) -> dict[str, Any]:
    return {"tenant_id": str(tenant.id), "name": tenant.name, "created_at": iso_time(tenant.created_at)}


def _key_json(key: KeyRow) -> dict[str, Any]:
    moments = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    shown = {"key_id": key.key_id, "label": key.label, "scopes": list(key.scopes)}
    return shown | {name: None if moment is None else iso_time(moment) for name, moment in moments.items()}


def _found(value: dict[str, Any] | None, what: str) -> dict[str, Any]:
    if value is None:
        raise WireError(404, f"there is no {what}")
    return value
