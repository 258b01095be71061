"""The agent API: /agent/*. Enrolment shows a token; every other request is signed (docs/wire.md, "Signed envelope")."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from pydantic import BaseModel

from serve.control.agent_door import AgentDoor
from serve.control.agent_models import (
    MOST_CERTIFICATE_BYTES,
    MOST_FILE_BODY_BYTES,
    MOST_OUTPUT_BYTES,
    MOST_PULL_BYTES,
    MOST_RESULT_BYTES,
    CertificateRequest,
    FilePart,
    OutputPart,
    PullRequest,
    SignedResult,
)
from serve.control.agent_services import AgentServices
from serve.control.enrolment import EnrolmentDesk, EnrolmentRequest
from serve.errors import WireError
from serve.ingest.body import parsed, read_body
from serve.openapi import refusals
from serve.stamped_route import StampedRoute

_MOST_ENROLMENT_BYTES = 32_768
_REFUSALS = {
    400: "The signed envelope cannot be read, or the body is not of its digest.",
    401: "No envelope, an unknown key, a bad signature, or a token that enrols nobody.",
    403: "The agent was revoked or never enrolled, or key and certificate are not of one agent.",
    404: "The agent has no such job, policy or package.",
    409: "A nonce was used before, a lease is not held, or a name is taken.",
    413: "The body is too large.",
    422: "A value is of the wrong form; `detail` says which.",
    429: "Too many requests of this agent wait already.",
}

Digest = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$")]


def agent_api_routes(
    door: AgentDoor, services: AgentServices, desk: EnrolmentDesk, packages: Path, route_class: type[StampedRoute]
) -> APIRouter:
    """What agents call. `packages` is the folder of agent packages, each named by the hex SHA-256 of its bytes."""
    router = APIRouter(prefix="/agent", tags=["agents"], route_class=route_class, responses=refusals(_REFUSALS))

    @router.post("/enroll", status_code=201, openapi_extra=_body_of(EnrolmentRequest))
    async def enroll(request: Request) -> dict[str, Any]:
        """Makes an agent of a host that shows a one-time token: certificate, keys and addresses, this once."""
        body = await read_body(request.stream(), _MOST_ENROLMENT_BYTES)
        return await desk.enrol(parsed(EnrolmentRequest, body))

    @router.post("/jobs/pull", openapi_extra=_body_of(PullRequest))
    async def pull(request: Request) -> dict[str, Any]:
        """Signed jobs for the agent under a lease of a minute each; waits for the first up to `wait_s` seconds."""
        caller = await door.admit(request, MOST_PULL_BYTES)
        return await services.pull(caller, parsed(PullRequest, caller.body), request.is_disconnected)

    @router.post("/jobs/result", openapi_extra=_body_of(SignedResult))
    async def result(request: Request) -> dict[str, Any]:
        """What came of a job, signed by the agent. A final word that is repeated changes nothing."""
        caller = await door.admit(request, MOST_RESULT_BYTES)
        return await services.result(caller, parsed(SignedResult, caller.body))

    @router.post("/jobs/output", openapi_extra=_body_of(OutputPart))
    async def output(request: Request) -> dict[str, Any]:
        """What a job prints, at most 64 KiB of it; keeps the lease for another minute."""
        caller = await door.admit(request, MOST_OUTPUT_BYTES)
        return await services.output(caller, parsed(OutputPart, caller.body))

    @router.post("/files", openapi_extra=_body_of(FilePart))
    async def file(request: Request) -> dict[str, Any]:
        """A part of the file that a COLLECT_FILE job brings; keeps the lease for another minute."""
        caller = await door.admit(request, MOST_FILE_BODY_BYTES)
        return await services.file(caller, parsed(FilePart, caller.body))

    @router.post("/certificate", openapi_extra=_body_of(CertificateRequest))
    async def certificate(request: Request) -> dict[str, Any]:
        """A certificate for a new key of the agent, under a CERT_ROTATE job that it holds."""
        caller = await door.admit(request, MOST_CERTIFICATE_BYTES)
        return await services.certificate(caller, parsed(CertificateRequest, caller.body))

    @router.get("/policies/{digest}", response_class=Response)
    async def policy(request: Request, digest: Digest) -> Response:
        """The text of a policy that an UPDATE_CONFIG job of the agent names."""
        caller = await door.admit(request, 0)
        text = await services.policy(caller, digest)
        return Response(text.encode(), media_type="application/yaml")

    @router.get("/packages/{digest}", response_class=Response)
    async def package(request: Request, digest: Digest) -> Response:
        """A package of the agent, by the SHA-256 of its bytes; whose it is its own signature says."""
        caller = await door.admit(request, 0)
        await services.standing(caller)
        path = packages / digest
        if not path.is_file():
            raise WireError(404, f"there is no package {digest}: put it into {packages.name}")
        return FileResponse(path, media_type="application/octet-stream")

    return router


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The request body for OpenAPI; it is read by hand, once size and signature are checked."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
