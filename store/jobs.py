"""Jobs: made, approved, cancelled, listed. How they are handed out and answered is in store/jobs_delivery.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args
from uuid import UUID, uuid4

import orjson

from store.agents import active_agent
from store.audit import append_audit
from store.paging import Page, decode_time_and_id, encode_cursor, page_size
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import iso_time, json_text, text

JobState = Literal[
    "awaiting_approval", "queued", "leased", "running", "succeeded", "failed", "rejected", "expired", "cancelled"
]
JOB_STATES: Final[tuple[str, ...]] = get_args(JobState)
FINAL_STATES: Final = frozenset({"succeeded", "failed", "rejected", "expired", "cancelled"})

# Agents take no job that lives longer (agent.jobs): what was made all the same could never be handed out, and would
# stand before all that comes after it.
LONGEST: Final = timedelta(days=30)

# What nobody should be able to start alone, unless the tenant says otherwise.
NEEDS_APPROVAL: Final[tuple[str, ...]] = ("BLOCK_IP", "COLLECT_FILE", "UPDATE_CONFIG", "UPGRADE")


class JobNotFound(Exception):
    """The tenant (or the agent) has no such job."""


class JobConflict(Exception):
    """The job's state does not allow it, or the idempotency key belongs to another job."""


class SelfApproval(Exception):
    """Who asks for a job cannot approve it."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to make. `args` is canonical JSON; it may begin at `not_before` and must begin before `expires_at`."""

    agent: str
    type: str
    args: str
    idempotency_key: str
    not_before: datetime
    expires_at: datetime
    dry_run: bool = False
    max_attempts: int = 3


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job without what was signed and printed. `held`: its wave is not out. Times are the server's."""

    job_id: UUID
    agent: str
    type: str
    args: str
    dry_run: bool
    idempotency_key: str
    state: JobState
    rollout_id: UUID | None
    wave: int
    held: bool
    created_by: str
    created_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    issued_at: datetime
    not_before: datetime
    expires_at: datetime
    max_attempts: int
    attempt: int
    lease: UUID | None
    lease_until: datetime | None
    key_id: str | None
    reason: str
    detail: str
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobEvidence:
    """What was signed on both sides, byte for byte, what the job printed, and which file it brought."""

    envelope: str | None
    signature: bytes | None
    result: str | None
    result_signature: bytes | None
    output: str
    output_truncated: bool
    file_digest: bytes | None
    file_size: int | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; None lets everything through."""

    state: JobState | None = None
    agent: str | None = None
    type: str | None = None
    rollout: UUID | None = None


async def create_job(
    tx: TenantTransaction, new: NewJob, *, actor: str, approval: bool, now: datetime
) -> tuple[JobRow, bool]:
    """Makes a job of an active agent; with `approval` it waits for somebody else's word.

    Says too whether it was made: a repeat under the same idempotency key gets the job that there is. Raises
    AgentNotFound, JobConflict when that job is another one, ValueError for times that do not fit.
    """
    if new.expires_at <= max(new.not_before, now):
        raise ValueError("the job would expire before it can begin")
    if new.expires_at > now + LONGEST:
        raise ValueError(f"a job must end within {LONGEST.days} days: begin it earlier, or let it live shorter")
    await active_agent(tx, new.agent)
    job_id = uuid4()
    state: JobState = "awaiting_approval" if approval else "queued"
    members = [(job_id, new.agent, new.idempotency_key, 0)]
    if not await insert_jobs(tx, new, members, state=state, actor=actor, now=now):
        row = await tx.connection.fetchrow(sql("job_by_idempotency_key"), new.agent, new.idempotency_key)
        known = job_row(row)
        if (known.type, known.args, known.dry_run) != (new.type, new.args, new.dry_run):
            raise JobConflict(f"the idempotency key belongs to another job of this agent, {known.job_id}")
        return known, False
    detail = {
        "agent": new.agent,
        "type": new.type,
        "args": orjson.loads(new.args),
        "dry_run": new.dry_run,
        "state": state,
        "expires_at": iso_time(new.expires_at),
    }
    await append_audit(tx, actor, "job.create", job_object(job_id), detail)
    return await get_job(tx, job_id), True


async def insert_jobs(
    tx: TenantTransaction,
    new: NewJob,
    members: list[tuple[UUID, str, str, int]],
    *,
    state: JobState,
    actor: str,
    now: datetime,
    rollout: UUID | None = None,
) -> int:
    """The same job for each (job id, agent, idempotency key, wave); returns how many were new. Waves begin held."""
    rows = await tx.connection.fetch(
        sql("job_insert"),
        tx.tenant,
        new.type,
        new.args,
        new.dry_run,
        state,
        rollout,
        rollout is not None,
        text(actor),
        now,
        new.not_before,
        new.expires_at,
        new.max_attempts,
        [member[0] for member in members],
        [member[1] for member in members],
        [member[2] for member in members],
        [member[3] for member in members],
    )
    return len(rows)


async def get_job(tx: TenantTransaction, job_id: UUID) -> JobRow:
    """The job of that id. Raises JobNotFound."""
    return _found(await tx.connection.fetchrow(sql("job_get"), job_id), job_id)


async def job_evidence(tx: TenantTransaction, job_id: UUID) -> JobEvidence:
    """What was signed, printed and brought. Raises JobNotFound."""
    row = await tx.connection.fetchrow(sql("job_evidence"), job_id)
    if row is None:
        raise JobNotFound(f"there is no job {job_id}")
    return JobEvidence(**row)


async def search_jobs(tx: TenantTransaction, wanted: JobFilter, limit: int, cursor: str | None) -> Page:
    """A page of JobRow items, the newest first. Raises InvalidCursor."""
    time, identifier = decode_time_and_id("jobs", cursor)
    size = page_size(limit)
    rows = await tx.connection.fetch(
        sql("job_page"), time, identifier, wanted.state, wanted.agent, wanted.type, wanted.rollout, size + 1
    )
    found = [job_row(row) for row in rows[:size]]
    more = len(rows) > size
    return Page(
        [{"job": job} for job in found],
        encode_cursor("jobs", found[-1].created_at, found[-1].job_id) if more else None,
    )


async def approve_job(tx: TenantTransaction, job_id: UUID, *, actor: str) -> JobRow:
    """Queues a job that waits for approval. Raises JobNotFound, JobConflict, SelfApproval."""
    job = await _held_row(tx, job_id)
    if job.state != "awaiting_approval":
        raise JobConflict(f"the job is {job.state}: nothing waits for approval")
    if job.rollout_id is not None:
        raise JobConflict(f"the job is of the rollout {job.rollout_id}: approve that")
    if job.created_by == actor:
        raise SelfApproval("another key than the one that made the job must approve it")
    if job.expires_at <= datetime.now(UTC):
        raise JobConflict("the job has expired: make a new one")
    await tx.connection.execute(sql("job_approve"), job_id, text(actor))
    await append_audit(tx, actor, "job.approve", job_object(job_id), {"made_by": job.created_by})
    return await get_job(tx, job_id)


async def cancel_job(tx: TenantTransaction, job_id: UUID, *, actor: str, now: datetime) -> JobRow:
    """Ends a job that no agent holds. Raises JobNotFound; JobConflict for one that is over or with an agent now."""
    job = await _held_row(tx, job_id)
    if job.state in FINAL_STATES:
        raise JobConflict(f"the job is {job.state} already")
    if job.lease_until is not None and job.lease_until > now:
        raise JobConflict("the agent has the job: it cannot be called back")
    await tx.connection.execute(sql("job_cancel"), job_id, "cancelled")
    await append_audit(tx, actor, "job.cancel", job_object(job_id), {"state": job.state, "attempt": job.attempt})
    return await get_job(tx, job_id)


async def approval_types(tx: TenantTransaction) -> tuple[tuple[str, ...], bool]:
    """The types of jobs that wait for approval, and whether the tenant has a list of its own."""
    stored = await tx.connection.fetchval(sql("approval_types_read"))
    if stored is None:
        return NEEDS_APPROVAL, False
    return tuple(str(item) for item in orjson.loads(stored)), True


async def set_approval_types(tx: TenantTransaction, types: list[str] | None, *, actor: str) -> None:
    """Gives the tenant a list of its own, or with None the installation's again."""
    stored = None if types is None else json_text(sorted(set(types)))
    await tx.connection.execute(sql("approval_types_write"), stored)
    await append_audit(tx, actor, "tenant.job_approval", f"tenant:{tx.tenant}", {"types": types})


def lifetime(seconds: int, begins: datetime) -> datetime:
    """When a job that may begin at `begins` ends."""
    return begins + timedelta(seconds=seconds)


def job_object(job_id: UUID) -> str:
    """How the audit log names a job."""
    return f"job:{job_id}"


def job_row(row: Any) -> JobRow:
    """The row of a statement that names every column of a job."""
    values = dict(row)
    for name in ("job_id", "rollout_id", "lease"):
        if values[name] is not None:
            values[name] = UUID(int=values[name].int)
    return JobRow(**values)


async def _held_row(tx: TenantTransaction, job_id: UUID) -> JobRow:
    return _found(await tx.connection.fetchrow(sql("job_hold"), job_id), job_id)


def _found(row: Any, job_id: UUID) -> JobRow:
    if row is None:
        raise JobNotFound(f"there is no job {job_id}")
    return job_row(row)
