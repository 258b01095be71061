"""Handing jobs out under a lease, and what comes back: running, output, results. Leases that end are swept.

Every function here sees one agent of one tenant: whose job it is not, for that one it does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from detect.record import TenantId
from store.audit import append_audit
from store.jobs import JobNotFound, JobState, job_object
from store.postgres import Pool, TenantTransaction, single_statement
from store.queries import sql
from store.values import text

LEASE_S = 60.0
MOST_OUTPUT_BYTES = 65_536
SWEPT_AT_ONCE = 200


class LeaseLost(Exception):
    """The lease is not held (any more), or the job was never handed out."""


@dataclass(frozen=True, slots=True)
class AgentStanding:
    """Whether an agent may ask for jobs, its raw result key, and when the next job may be there (None: unknown)."""

    active: bool
    result_key: bytes
    next_at: datetime | None


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job as it is handed out; `args` is canonical JSON."""

    job_id: UUID
    agent: str
    type: str
    args: str
    dry_run: bool
    idempotency_key: str
    issued_at: datetime
    not_before: datetime
    expires_at: datetime
    attempt: int
    lease: UUID
    lease_until: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an agent says of a job, once its signature is good. `signed` and `signature` are kept as they came."""

    job: UUID
    lease: UUID
    attempt: int
    state: JobState
    reason: str
    detail: str
    output: str
    output_truncated: bool
    signed: str
    signature: bytes


async def agent_standing(tx: TenantTransaction, agent: str) -> AgentStanding | None:
    """How the agent stands; None for one that was never enrolled. Writes nothing."""
    return _standing(await tx.connection.fetchrow(sql("agent_standing"), tx.tenant, agent))


async def ask_standing(pool: Pool, tenant: TenantId, agent: str) -> AgentStanding | None:
    """The same in one question of its own, without a transaction around it: every poll asks it. For the app role."""
    async with single_statement(pool) as connection:
        return _standing(await connection.fetchrow(sql("agent_standing"), tenant, agent))


async def lease_jobs(tx: TenantTransaction, agent: str, most: int, lease_s: float = LEASE_S) -> list[LeasedJob]:
    """Takes up to `most` due jobs, the oldest first, for `lease_s` seconds. No job has two holders."""
    rows = await tx.connection.fetch(sql("jobs_lease"), agent, most, lease_s)
    jobs = [LeasedJob(**{**row, "job_id": _uuid(row["job_id"]), "lease": _uuid(row["lease"])}) for row in rows]
    return sorted(jobs, key=lambda job: (job.created_at, job.job_id))


async def record_signed(
    tx: TenantTransaction, job: LeasedJob, key_id: str, envelope: str, signature: bytes, digest: str
) -> None:
    """Keeps what is handed out as it was signed; `digest` is the SHA-256 of the envelope in hex."""
    await tx.connection.execute(sql("job_signed"), job.job_id, key_id, envelope, signature)
    detail = {"attempt": job.attempt, "lease": str(job.lease), "key_id": key_id, "digest": digest}
    await append_audit(tx, _actor(job.agent), "job.deliver", job_object(job.job_id), detail)


async def take_outcome(tx: TenantTransaction, agent: str, said: Outcome, lease_s: float = LEASE_S) -> JobState:
    """Puts down what the agent says and returns the job's state.

    The first final word of the agent that was given the job counts, whoever holds the lease; every later one changes
    nothing. Raises JobNotFound, and LeaseLost for `running` under a lease that is over and for what was never handed
    out.
    """
    row = await _delivered(tx, agent, said.job)
    state: JobState = row["state"]
    if row["answered"]:
        return state
    if said.attempt < 1 or said.attempt > row["attempt"]:
        raise LeaseLost("the job was not handed out so often")
    if said.state == "running":
        _check_lease(row, said.lease)
        await tx.connection.execute(sql("job_running"), said.job, lease_s, text(said.detail))
        if state != "running":
            await append_audit(tx, _actor(agent), "job.running", job_object(said.job), {"attempt": said.attempt})
        return "running"
    await tx.connection.execute(
        sql("job_finish"),
        said.job,
        said.state,
        text(said.reason, 64),
        text(said.detail),
        said.signed,
        said.signature,
    )
    if said.output:
        await _write_output(tx, said.job, said.output, truncated=said.output_truncated)
    detail = {"state": said.state, "reason": said.reason, "attempt": said.attempt, "before": state}
    await append_audit(tx, _actor(agent), "job.result", job_object(said.job), detail)
    return said.state


async def add_output(
    tx: TenantTransaction, agent: str, job: UUID, lease: UUID, offset: int, data: str, lease_s: float = LEASE_S
) -> tuple[int, bool]:
    """Appends to what the job has printed and extends its lease; returns the characters kept and whether some were cut.

    `offset` is how many characters came before. What is there already is not written twice; after a gap nothing is
    written, and the answer says where to go on. Raises JobNotFound, LeaseLost.
    """
    row = await _delivered(tx, agent, job)
    _check_lease(row, lease)
    await tx.connection.execute(sql("job_output_extend"), job, lease_s)
    stored = await tx.connection.fetchrow(sql("job_output_read"), job)
    known, truncated = ("", False) if stored is None else (stored["data"], stored["truncated"])
    if truncated or offset > len(known) or offset + len(data) <= len(known):
        return len(known), truncated
    whole, cut = _bounded(known + data[len(known) - offset :])
    await _write_output(tx, job, whole, truncated=cut)
    return len(whole), cut


async def keep_lease(
    tx: TenantTransaction, agent: str, job: UUID, wanted: str, lease: UUID | None = None, lease_s: float = LEASE_S
) -> None:
    """Extends a lease that is held; of any holder where `lease` is None.

    Raises JobNotFound unless the job is the agent's and of the type, LeaseLost.
    """
    row = await _delivered(tx, agent, job)
    if row["type"] != wanted:
        raise JobNotFound(f"the job {job} is no {wanted}")
    if lease is not None:
        _check_lease(row, lease)
    elif not row["holds"]:
        raise LeaseLost("the job's lease is over")
    await tx.connection.execute(sql("job_output_extend"), job, lease_s)


async def sweep_jobs(tx: TenantTransaction, most: int = SWEPT_AT_ONCE) -> int:
    """Expires what nobody began in time and gives back what an agent holds no more; returns how many jobs changed.

    At most `most` of each: with as many as that there may be more.
    """
    changed = await tx.connection.fetch(sql("jobs_give_back"), most)
    changed += await tx.connection.fetch(sql("jobs_expire"), most)
    for row in changed:
        action = "job.expire" if row["state"] == "expired" else "job.lease_lost"
        detail = {"state": row["state"], "attempt": row["attempt"]}
        await append_audit(tx, "server", action, job_object(_uuid(row["job_id"])), detail)
    return len(changed)


def _standing(row: Any) -> AgentStanding | None:
    if row is None or row["state"] is None:
        return None
    return AgentStanding(row["state"] == "active", row["result_key"], row["next_at"])


async def _delivered(tx: TenantTransaction, agent: str, job: UUID) -> Any:
    row = await tx.connection.fetchrow(sql("job_delivered"), job, agent)
    if row is None:
        raise JobNotFound(f"this agent has no job {job}")
    return row


def _check_lease(row: Any, lease: UUID) -> None:
    if not row["holds"] or row["lease"] is None or _uuid(row["lease"]) != lease:
        raise LeaseLost("the job's lease is not held: ask for jobs again")


async def _write_output(tx: TenantTransaction, job: UUID, data: str, *, truncated: bool) -> None:
    kept, cut = _bounded(data)
    await tx.connection.execute(sql("job_output_write"), tx.tenant, job, kept, truncated or cut)


def _bounded(data: str) -> tuple[str, bool]:
    kept = text(data, MOST_OUTPUT_BYTES)
    return kept, len(kept) < len(data)


def _actor(agent: str) -> str:
    return f"agent:{agent}"


def _uuid(value: Any) -> UUID:
    return UUID(int=value.int)
