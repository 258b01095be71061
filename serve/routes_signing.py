"""The administrators' API of signing keys: /api/admin/tenants/{name}/signing-keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, ConfigDict, Field

from serve.errors import WireError
from serve.openapi import refusals
from serve.schemas import Model
from serve.signing_services import SigningServices

AgentName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Who signs with the key.")]

_LONGEST_OVERLAP_HOURS = 24 * 90

_REFUSALS = {404: "There is no such tenant, agent or signing key."}


class NewSigningKey(Model):
    """A key of an agent, beside those it has: valid at once, and for good, where nothing else is stated."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"agent": "web-1"}]})

    agent: AgentName
    not_before: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None


class SigningKeyRotation(Model):
    """A new key of an agent; those it has go on for `overlap_hours`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"agent": "web-1", "overlap_hours": 24}]})

    agent: AgentName
    overlap_hours: float = Field(default=24.0, ge=0, le=_LONGEST_OVERLAP_HOURS)


class SigningKeyModel(Model):
    """A signing key without its secret. `master` is the number of the master key that it derives from."""

    key_id: str
    agent: str
    master: int
    created_at: str
    not_before: str
    expires_at: str | None = None
    revoked_at: str | None = None


class CreatedSigningKey(SigningKeyModel):
    """A new signing key. `secret` is shown this once; its whole text is the HMAC key."""

    secret: str


def signing_routes(services: SigningServices) -> APIRouter:
    """Signing keys, for an administrator's key."""
    router = APIRouter(
        prefix="/api/admin/tenants/{name}", tags=["administration"], responses=refusals(_REFUSALS, administrators=True)
    )

    @router.get("/signing-keys")
    async def signing_keys(request: Request, name: str) -> dict[str, list[SigningKeyModel]]:
        """The tenant's signing keys, without their secrets."""
        return {"items": [SigningKeyModel(**key) for key in await services.keys(request.headers, name)]}

    @router.post("/signing-keys", status_code=201)
    async def create_signing_key(request: Request, name: str, new: NewSigningKey) -> CreatedSigningKey:
        """Makes a signing key of an agent and shows its secret this once."""
        _check_order(new.not_before, new.expires_at)
        made = await services.create(request.headers, name, new.agent, new.not_before, new.expires_at)
        return CreatedSigningKey(**made)

    @router.post("/signing-keys/rotate", status_code=201)
    async def rotate_signing_keys(request: Request, name: str, rotation: SigningKeyRotation) -> CreatedSigningKey:
        """Makes a new signing key of an agent; those it had go on for the overlap, then end."""
        overlap = timedelta(hours=rotation.overlap_hours)
        return CreatedSigningKey(**await services.rotate(request.headers, name, rotation.agent, overlap))

    @router.delete("/signing-keys/{key_id}", status_code=204)
    async def revoke_signing_key(request: Request, name: str, key_id: str) -> Response:
        """Revokes a signing key; replicas stop taking it within seconds."""
        await services.revoke(request.headers, name, key_id)
        return Response(status_code=204)

    return router


def _check_order(not_before: datetime | None, expires_at: datetime | None) -> None:
    if not_before is not None and expires_at is not None and expires_at <= not_before:
        raise WireError(422, "expires_at must be after not_before")
