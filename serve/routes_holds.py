"""The administrators' API of legal holds and retention: /api/admin/tenants/{name}/holds and …/retention."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, ConfigDict, Field

from serve.hold_services import HoldServices
from serve.openapi import refusals
from serve.schemas import Model

_REFUSALS = {404: "There is no such tenant or hold.", 422: "The reason is missing, or the range ends before it begins."}

Reason = Annotated[str, Field(min_length=1, max_length=2000, description="The case or order; kept in the audit log.")]


class NewHold(Model):
    """What must not be deleted: everything received in [from, to). Without bounds: everything."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"reason": "case 2026-17", "from": "2026-03-01T00:00:00Z"}]},
    )

    reason: Reason
    start: AwareDatetime | None = Field(default=None, alias="from")
    end: AwareDatetime | None = Field(default=None, alias="to")


class HoldRelease(Model):
    """Why a hold is over."""

    reason: Reason


class HoldModel(Model):
    """A hold; released ones stay in the list."""

    hold_id: str
    reason: str
    start: str | None = Field(alias="from")
    end: str | None = Field(alias="to")
    placed_by: str
    placed_at: str
    released_by: str | None
    released_at: str | None


class Retention(Model):
    """`raw_log_days` null: the installation's."""

    raw_log_days: int | None = Field(ge=1, le=3650)


class RetentionModel(Model):
    """How long raw logs are kept, in whole days before today (UTC), and whether the tenant has its own figure."""

    raw_log_days: int
    own: bool


def hold_routes(services: HoldServices) -> APIRouter:
    """Holds and retention of a tenant, for an administrator's key."""
    router = APIRouter(
        prefix="/api/admin/tenants/{name}", tags=["administration"], responses=refusals(_REFUSALS, administrators=True)
    )

    @router.get("/holds")
    async def holds(request: Request, name: str) -> dict[str, list[HoldModel]]:
        """The tenant's legal holds, those in force first."""
        return {"items": [HoldModel(**hold) for hold in await services.holds(request.headers, name)]}

    @router.post("/holds", status_code=201)
    async def place(request: Request, name: str, new: NewHold) -> HoldModel:
        """Places a hold: from the answer on nothing that it covers is deleted, by retention or pruning."""
        return HoldModel(**await services.place(request.headers, name, new.reason, new.start, new.end))

    @router.post("/holds/{hold_id}/release")
    async def release(request: Request, name: str, hold_id: UUID, release: HoldRelease) -> HoldModel:
        """Ends a hold; what it kept past its time goes with the next sweep."""
        return HoldModel(**await services.release(request.headers, name, hold_id, release.reason))

    @router.get("/retention")
    async def retention(request: Request, name: str) -> RetentionModel:
        """How long the tenant's raw logs are kept."""
        return RetentionModel(**await services.retention(request.headers, name))

    @router.put("/retention")
    async def retain(request: Request, name: str, wanted: Retention) -> RetentionModel:
        """Gives the tenant a retention of its own; null takes it away."""
        return RetentionModel(**await services.retain(request.headers, name, wanted.raw_log_days))

    return router
