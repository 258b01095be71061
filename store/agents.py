"""Agents: who they are, which labels they carry, how they are, and what their revocation takes with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

import orjson

from store.audit import append_audit
from store.paging import page_size
from store.postgres import Pool, TenantTransaction, system_transaction
from store.queries import sql
from store.signing_keys import revoke_signing_key
from store.values import json_text, text

HealthStatus = Literal["unknown", "ok", "degraded", "failing"]
Labels: TypeAlias = Mapping[str, str]

MOST_LABELS = 32
MOST_SELECTED = 100_000
SILENT = timedelta(minutes=2)
"""An agent polls every half minute at the latest; who is silent for so long is ill, or gone."""
_LABEL = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")
_VALUE = re.compile(r"[A-Za-z0-9._:/@-]{0,63}")


class AgentNotFound(Exception):
    """The tenant has no such agent, or has revoked it."""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent as it was enrolled, and what was last heard of it.

    `result_key` is the raw public key (32 bytes) of its results, `health` what it said of itself.
    """

    agent: str
    state: Literal["active", "revoked"]
    labels: dict[str, str]
    result_key: bytes
    signing_key: str
    version: str
    platform: str
    enrolled_by: str
    enrolled_at: datetime
    revoked_by: str | None
    revoked_at: datetime | None
    last_seen: datetime | None
    status: HealthStatus
    health: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate that was signed for an agent; `serial` in hex."""

    serial: str
    begins: datetime
    ends: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class HeardHealth:
    """What one agent said of itself at `seen`, the server's time."""

    agent: str
    seen: datetime
    status: HealthStatus
    version: str
    health: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents to list: by status, by labels that they must all carry."""

    status: HealthStatus | None = None
    labels: Labels | None = None


def check_labels(labels: Labels) -> dict[str, str]:
    """The labels, once they are fit to select by. Raises ValueError."""
    if len(labels) > MOST_LABELS:
        raise ValueError(f"an agent carries at most {MOST_LABELS} labels")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise ValueError(f"{name!r} is no label: use 1 to 63 of a-z, 0-9, '.', '_', '-' and '/'")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"{value!r} is no value of a label: use up to 63 of letters, digits and . _ - : / @")
    return dict(labels)


async def get_agent(tx: TenantTransaction, agent: str) -> AgentRow | None:
    """The agent of that name, active or revoked."""
    row = await tx.connection.fetchrow(sql("agent_get"), text(agent, 256))
    return None if row is None else agent_row(row)


async def active_agent(tx: TenantTransaction, agent: str) -> AgentRow:
    """The agent of that name. Raises AgentNotFound for none, and for one that was revoked."""
    found = await get_agent(tx, agent)
    if found is None or found.state != "active":
        raise AgentNotFound(f"this tenant has no active agent {agent!r}")
    return found


async def is_revoked(tx: TenantTransaction, agent: str) -> bool:
    """Whether the agent of that name was revoked; one that was never enrolled was not."""
    state: str | None = await tx.connection.fetchval(sql("agent_state"), text(agent, 256))
    return state == "revoked"


async def list_agents(tx: TenantTransaction, wanted: AgentFilter, limit: int, after: str) -> list[AgentRow]:
    """Agents by name, those after `after`, at most `limit` of them (1 to 1,000)."""
    labels = None if not wanted.labels else json_text(dict(wanted.labels))
    rows = await tx.connection.fetch(sql("agent_page"), text(after, 256), wanted.status, labels, page_size(limit))
    return [agent_row(row) for row in rows]


async def select_agents(tx: TenantTransaction, labels: Labels, seed: UUID) -> list[str]:
    """The active agents that carry all the labels, in an order that depends on the seed alone."""
    rows = await tx.connection.fetch(sql("agents_selected"), json_text(dict(labels)), str(seed), MOST_SELECTED)
    return [row["agent"] for row in rows]


async def label_agent(tx: TenantTransaction, agent: str, labels: Labels, *, actor: str) -> AgentRow:
    """Replaces the agent's labels. Raises AgentNotFound, ValueError."""
    kept = check_labels(labels)
    if await tx.connection.fetchval(sql("agent_label"), text(agent, 256), json_text(kept)) is None:
        raise AgentNotFound(f"this tenant has no agent {agent!r}")
    await append_audit(tx, actor, "agent.label", agent_object(agent), {"labels": kept})
    found = await get_agent(tx, agent)
    assert found is not None  # noqa: S101 - the row was changed in this transaction
    return found


