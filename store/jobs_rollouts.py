"""Rollouts: the same job for many agents, wave after wave, each behind a gate, stopped by itself when it goes wrong.

All jobs of a rollout are made at once and held, until their wave is let out. A wave's gate opens when all its jobs have
ended and `gate_s` seconds have passed in which no more than `most_failures` jobs had failed and
agents fallen ill, counted over all waves so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import orjson

from store.agents import SILENT, select_agents
from store.audit import append_audit
from store.jobs import JobConflict, NewJob, SelfApproval, insert_jobs
from store.paging import Page, decode_time_and_id, encode_cursor, page_size
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import json_text, text

RolloutState = Literal["awaiting_approval", "running", "succeeded", "stopped", "cancelled"]

_NEVER_S = 1e9
# The sweep looks at each of them every few seconds, for every tenant in turn.
MOST_OPEN: Final = 100


class RolloutNotFound(Exception):
    """The tenant has no such rollout."""


class NoAgents(Exception):
    """No active agent carries the labels."""


@dataclass(frozen=True, slots=True)
class NewRollout:
    """A rollout to make. `waves` are percents of the agents that grow to 100; a job lives `lifetime_s` seconds."""

    type: str
    args: str
    labels: Mapping[str, str]
    waves: Sequence[int] = (10, 50, 100)
    gate_s: int = 300
    most_failures: int = 0
    lifetime_s: int = 3600
    dry_run: bool = False
    max_attempts: int = 3


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A rollout and how far it is: `wave` is the one that is out, from 1; `counts` jobs by wave and state."""

    rollout_id: UUID
    state: RolloutState
    type: str
    labels: dict[str, str]
    waves: tuple[int, ...]
    gate_s: int
    most_failures: int
    lifetime_s: int
    agents: int
    wave: int
    failures: int
    detail: str
    created_by: str
    created_at: datetime
    approved_by: str | None
    changed_at: datetime
    counts: dict[int, dict[str, int]] = field(default_factory=dict)


