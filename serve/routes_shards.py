"""The administrators' API of the detector shards: /api/admin/shards."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field

from serve.openapi import refusals
from serve.schemas import Model
from serve.shard_services import ShardServices
from store.shards import MAX_ACTORS

_REFUSALS = {404: "There is no such tenant.", 422: "The number of actors is out of range."}


class ShardModel(Model):
    """A shard: who holds it under which epoch, who should, and how many batches its tenants wait for."""

    shard: int
    actor: str | None
    wanted: str
    epoch: int
    claimed_at: str | None
    released: bool
    pinned: str | None = Field(description="The tenant that has this shard to itself.")
    tenants: int
    lag_batches: int


class PlanModel(Model):
    """How many actors share the virtual shards; each pinned tenant has one more."""

    desired_actors: int
    configured_actors: int | None
    revision: int
    changed_by: str | None
    changed_at: str | None
    pinned_tenants: int


class ShardsModel(PlanModel):
    """The plan, what the actors say of themselves, and every shard."""

    actors: list[dict[str, Any]]
    shards: list[ShardModel]


class Scale(Model):
    """The number of actors wanted."""

    model_config = ConfigDict(extra="forbid")

    actors: int = Field(ge=1, le=MAX_ACTORS)


class PinModel(Model):
    """Where a tenant is judged from now on."""

    tenant: str
    pinned: bool
    shard: int
    actor: str


def shard_routes(services: ShardServices) -> APIRouter:
    """Looking at the shards and changing the plan, for an administrator's key."""
    router = APIRouter(prefix="/api/admin", tags=["administration"], responses=refusals(_REFUSALS, administrators=True))

    @router.get("/shards")
    async def shards(request: Request) -> ShardsModel:
        """Shard by shard: actor, epoch, tenants, lag."""
        return ShardsModel(**await services.show(request.headers))

    @router.put("/shards/actors")
    async def scale(request: Request, wanted: Scale) -> PlanModel:
        """Sets how many actors share the shards. They follow within seconds, while everything goes on."""
        return PlanModel(**await services.scale(request.headers, wanted.actors))

    @router.put("/tenants/{name}/pin")
    async def pin(request: Request, name: str) -> PinModel:
        """Gives the tenant an actor of its own."""
        return PinModel(**await services.pin(request.headers, name))

    @router.delete("/tenants/{name}/pin")
    async def unpin(request: Request, name: str) -> PinModel:
        """Puts the tenant back among the others."""
        return PinModel(**await services.unpin(request.headers, name))

    return router