async def revoke_agent(tx: TenantTransaction, agent: str, *, actor: str) -> list[str]:
    """Ends an agent with its signing keys, certificates and open jobs; returns serials to put on the revocation list.

    Raises AgentNotFound; what was revoked before is not found either.
    """
    if await tx.connection.fetchval(sql("agent_revoke"), text(agent, 256), text(actor)) is None:
        raise AgentNotFound(f"this tenant has no active agent {agent!r}")
    # All rows before the first word in the audit chain: whoever holds a job waits for that chain next.
    cancelled = await tx.connection.fetch(sql("agent_jobs_cancel"), agent)
    keys = await tx.connection.fetch(sql("agent_signing_keys"), agent)
    serials = [row["serial"] for row in await tx.connection.fetch(sql("agent_certificates_revoke"), agent)]
    for row in keys:
        await revoke_signing_key(tx, row["key_id"], actor=actor)
    await audit_cancelled_jobs(tx, cancelled, actor)
    detail = {"certificates": serials, "cancelled_jobs": len(cancelled)}
    await append_audit(tx, actor, "agent.revoke", agent_object(agent), detail)
    return serials


async def audit_cancelled_jobs(tx: TenantTransaction, rows: Sequence[Any], actor: str) -> None:
    """Puts down the rows of agent_jobs_cancel."""
    for row in rows:
        await append_audit(tx, actor, "job.cancel", f"job:{row['job_id']}", {"reason": "agent_revoked"})


async def record_certificate(
    tx: TenantTransaction,
    agent: str,
    certificate: CertificateRow,
    *,
    actor: str,
    job: UUID | None = None,
) -> None:
    """Remembers what was signed for an agent, so that a revocation finds it."""
    await tx.connection.execute(
        sql("agent_certificate_insert"),
        tx.tenant,
        certificate.serial,
        agent,
        job,
        certificate.begins,
        certificate.ends,
    )
    detail = {"serial": certificate.serial, "job": None if job is None else str(job)}
    await append_audit(tx, actor, "agent.certificate", agent_object(agent), detail)


async def certificates_for_job(tx: TenantTransaction, agent: str, job: UUID) -> int:
    """How many certificates were signed for this job already."""
    count: int = await tx.connection.fetchval(sql("agent_certificates_for_job"), agent, job)
    return count


async def certificates_due(tx: TenantTransaction, now: datetime, week: int, most: int) -> list[tuple[str, str]]:
    """Agents whose newest certificate is in the last third of its life, the most urgent first.

    With each the idempotency key of the job that tells it so in that week; who was told already is left out.
    """
    rows = await tx.connection.fetch(sql("agent_certificates_due"), now, most, str(week))
    return [(row["agent"], row["idempotency_key"]) for row in rows]


async def list_certificates(tx: TenantTransaction, agent: str) -> list[CertificateRow]:
    """The newest twenty certificates of an agent."""
    return [CertificateRow(**row) for row in await tx.connection.fetch(sql("agent_certificate_list"), agent)]


async def write_health(tx: TenantTransaction, heard: Sequence[HeardHealth]) -> int:
    """Stores what agents said of themselves, one word each; returns how many rows changed."""
    status: str = await tx.connection.execute(
        sql("agent_health_write"),
        [item.agent for item in heard],
        [item.seen for item in heard],
        [item.status for item in heard],
        [text(item.version, 64) for item in heard],
        [json_text(dict(item.health)) for item in heard],
    )
    return int(status.removeprefix("UPDATE "))


async def tenants_with_due_jobs(pool: Pool, now: datetime) -> list[UUID]:
    """Tenants for which the sweep of jobs and rollouts has something to look at. Takes a pool of the writer role."""
    async with system_transaction(pool) as tx:
        rows = await tx.connection.fetch(sql("tenants_with_due_jobs"), now)
    return [UUID(int=row["tenant_id"].int) for row in rows]


async def count_agents(pool: Pool, now: datetime) -> tuple[dict[str, int], dict[str, int]]:
    """Active agents by status, with `silent` for who was not heard of for minutes, and open jobs by state.

    Of all tenants together. Takes a pool of the writer role.
    """
    async with system_transaction(pool) as tx:
        agents = await tx.connection.fetch(sql("agents_by_status"), now - SILENT)
        jobs = await tx.connection.fetch(sql("jobs_by_state"))
    return {row["status"]: row["agents"] for row in agents}, {row["state"]: row["jobs"] for row in jobs}


def agent_object(agent: str) -> str:
    """How the audit log names an agent."""
    return f"agent:{agent}"


def agent_row(row: Any) -> AgentRow:
    """The row of a statement that names every column of an agent."""
    return AgentRow(**{**row, "labels": orjson.loads(row["labels"]), "health": orjson.loads(row["health"])})
