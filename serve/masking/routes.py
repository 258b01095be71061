"""The API of masking: a setting of tenants for administrators, and POST /api/reveal for a tenant's analysts."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serve.masking.models import MaskingChange, MaskingModel, RevealAnswer, RevealRequest
from serve.masking.services import MaskingServices
from serve.openapi import refusals

_SETTING = {404: "There is no such tenant.", 409: "There is no newer master for a new key."}
_REVEAL = {
    403: "The key lacks the scope `reveal`, or belongs to another tenant.",
    409: "The tenant has never masked.",
    422: "There are too many tokens or candidates, or no reason.",
}


def masking_setting_routes(services: MaskingServices) -> APIRouter:
    """Whether a tenant masks, for an administrator's key: a tenant's own key cannot change that."""
    router = APIRouter(
        prefix="/api/admin/tenants/{name}", tags=["administration"], responses=refusals(_SETTING, administrators=True)
    )

    @router.get("/masking")
    async def masking(request: Request, name: str) -> MaskingModel:
        """Whether the tenant's agents mask what they send, and by which key."""
        return await services.state(request.headers, name)

    @router.put("/masking")
    async def set_masking(request: Request, name: str, wanted: MaskingChange) -> MaskingModel:
        """Switches masking for agents that are enrolled from now on; the tenant's rules look for their tokens."""
        return await services.change(request.headers, name, wanted)

    return router


def reveal_routes(services: MaskingServices) -> APIRouter:
    """What tokens stand for, for a tenant's key with the scope `reveal`."""
    router = APIRouter(prefix="/api", tags=["masking"], responses=refusals(_REVEAL))

    @router.post("/reveal")
    async def reveal(request: Request, response: Response, wanted: RevealRequest) -> RevealAnswer:
        """Turns addresses back, finds names among candidates. Tokens and reason are audited, candidates not kept."""
        answer = await services.reveal(request.headers, wanted)
        response.headers["Cache-Control"] = "no-store"
        return answer

    return router