def wave_of(place: int, agents: int, waves: Sequence[int]) -> int:
    """The wave, from 1, of the agent at `place` (from 0): wave k ends with the first ceil(agents x percent / 100)."""
    for number, percent in enumerate(waves, 1):
        if place < -(-agents * percent // 100):
            return number
    raise ValueError("the last wave must be 100 percent")


async def create_rollout(
    tx: TenantTransaction, new: NewRollout, *, actor: str, approval: bool, now: datetime
) -> RolloutRow:
    """Makes a rollout over the active agents that carry the labels now; its first wave is out unless it must wait.

    Raises NoAgents, ValueError for waves that do not grow to 100, JobConflict while MOST_OPEN are open.
    """
    waves = list(new.waves)
    if not waves or waves[-1] != 100 or waves[0] < 1 or any(a >= b for a, b in pairwise(waves)):
        raise ValueError("waves are percents that grow, the last of them 100")
    if len(await open_rollouts(tx)) >= MOST_OPEN:
        raise JobConflict(f"{MOST_OPEN} rollouts are open already: wait for them, or cancel some")
    rollout_id = uuid4()
    agents = await select_agents(tx, new.labels, rollout_id)
    if not agents:
        raise NoAgents("no active agent carries these labels")
    await tx.connection.fetchrow(
        sql("rollout_insert"),
        tx.tenant,
        rollout_id,
        "awaiting_approval" if approval else "running",
        new.type,
        json_text(dict(new.labels)),
        waves,
        new.gate_s,
        new.most_failures,
        new.lifetime_s,
        len(agents),
        text(actor),
    )
    ends = now + timedelta(seconds=new.lifetime_s)
    job = NewJob("", new.type, new.args, "", now, ends, new.dry_run, new.max_attempts)
    key = f"rollout:{rollout_id}"
    members = [(uuid4(), agent, key, wave_of(place, len(agents), waves)) for place, agent in enumerate(agents)]
    state: Literal["awaiting_approval", "queued"] = "awaiting_approval" if approval else "queued"
    await insert_jobs(tx, job, members, state=state, actor=actor, now=now, rollout=rollout_id)
    detail = {
        "type": new.type,
        "args": orjson.loads(new.args),
        "dry_run": new.dry_run,
        "labels": dict(new.labels),
        "waves": waves,
        "agents": len(agents),
    }
    await append_audit(tx, actor, "rollout.create", _object(rollout_id), detail)
    if not approval:
        await advance_rollout(tx, rollout_id, now=now)
    return await get_rollout(tx, rollout_id)


async def get_rollout(tx: TenantTransaction, rollout_id: UUID) -> RolloutRow:
    """The rollout with its counts. Raises RolloutNotFound."""
    row = await tx.connection.fetchrow(sql("rollout_get"), rollout_id)
    if row is None:
        raise RolloutNotFound(f"there is no rollout {rollout_id}")
    counts: dict[int, dict[str, int]] = {}
    for item in await tx.connection.fetch(sql("rollout_counts"), rollout_id):
        counts.setdefault(item["wave"], {})[item["state"]] = item["jobs"]
    return _row(row, counts)


async def list_rollouts(tx: TenantTransaction, limit: int, cursor: str | None) -> Page:
    """A page of RolloutRow items without counts, the newest first. Raises InvalidCursor."""
    time, identifier = decode_time_and_id("rollouts", cursor)
    size = page_size(limit)
    rows = await tx.connection.fetch(sql("rollout_page"), time, identifier, size + 1)
    found = [_row(row, {}) for row in rows[:size]]
    last = encode_cursor("rollouts", found[-1].created_at, found[-1].rollout_id) if len(rows) > size else None
    return Page([{"rollout": rollout} for rollout in found], last)


async def approve_rollout(tx: TenantTransaction, rollout_id: UUID, *, actor: str, now: datetime) -> RolloutRow:
    """Lets a rollout that waits for approval begin. Raises RolloutNotFound, JobConflict, SelfApproval."""
    rollout = await _hold(tx, rollout_id)
    if rollout.state != "awaiting_approval":
        raise JobConflict(f"the rollout is {rollout.state}: nothing waits for approval")
    if rollout.created_by == actor:
        raise SelfApproval("another key than the one that made the rollout must approve it")
    await tx.connection.execute(sql("rollout_approve"), rollout_id, text(actor))
    await _write(tx, rollout, "running", 0, 0, "")
    await append_audit(tx, actor, "rollout.approve", _object(rollout_id), {"made_by": rollout.created_by})
    await advance_rollout(tx, rollout_id, now=now)
    return await get_rollout(tx, rollout_id)


async def cancel_rollout(tx: TenantTransaction, rollout_id: UUID, *, actor: str) -> RolloutRow:
    """Ends a rollout; jobs that an agent was given go on. Raises RolloutNotFound, JobConflict."""
    rollout = await _hold(tx, rollout_id)
    if rollout.state not in {"awaiting_approval", "running"}:
        raise JobConflict(f"the rollout is {rollout.state} already")
    await _end(tx, rollout, "cancelled", rollout.failures, f"cancelled by {actor}", actor=actor)
    return await get_rollout(tx, rollout_id)


async def open_rollouts(tx: TenantTransaction) -> list[UUID]:
    """The rollouts that the sweep has to look at."""
    return [UUID(int=row["rollout_id"].int) for row in await tx.connection.fetch(sql("rollouts_open"))]


async def advance_rollout(tx: TenantTransaction, rollout_id: UUID, *, now: datetime) -> bool:
    """Takes a rollout as far as it can go now; returns whether anything changed. Idempotent."""
    rollout = await _hold(tx, rollout_id)
    if rollout.state == "awaiting_approval":
        if rollout.created_at + timedelta(seconds=rollout.lifetime_s) > now:
            return False
        await _end(tx, rollout, "cancelled", 0, "nobody approved it in time")
        return True
    if rollout.state != "running":
        return False
    if rollout.wave == 0:
        await _release(tx, rollout, 1, 0, now)
        return True
    silent = min(float(rollout.gate_s), SILENT.total_seconds()) if rollout.gate_s else _NEVER_S
    [found] = await tx.connection.fetch(sql("rollout_progress"), rollout_id, rollout.wave, silent)
    failures: int = found["failed"] + found["ill"]
    if failures > rollout.most_failures:
        detail = f"wave {rollout.wave}: {found['failed']} jobs failed, {found['ill']} agents are ill or silent"
        await _end(tx, rollout, "stopped", failures, detail)
        return True
    gate_opens = None if found["ended_at"] is None else found["ended_at"] + timedelta(seconds=rollout.gate_s)
    if found["open"] or (gate_opens is not None and gate_opens > now):
        if failures != rollout.failures:
            await _write(tx, rollout, "running", rollout.wave, failures, "")
        return failures != rollout.failures
    if rollout.wave == len(rollout.waves):
        await _write(tx, rollout, "succeeded", rollout.wave, failures, "")
        await append_audit(tx, "server", "rollout.succeed", _object(rollout_id), {"failures": failures})
    else:
        await _release(tx, rollout, rollout.wave + 1, failures, now)
    return True


async def _release(tx: TenantTransaction, rollout: RolloutRow, wave: int, failures: int, now: datetime) -> None:
    status: str = await tx.connection.execute(
        sql("rollout_release"), rollout.rollout_id, wave, rollout.approved_by, now, float(rollout.lifetime_s)
    )
    await _write(tx, rollout, "running", wave, failures, "")
    detail = {"wave": wave, "jobs": int(status.removeprefix("UPDATE ")), "failures": failures}
    await append_audit(tx, "server", "rollout.wave", _object(rollout.rollout_id), detail)


async def _end(
    tx: TenantTransaction,
    rollout: RolloutRow,
    state: Literal["stopped", "cancelled"],
    failures: int,
    detail: str,
    actor: str = "server",
) -> None:
    rows = await tx.connection.fetch(sql("rollout_cancel_jobs"), rollout.rollout_id, f"rollout_{state}")
    await _write(tx, rollout, state, rollout.wave, failures, detail)
    action = "rollout.stop" if state == "stopped" else "rollout.cancel"
    said = {"detail": detail, "cancelled_jobs": len(rows), "failures": failures}
    await append_audit(tx, actor, action, _object(rollout.rollout_id), said)


async def _write(
    tx: TenantTransaction, rollout: RolloutRow, state: RolloutState, wave: int, failures: int, detail: str
) -> None:
    await tx.connection.execute(sql("rollout_write"), rollout.rollout_id, state, wave, failures, text(detail))


async def _hold(tx: TenantTransaction, rollout_id: UUID) -> RolloutRow:
    row = await tx.connection.fetchrow(sql("rollout_hold"), rollout_id)
    if row is None:
        raise RolloutNotFound(f"there is no rollout {rollout_id}")
    return _row(row, {})


def _object(rollout_id: UUID) -> str:
    return f"rollout:{rollout_id}"


def _row(row: Any, counts: dict[int, dict[str, int]]) -> RolloutRow:
    values = dict(row) | {"rollout_id": UUID(int=row["rollout_id"].int), "counts": counts}
    return RolloutRow(**values | {"labels": orjson.loads(row["labels"]), "waves": tuple(row["waves"])})
