"""What operators do with jobs and rollouts: make, look, approve, cancel. Reading needs `read`, the rest `operate`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid4

from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.job_types import checked_arguments
from serve.control.models import (
    JobDetail,
    JobModel,
    JobPage,
    MadeJob,
    NewJobRequest,
    RolloutModel,
    RolloutPage,
)
from serve.control.views import job_detail, job_model, rollout_model
from serve.errors import WireError
from store.agents import AgentNotFound
from store.jobs import (
    JobConflict,
    JobFilter,
    JobNotFound,
    NewJob,
    SelfApproval,
    approval_types,
    approve_job,
    cancel_job,
    create_job,
    get_job,
    job_evidence,
    lifetime,
    search_jobs,
)
from store.jobs_files import read_file
from store.jobs_rollouts import (
    NewRollout,
    NoAgents,
    RolloutNotFound,
    approve_rollout,
    cancel_rollout,
    create_rollout,
    get_rollout,
    list_rollouts,
)
from store.postgres import Pool, TenantTransaction, tenant_transaction

Headers = Mapping[str, str]
T = TypeVar("T")
V = TypeVar("V")

_MISSING = (JobNotFound, RolloutNotFound)


class JobServices:
    """Wired once per replica. All methods raise WireError 401, 403, 404, 409, 422, 503."""

    def __init__(self, authenticator: Authenticator, app_pool: Pool) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool

    async def create(self, headers: Headers, new: NewJobRequest) -> tuple[MadeJob, bool]:
        """Makes a job or a rollout, and says whether it is new; some types wait for somebody else's approval."""
        tenant, actor = await self._operator(headers)
        now = datetime.now(UTC)
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                args = await checked_arguments(tx, new.type, new.args)
                approval = new.type in (await approval_types(tx))[0]
                if new.agent is None:
                    return await _rollout(tx, new, args, actor, now, approval=approval), True
                begins = max(now, new.not_before or now)
                job = NewJob(
                    agent=new.agent,
                    type=new.type,
                    args=args,
                    idempotency_key=new.idempotency_key or uuid4().hex,
                    not_before=begins,
                    expires_at=lifetime(new.lifetime_s, begins),
                    dry_run=new.dry_run,
                    max_attempts=new.max_attempts,
                )
                made, is_new = await create_job(tx, job, actor=actor, approval=approval, now=now)
                return MadeJob(job=job_model(made)), is_new
        except AgentNotFound as error:
            raise WireError(404, str(error)) from error
        except JobConflict as error:
            raise WireError(409, str(error)) from error
        except (NoAgents, ValueError, OverflowError) as error:
            raise WireError(422, str(error)) from error

    async def jobs(self, headers: Headers, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
        """A page of jobs, the newest first."""
        async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
            page = await search_jobs(tx, wanted, limit, cursor)
        return JobPage(items=[job_model(item["job"]) for item in page.items], next_cursor=page.next_cursor)

    async def job(self, headers: Headers, job_id: UUID) -> JobDetail:
        """One job with its evidence."""
        try:
            async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
                return job_detail(await get_job(tx, job_id), await job_evidence(tx, job_id))
        except JobNotFound as error:
            raise WireError(404, str(error)) from error

    async def approve(self, headers: Headers, job_id: UUID) -> JobModel:
        """Lets a job begin that waits for approval; 403 for the key that made it."""
        tenant, actor = await self._operator(headers)
        return await self._change(tenant, lambda tx: approve_job(tx, job_id, actor=actor), job_model)

    async def cancel(self, headers: Headers, job_id: UUID) -> JobModel:
        """Ends a job that no agent holds."""
        tenant, actor = await self._operator(headers)
        now = datetime.now(UTC)
        return await self._change(tenant, lambda tx: cancel_job(tx, job_id, actor=actor, now=now), job_model)

    async def file(self, headers: Headers, job_id: UUID) -> tuple[bytes, bytes]:
        """Digest and content of the file that a job brought; needs `operate`, and is audited."""
        tenant, actor = await self._operator(headers)
        return await self._change(tenant, lambda tx: read_file(tx, job_id, actor=actor), lambda found: found)

    async def rollouts(self, headers: Headers, limit: int, cursor: str | None) -> RolloutPage:
        """A page of rollouts, the newest first, without counts."""
        async with tenant_transaction(self._app_pool, await self._reader(headers)) as tx:
            page = await list_rollouts(tx, limit, cursor)
        return RolloutPage(items=[rollout_model(item["rollout"]) for item in page.items], next_cursor=page.next_cursor)

    async def rollout(self, headers: Headers, rollout_id: UUID) -> RolloutModel:
        """One rollout with its counts."""
        tenant = await self._reader(headers)
        return await self._change(tenant, lambda tx: get_rollout(tx, rollout_id), rollout_model)

    async def approve_rollout(self, headers: Headers, rollout_id: UUID) -> RolloutModel:
        """Lets a rollout begin that waits for approval; 403 for the key that made it."""
        tenant, actor = await self._operator(headers)
        now = datetime.now(UTC)
        return await self._change(
            tenant, lambda tx: approve_rollout(tx, rollout_id, actor=actor, now=now), rollout_model
        )

    async def cancel_rollout(self, headers: Headers, rollout_id: UUID) -> RolloutModel:
        """Ends a rollout; jobs that agents were given go on."""
        tenant, actor = await self._operator(headers)
        return await self._change(tenant, lambda tx: cancel_rollout(tx, rollout_id, actor=actor), rollout_model)

    async def _change(
        self, tenant: TenantId, step: Callable[[TenantTransaction], Awaitable[T]], view: Callable[[T], V]
    ) -> V:
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                return view(await step(tx))
        except _MISSING as error:
            raise WireError(404, str(error)) from error
        except JobConflict as error:
            raise WireError(409, str(error)) from error
        except SelfApproval as error:
            raise WireError(403, str(error), reason="self_approval") from error

    async def _reader(self, headers: Headers) -> TenantId:
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        return tenant

    async def _operator(self, headers: Headers) -> tuple[TenantId, str]:
        tenant, principal = await self._authenticator.tenant_principal(headers, "operate")
        return tenant, principal.key_id


async def _rollout(
    tx: TenantTransaction, new: NewJobRequest, args: str, actor: str, now: datetime, *, approval: bool
) -> MadeJob:
    wanted = NewRollout(
        type=new.type,
        args=args,
        labels=new.labels or {},
        waves=new.waves,
        gate_s=new.gate_s,
        most_failures=new.most_failures,
        lifetime_s=new.lifetime_s,
        dry_run=new.dry_run,
        max_attempts=new.max_attempts,
    )
    return MadeJob(rollout=rollout_model(await create_rollout(tx, wanted, actor=actor, approval=approval, now=now)))
