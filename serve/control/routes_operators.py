"""The operators' side of the Control API: agents, tokens, policies, jobs, rollouts."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from agent.jobs import JobType
from serve.control.job_services import JobServices
from serve.control.models import (
    AgentDetail,
    AgentModel,
    AgentPage,
    AgentTokenModel,
    ApprovalTypes,
    ApprovalTypesModel,
    CreatedAgentToken,
    JobDetail,
    JobModel,
    JobPage,
    LabelChange,
    MadeJob,
    NewAgentToken,
    NewJobRequest,
    NewPolicy,
    PolicyDetail,
    PolicyModel,
    RevokedAgent,
    RolloutModel,
    RolloutPage,
)
from serve.control.operator_services import AgentAdministration
from serve.errors import WireError
from serve.openapi import refusals
from store.agents import AgentFilter
from store.jobs import JobFilter, JobState

_REFUSALS = {
    403: "The key lacks the scope, belongs to another tenant, or would approve what it made itself.",
    404: "There is no such agent, token, policy, job or rollout.",
    409: "The state does not allow it, or the idempotency key belongs to another job.",
    422: "A value is of the wrong form; `detail` says which.",
}
_LABEL = re.compile(r"([a-z0-9][a-z0-9._/-]{0,62})=([A-Za-z0-9._:/@-]{0,63})")

Limit = Annotated[int, Query(ge=1, le=500, description="Items a page.")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next_cursor` of the page before.")]
LabelList = Annotated[list[str] | None, Query(max_length=32, description="`name=value`; all of them must be carried.")]


def agent_routes(services: AgentAdministration) -> APIRouter:
    """Agents, for a tenant's key."""
    router = APIRouter(prefix="/api", tags=["agents"], responses=refusals(_REFUSALS))

    @router.get("/agents")
    async def agents(
        request: Request,
        status: Literal["unknown", "ok", "degraded", "failing"] | None = None,
        label: LabelList = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> AgentPage:
        """Agents by name: labels, version, how they are, when they were last heard of."""
        return await services.agents(request.headers, AgentFilter(status, _labels(label)), limit, cursor)

    @router.get("/agents/{agent}")
    async def agent_of(request: Request, agent: str) -> AgentDetail:
        """One agent with its certificates and its own words."""
        return await services.agent(request.headers, agent)

    @router.put("/agents/{agent}/labels")
    async def label_agent(request: Request, agent: str, change: LabelChange) -> AgentModel:
        """Replaces an agent's labels."""
        return await services.label(request.headers, agent, change.labels)

    @router.post("/agents/{agent}/revoke")
    async def revoke_agent(request: Request, agent: str) -> RevokedAgent:
        """Ends an agent: its keys, its certificates and its open jobs."""
        return await services.revoke(request.headers, agent)

    return router


def enrolment_routes(services: AgentAdministration) -> APIRouter:
    """Enrolment tokens and policies of collectors, for a tenant's key."""
    router = APIRouter(prefix="/api", tags=["agents"], responses=refusals(_REFUSALS))

    @router.get("/agent-tokens")
    async def tokens(request: Request) -> dict[str, list[AgentTokenModel]]:
        """Enrolment tokens without their secrets, the newest first."""
        return {"items": await services.tokens(request.headers)}

    @router.post("/agent-tokens", status_code=201)
    async def create_token(request: Request, new: NewAgentToken) -> CreatedAgentToken:
        """Makes a token that enrols one agent, and shows it this once."""
        return await services.create_token(request.headers, new)

    @router.delete("/agent-tokens/{token_id}", status_code=204)
    async def revoke_token(request: Request, token_id: str) -> Response:
        """Ends a token that nobody has used."""
        await services.revoke_token(request.headers, token_id)
        return Response(status_code=204)

    @router.get("/agent-policies")
    async def policies(request: Request) -> dict[str, list[PolicyModel]]:
        """Every version of every policy, without the texts."""
        return {"items": await services.policies(request.headers)}

    @router.get("/agent-policies/{name}")
    async def policy(
        request: Request, name: str, version: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
    ) -> PolicyDetail:
        """A version of a policy with its text; 0 is the newest."""
        return await services.policy(request.headers, name, version)

    @router.post("/agent-policies/{name}", status_code=201)
    async def add_policy(request: Request, name: str, new: NewPolicy) -> PolicyModel:
        """Makes the next version of a policy; a text that is the newest already makes none."""
        return await services.add_policy(request.headers, name, new.content)

    return router


def job_routes(services: JobServices) -> APIRouter:
    """Jobs, for a tenant's key."""
    router = APIRouter(prefix="/api", tags=["jobs"], responses=refusals(_REFUSALS))

    known: dict[int | str, dict[str, Any]] = {
        200: {"model": MadeJob, "description": "The job that this idempotency key made before."}
    }

    @router.post("/jobs", status_code=201, responses=known)
    async def create(request: Request, response: Response, new: NewJobRequest) -> MadeJob:
        """A job for an agent, or a rollout for all with the labels; 200 when the idempotency key knows it already."""
        made, is_new = await services.create(request.headers, new)
        response.status_code = 201 if is_new else 200
        return made

    @router.get("/jobs")
    async def jobs(
        request: Request,
        state: JobState | None = None,
        agent: Annotated[str | None, Query(max_length=63)] = None,
        type_: Annotated[JobType | None, Query(alias="type")] = None,
        rollout: UUID | None = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> JobPage:
        """Jobs, the newest first."""
        return await services.jobs(request.headers, JobFilter(state, agent, type_, rollout), limit, cursor)

    @router.get("/jobs/{job_id}")
    async def job(request: Request, job_id: UUID) -> JobDetail:
        """One job with what was signed on both sides and what it printed."""
        return await services.job(request.headers, job_id)

    @router.post("/jobs/{job_id}/approve")
    async def approve(request: Request, job_id: UUID) -> JobModel:
        """Lets a job begin that waits for approval. The key that made it cannot."""
        return await services.approve(request.headers, job_id)

    @router.post("/jobs/{job_id}/cancel")
    async def cancel(request: Request, job_id: UUID) -> JobModel:
        """Ends a job; 409 while an agent has it, which cannot be called back."""
        return await services.cancel(request.headers, job_id)

    @router.get("/jobs/{job_id}/file", response_class=Response)
    async def file(request: Request, job_id: UUID) -> Response:
        """The file that a COLLECT_FILE job brought, as it is: it may be what you fear it is."""
        digest, content = await services.file(request.headers, job_id)
        headers = {
            "Content-Disposition": f'attachment; filename="{job_id}.collected"',
            "X-Content-Type-Options": "nosniff",
            "Digest": f"sha-256={digest.hex()}",
        }
        return Response(content, media_type="application/octet-stream", headers=headers)

    return router


def rollout_routes(services: JobServices) -> APIRouter:
    """Rollouts, which `POST /api/jobs` with labels makes, for a tenant's key."""
    router = APIRouter(prefix="/api", tags=["jobs"], responses=refusals(_REFUSALS))

    @router.get("/rollouts")
    async def rollouts(request: Request, limit: Limit = 100, cursor: Cursor = None) -> RolloutPage:
        """Rollouts, the newest first."""
        return await services.rollouts(request.headers, limit, cursor)

    @router.get("/rollouts/{rollout_id}")
    async def rollout(request: Request, rollout_id: UUID) -> RolloutModel:
        """One rollout: how far it is, and its jobs by wave and state."""
        return await services.rollout(request.headers, rollout_id)

    @router.post("/rollouts/{rollout_id}/approve")
    async def approve_rollout(request: Request, rollout_id: UUID) -> RolloutModel:
        """Lets a rollout begin that waits for approval. The key that made it cannot."""
        return await services.approve_rollout(request.headers, rollout_id)

    @router.post("/rollouts/{rollout_id}/cancel")
    async def cancel_rollout(request: Request, rollout_id: UUID) -> RolloutModel:
        """Ends a rollout; jobs that agents were given go on."""
        return await services.cancel_rollout(request.headers, rollout_id)

    return router


def approval_routes(services: AgentAdministration) -> APIRouter:
    """Which jobs wait for approval, for an administrator's key: a tenant's own key cannot change that."""
    router = APIRouter(
        prefix="/api/admin/tenants/{name}",
        tags=["administration"],
        responses=refusals({404: "There is no such tenant."}, administrators=True),
    )

    @router.get("/job-approval")
    async def approvals(request: Request, name: str) -> ApprovalTypesModel:
        """The types of jobs that wait for another key's approval."""
        return await services.approvals(request.headers, name)

    @router.put("/job-approval")
    async def set_approvals(request: Request, name: str, wanted: ApprovalTypes) -> ApprovalTypesModel:
        """Gives the tenant a list of its own; null takes it away."""
        types: list[str] | None = None if wanted.types is None else list(wanted.types)
        return await services.set_approvals(request.headers, name, types)

    return router


def _labels(given: list[str] | None) -> dict[str, str] | None:
    if not given:
        return None
    found: dict[str, str] = {}
    for text in given:
        match = _LABEL.fullmatch(text)
        if match is None:
            raise WireError(422, f"{text[:100]!r} is no label: write it as name=value")
        found[match[1]] = match[2]
    return found
