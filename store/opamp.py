"""Agents known by OpAMP: rows beside the enrolled ones, made when an instance is first heard of.

They hold neither a signing key nor a result key, so nothing but OpAMP speaks for them. What an instance has said is
kept in its row: any replica can answer the next message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from store.agents import HealthStatus, agent_object
from store.audit import append_audit
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import json_text, text

MOST_INSTANCES: Final = 20_000
"""Active ones of one tenant: whoever holds a sender's key could make names up for ever."""


class TooManyInstances(Exception):
    """The tenant has as many active instances as it may have."""


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance whose row is held until the transaction ends.

    `native`: the name is an enrolled agent's. `owner` is who it was made for, `health` what was written last.
    """

    active: bool
    native: bool
    owner: str
    health: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of an instance after a message, at `seen`, the server's time."""

    seen: datetime
    status: HealthStatus
    version: str
    platform: str
    health: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OfferedJob:
    """An UPDATE_CONFIG job that was offered to an instance: `digest` is the policy's SHA-256 in hex."""

    job_id: UUID
    digest: str
    attempt: int
    lease: UUID


async def hold_instance(tx: TenantTransaction, agent: str, owner: str, *, actor: str) -> InstanceRow:
    """The row of an instance, made for `owner` where there is none. Raises TooManyInstances."""
    row = await tx.connection.fetchrow(sql("opamp_agent_hold"), agent)
    if row is None:
        if await tx.connection.fetchval(sql("opamp_agents_count")) >= MOST_INSTANCES:
            raise TooManyInstances(f"this tenant has {MOST_INSTANCES} OpAMP agents: revoke those that are gone")
        key = no_result_key(agent)
        if await tx.connection.fetchval(sql("opamp_agent_insert"), tx.tenant, agent, key, text(owner)) is not None:
            await append_audit(tx, actor, "agent.opamp", agent_object(agent), {"owner": owner})
        row = await tx.connection.fetchrow(sql("opamp_agent_hold"), agent)
        assert row is not None  # noqa: S101 - it was there, or was made in this transaction
    health = orjson.loads(row["health"])
    return InstanceRow(row["state"] == "active", row["signing_key"] != "", row["enrolled_by"], health)


async def write_report(tx: TenantTransaction, agent: str, report: Report) -> None:
    """Stores what is known of an instance whose row is held."""
    await tx.connection.execute(
        sql("opamp_agent_write"),
        agent,
        report.seen,
        report.status,
        text(report.version, 64),
        text(report.platform, 256),
        json_text(dict(report.health)),
    )


async def held_job(tx: TenantTransaction, agent: str) -> OfferedJob | None:
    """The job whose configuration the instance was offered and has not answered, under a lease that is held."""
    row = await tx.connection.fetchrow(sql("opamp_held_job"), agent)
    return None if row is None else _offered(row)


async def named_job(tx: TenantTransaction, agent: str, job: UUID) -> OfferedJob | None:
    """The agent's job of that id, where it was offered and has no answer yet."""
    row = await tx.connection.fetchrow(sql("opamp_named_job"), job, agent)
    return None if row is None else _offered(row)


def no_result_key(agent: str) -> bytes:
    """Stands where enrolled agents have the public key of their results: nobody has the private half of a hash."""
    return hashlib.sha256(b"trustsoc: an OpAMP agent signs no results\n" + agent.encode()).digest()


def _offered(row: Any) -> OfferedJob:
    digest = orjson.loads(row["args"])["digest"]
    return OfferedJob(UUID(int=row["job_id"].int), digest, row["attempt"], UUID(int=row["lease"].int))
