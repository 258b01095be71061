"""Agents and jobs for tests: enrolled through the store's own doors."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from detect.record import TenantId
from store.agent_policies import add_policy
from store.agents import CertificateRow, record_certificate
from store.agents_enrolment import Enrolment, create_token, enrol_agent
from store.jobs import JobRow, NewJob, create_job, lifetime
from store.jobs_delivery import LeasedJob, Outcome, add_output, lease_jobs
from store.jobs_files import FileChunk, add_chunk
from store.jobs_rollouts import NewRollout, create_rollout
from store.postgres import Pool, TenantTransaction, tenant_transaction
from tests.postgres.fixtures import Database

RESULT_KEY = b"k" * 32


async def enrol(tx: TenantTransaction, agent: str, labels: dict[str, str] | None = None) -> None:
    """An active agent."""
    token = await create_token(tx, "", labels or {}, datetime.now(UTC) + timedelta(hours=1), actor="operator")
    await enrol_agent(tx, token.row.token_id, Enrolment(agent, RESULT_KEY, "1.0", "test"), master=1)


async def make_job(
    tx: TenantTransaction,
    agent: str,
    kind: str = "PING",
    *,
    args: str = "{}",
    key: str | None = None,
    approval: bool = False,
    seconds: int = 3600,
    attempts: int = 3,
    begins: datetime | None = None,
) -> JobRow:
    """A job of an agent, made by the key `operator`."""
    now = datetime.now(UTC)
    first = begins or now
    new = NewJob(agent, kind, args, key or uuid4().hex, first, lifetime(seconds, first), max_attempts=attempts)
    return (await create_job(tx, new, actor="operator", approval=approval, now=now))[0]


async def lease(pool: Pool, tenant: TenantId, agent: str, most: int = 16) -> list[LeasedJob]:
    """What the agent gets now."""
    async with tenant_transaction(pool, tenant) as tx:
        return await lease_jobs(tx, agent, most)


async def with_agents(database: Database, *agents: str) -> tuple[Pool, TenantId]:
    """A tenant with these agents (web-1 where none is named), and a pool for twenty at once."""
    app, tenant = await database.pool("trustsoc_app", 20), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        for agent in agents or ("web-1",):
            await enrol(tx, agent)
    return app, tenant


async def leased(app: Pool, tenant: TenantId, agent: str = "web-1", kind: str = "PING", **options: int) -> LeasedJob:
    """A job that the agent was just given."""
    async with tenant_transaction(app, tenant) as tx:
        await make_job(tx, agent, kind, **options)  # type: ignore[arg-type]
    [job] = await lease(app, tenant, agent)
    return job


def outcome(job: LeasedJob, state: str = "succeeded", /, **changes: object) -> Outcome:
    """What the agent says of a job that it was given."""
    said: dict[str, object] = {
        "job": job.job_id,
        "lease": job.lease,
        "attempt": job.attempt,
        "state": state,
        "reason": "",
        "detail": "",
        "output": "",
        "output_truncated": False,
        "signed": "{}",
        "signature": b"s" * 64,
    }
    return Outcome(**said | changes)  # type: ignore[arg-type]


def chunk(job: UUID, lease_id: UUID, whole: bytes, offset: int = 0, end: int | None = None) -> FileChunk:
    """The bytes of a file from `offset` to `end`, with its true size and digest."""
    return FileChunk(job, lease_id, "/f", len(whole), hashlib.sha256(whole).digest(), offset, whole[offset:end])


async def end_lease(tx: TenantTransaction, job: UUID) -> None:
    """As if the lease's minute had passed."""
    await tx.connection.execute("UPDATE jobs SET lease_until = now() WHERE job_id = $1 AND lease IS NOT NULL", job)


async def fill_agents(tx: TenantTransaction) -> None:
    """A row in every table of agents and jobs."""
    await enrol(tx, "web-1", {"role": "web"})
    now = datetime.now(UTC)
    await record_certificate(tx, "web-1", CertificateRow("ab", now, now + timedelta(days=1), None), actor="test")
    await add_policy(tx, "base", "receivers: {}", actor="test")
    await make_job(tx, "web-1", "COLLECT_FILE", args='{"path":"/f"}')
    [job] = await lease_jobs(tx, "web-1", 1)
    await add_output(tx, "web-1", job.job_id, job.lease, 0, "line\n")
    await add_chunk(tx, "web-1", chunk(job.job_id, job.lease, b"content"))
    new = NewRollout("PING", "{}", {"role": "web"})
    await create_rollout(tx, new, actor="operator", approval=False, now=now)
