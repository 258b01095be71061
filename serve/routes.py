"""The read API for analysts and the administrators' API. Handlers are thin: check the key, ask the store, answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from detect.incident import IncidentState
from serve.errors import WireError
from serve.openapi import refusals
from serve.schemas import (
    AdvisoryModel,
    CreatedKey,
    EventModel,
    EventPage,
    EventQuery,
    IncidentDetail,
    IncidentPage,
    KeyModel,
    LogModel,
    LogPage,
    NewKey,
    NewTenant,
    Severity,
    StatusModel,
    TenantModel,
)
from serve.services import EdgeServices
from store.search import DEFAULT_RANGE, EventFilter, IncidentFilter, LogFilter

Limit = Annotated[int, Query(ge=1, le=500, description="Items a page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
From = Annotated[datetime | None, Query(alias="from", description="Event time, inclusive, RFC 3339 with zone.")]
To = Annotated[datetime | None, Query(alias="to", description="Event time, exclusive, RFC 3339 with zone.")]


def _zoned(moment: datetime | None, name: str) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise WireError(422, f"{name} needs a time zone, for example 2026-03-01T00:00:00Z")
    return moment


def read_routes(services: EdgeServices) -> APIRouter:
    """Everything below /api that a tenant's key with the scope `read` may ask."""
    router = APIRouter(prefix="/api", responses=refusals())

    @router.get("/status", tags=["operations"])
    async def status(request: Request) -> StatusModel:
        """What runs, how far the detectors are behind, what the language model is doing."""
        return StatusModel(**await services.status(request.headers))

    @router.get("/events", tags=["detection"])
    async def events(
        request: Request,
        asked: Annotated[EventQuery, Query()],
    ) -> EventPage:
        """Detection events, newest first."""
        wanted = EventFilter(
            start=_zoned(asked.start, "from"),
            end=_zoned(asked.end, "to"),
            severity_at_least=asked.severity,
            rule_id=asked.rule,
            entity=asked.entity,
            incident_id=asked.incident,
        )
        page = await services.events(request.headers, wanted, asked.limit, asked.cursor)
        return EventPage(**page)

    @router.get("/events/{event_id}", tags=["detection"])
    async def event(request: Request, event_id: UUID) -> EventModel:
        """One detection event, with what was folded into it."""
        return EventModel(**await services.event(request.headers, event_id))

    @router.get("/incidents", tags=["detection"])
    async def incidents(
        request: Request,
        state: IncidentState | None = None,
        severity: Annotated[Severity, Query(description="At least this severe.")] = "informational",
        start: From = None,
        end: To = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> IncidentPage:
        """Incidents, the one with the newest event first."""
        wanted = IncidentFilter(
            start=_zoned(start, "from"), end=_zoned(end, "to"), severity_at_least=severity, state=state
        )
        page = await services.incidents(request.headers, wanted, limit, cursor)
        return IncidentPage(**page)

    @router.get("/incidents/{incident_id}", tags=["detection"])
    async def incident(request: Request, incident_id: UUID) -> IncidentDetail:
        """One incident with its timeline: every member event and why it belongs."""
        return IncidentDetail(**await services.incident(request.headers, incident_id))

    @router.get("/incidents/{incident_id}/advisory", tags=["advice"])
    async def advisory(request: Request, incident_id: UUID) -> AdvisoryModel:
        """The newest advisory of an incident; every statement cites stored records."""
        return AdvisoryModel(**await services.advisory(request.headers, incident_id))

    return router


def log_routes(services: EdgeServices) -> APIRouter:
    """Stored records, by search and by id."""
    router = APIRouter(prefix="/api", responses=refusals())

    @router.get("/logs", tags=["logs"])
    async def logs(
        request: Request,
        start: From = None,
        end: To = None,
        text: Annotated[str | None, Query(max_length=500, description="Substring of body or values.")] = None,
        entity: Annotated[str | None, Query(max_length=500, description="`kind:value`, e.g. `ip:203.0.113.7`.")] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> LogPage:
        """Stored records, newest first; without `from`, of the 24 hours before `to` or now."""
        until = _zoned(end, "to") or datetime.now(UTC) + timedelta(microseconds=1)
        wanted = LogFilter(_zoned(start, "from") or until - DEFAULT_RANGE, until, text, entity)
        page = await services.logs(request.headers, wanted, limit, cursor)
        return LogPage(**page)

    @router.get("/logs/{record_id}", tags=["logs"])
    async def log(request: Request, record_id: str) -> LogModel:
        """One stored record with its digest recomputed: what an evidence id resolves to."""
        return LogModel(**await services.log(request.headers, record_id))

    return router


def advisor_routes(services: EdgeServices) -> APIRouter:
    """The advisor for callers with their own incident JSON."""
    router = APIRouter(tags=["advice"], responses=refusals())

    @router.post("/advisor/analyze")
    async def analyze(
        request: Request,
        incident: dict[str, Any],
        wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the language model.")] = 0,
    ) -> dict[str, Any]:
        """An advisory for the incident in the body (advise/incident.schema.json); nothing of it is stored."""
        return await services.analyze(request.headers, incident, wait)

    return router


def admin_routes(services: EdgeServices) -> APIRouter:
    """Tenants and keys, for an administrator's key."""
    router = APIRouter(prefix="/api/admin", tags=["administration"], responses=refusals(administrators=True))

    @router.get("/tenants")
    async def tenants(request: Request) -> dict[str, list[TenantModel]]:
        """All tenants."""
        return {"items": [TenantModel(**tenant) for tenant in await services.tenants(request.headers)]}

    @router.post("/tenants", status_code=201)
    async def create_tenant(request: Request, new: NewTenant) -> TenantModel:
        """Makes a tenant; its detector starts with the installation's rule pack."""
        return TenantModel(**await services.create_tenant(request.headers, new.name))

    @router.get("/tenants/{name}/keys")
    async def keys(request: Request, name: str) -> dict[str, list[KeyModel]]:
        """The tenant's keys, without their secrets."""
        return {"items": [KeyModel(**key) for key in await services.keys(request.headers, name)]}

    @router.post("/tenants/{name}/keys", status_code=201)
    async def create_key(request: Request, name: str, new: NewKey) -> CreatedKey:
        """Makes a key and shows it this once."""
        return CreatedKey(**await services.create_key(request.headers, name, new.label, list(new.scopes)))

    @router.delete("/tenants/{name}/keys/{key_id}", status_code=204)
    async def revoke_key(request: Request, name: str, key_id: str) -> Response:
        """Revokes a key; replicas stop taking it within seconds."""
        await services.revoke_key(request.headers, name, key_id)
        return Response(status_code=204)

    return router
