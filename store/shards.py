"""Which shard a tenant belongs to, which actor should hold a shard, and who holds it now (with its epoch).

The plan (how many actors, which tenants are pinned) is data, so it changes while the system runs. Exactly one claimer
of a shard wins: a claim is made in one transaction that sees the newest process of the actor's name and the plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from detect.record import TenantId
from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql

SHARDS = 64
FIRST_PINNED = 1_000_000
MAX_ACTORS = 1024


class Fenced(Exception):
    """Another actor has claimed the shard since: whatever this one judged does not count."""

    def __init__(self, shard: int, epoch: int, current: int | None) -> None:
        super().__init__(f"shard {shard} is at epoch {current}, this writer holds epoch {epoch}: it was replaced")
        self.shard = shard
        self.epoch = epoch
        self.current = current


class Superseded(Exception):
    """Another process has taken this actor's name since: this one must stop."""


@dataclass(frozen=True, slots=True)
class ShardSet:
    """Who shares the shards: the actors' names, and the tenants that are pinned with their shards.

    `revision` grows with every change; 0 while nothing has been decided yet.
    """

    actors: tuple[str, ...]
    pins: Mapping[TenantId, int] = field(default_factory=dict)
    revision: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """All actors, those of pinned tenants included."""
        return (*self.actors, *(pinned_actor(shard) for shard in sorted(self.pins.values())))

    def shard_of(self, tenant: TenantId, virtual_shards: int) -> int:
        """The shard of a tenant: its pin's, or a virtual one."""
        return self.pins.get(tenant) or shard_of(tenant, virtual_shards)

    def holder_of(self, shard: int) -> str:
        """The actor that should hold a shard."""
        return pinned_actor(shard) if shard >= FIRST_PINNED else actor_of(shard, self.actors)

    def shards_of(self, actor: str, virtual_shards: int) -> set[int]:
        """The shards that an actor should hold: none when it is not in the set."""
        if actor not in self.names:
            return set()
        shards = (*range(virtual_shards), *self.pins.values())
        return {shard for shard in shards if self.holder_of(shard) == actor}


@dataclass(frozen=True, slots=True)
class PlanRow:
    """The number of actors that was decided, by whom and when."""

    actors: int
    configured: int
    revision: int
    changed_by: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds a shard. `released`: it has finished, and only waits for a successor."""

    actor: str
    epoch: int
    claimed_at: datetime
    released: bool


def actor_names(count: int) -> tuple[str, ...]:
    """The fixed names of so many shard actors."""
    return tuple(f"detector-{number}" for number in range(count))


def pinned_actor(shard: int) -> str:
    """The name of the actor that has a pinned tenant's shard to itself."""
    return f"detector-pin-{shard - FIRST_PINNED}"


@lru_cache(maxsize=65536)
def shard_of(tenant: TenantId, shards: int = SHARDS) -> int:
    """The virtual shard of a tenant, 0 to shards-1, by rendezvous hashing: the same on every machine, for ever."""
    return max(range(shards), key=lambda shard: _weight(tenant.bytes, str(shard)))


def actor_of(shard: int, actors: Sequence[str]) -> str:
    """The actor that should hold a shard. One actor more or less moves only the shards it gains or had.

    Raises ValueError when there are no actors.
    """
    if not actors:
        raise ValueError("a shard needs at least one actor")
    return max(actors, key=lambda actor: (_weight(shard.to_bytes(4, "big"), actor), actor))


def _weight(key: bytes, candidate: str) -> bytes:
    return hashlib.blake2b(candidate.encode(), digest_size=8, key=key).digest()


async def claim(tx: SystemTransaction, actor: str, shards: Iterable[int]) -> dict[int, int]:
    """Takes shards for an actor and returns their new epochs. Writes of every earlier holder are refused from then on.

    Waits for judgements that are being stored under the old epoch.
    """
    rows = await tx.connection.fetch(sql("shard_claim"), sorted(set(shards)), actor)
    return {row["shard"]: row["epoch"] for row in rows}


async def release(tx: SystemTransaction, epochs: Mapping[int, int]) -> None:
    """Tells whoever should have these shards (shard to epoch) that their holder has finished."""
    await tx.connection.execute(sql("shard_release"), list(epochs), list(epochs.values()))


async def holdings(tx: SystemTransaction) -> dict[int, Holding]:
    """Every claimed shard."""
    rows = await tx.connection.fetch(sql("shard_list"))
    return {row["shard"]: Holding(row["actor"], row["epoch"], row["claimed_at"], row["released"]) for row in rows}


async def holders(tx: SystemTransaction) -> dict[int, tuple[str, int]]:
    """Who holds each claimed shard: (actor, epoch)."""
    return {shard: (held.actor, held.epoch) for shard, held in (await holdings(tx)).items()}


async def require_epoch(tx: TenantTransaction, shard: int, epoch: int) -> None:
    """Raises Fenced unless the tenant's shard is held under this epoch; keeps it so until the transaction ends.

    To be called as the writer role.
    """
    current = await tx.connection.fetchval(sql("shard_epoch_of_tenant"), shard, tx.tenant)
    if current != epoch:
        raise Fenced(shard, epoch, current)


async def register(tx: SystemTransaction, actor: str) -> int:
    """Takes an actor's name for this process; its number among those that did. Every earlier one may claim nothing."""
    generation: int = await tx.connection.fetchval(sql("shard_worker_register"), actor)
    return generation


async def require_generation(tx: SystemTransaction, actor: str, generation: int) -> None:
    """Raises Superseded unless this process is the newest of its name; keeps it so until the transaction ends."""
    current = await tx.connection.fetchval(sql("shard_worker_generation"), actor)
    if current != generation:
        raise Superseded(f"{actor} is process {current} of its name now, this one is {generation}: it was replaced")


async def configure(tx: SystemTransaction, actors: int) -> None:
    """What the settings say: counts at the first start, and whenever it has changed since."""
    await tx.connection.execute(sql("shard_plan_configure"), actors)


async def scale(tx: SystemTransaction, actors: int, *, changed_by: str) -> PlanRow:
    """Sets the number of actors. Raises ValueError outside 1 to MAX_ACTORS, LookupError before the first start."""
    if not 1 <= actors <= MAX_ACTORS:
        raise ValueError(f"there can be 1 to {MAX_ACTORS} detector actors, not {actors}")
    row = await tx.connection.fetchrow(sql("shard_plan_scale"), actors, changed_by)
    if row is None:
        raise LookupError("the system has not been started yet, so there is no plan to change")
    return PlanRow(**row)


async def plan(tx: SystemTransaction) -> PlanRow | None:
    """What was decided; None before the first start."""
    row = await tx.connection.fetchrow(sql("shard_plan_read"))
    return None if row is None else PlanRow(**row)


async def shard_set(tx: SystemTransaction, otherwise: Sequence[str], *, hold: bool = False) -> ShardSet:
    """Who shares the shards; the actors `otherwise` where nothing was decided.

    `hold` keeps the plan as it is until the transaction ends, for claims that go by it.
    """
    row = await tx.connection.fetchrow(sql("shard_plan_hold" if hold else "shard_plan_read"))
    pins = {_tenant(pin): pin["shard"] for pin in await tx.connection.fetch(sql("tenant_pin_list"))}
    if row is None:
        return ShardSet(tuple(otherwise), pins)
    return ShardSet(actor_names(row["actors"]), pins, row["revision"])


async def pin(tx: SystemTransaction, tenant: TenantId, *, changed_by: str) -> int:
    """Gives a tenant a shard of its own; its number (the same when it has one)."""
    await tx.connection.execute(sql("shard_plan_touch"), changed_by)
    shard = await tx.connection.fetchval(sql("tenant_pin_insert"), tenant, changed_by)
    if shard is None:
        rows = await tx.connection.fetch(sql("tenant_pin_list"))
        shard = next(row["shard"] for row in rows if _tenant(row) == tenant)
    return int(shard)


async def unpin(tx: SystemTransaction, tenant: TenantId, *, changed_by: str) -> bool:
    """Puts a tenant back into its virtual shard; False when it was not pinned."""
    await tx.connection.execute(sql("shard_plan_touch"), changed_by)
    return await tx.connection.fetchval(sql("tenant_pin_delete"), tenant) is not None


async def progress(tx: SystemTransaction) -> dict[TenantId, int]:
    """How many batches of each tenant are not judged yet."""
    rows = await tx.connection.fetch(sql("shard_progress"))
    return {_tenant(row): row["last_seq"] - row["mark"] for row in rows}


async def silent_tenants(tx: SystemTransaction, since: datetime) -> dict[TenantId, datetime]:
    """Tenants with open windows whose last batch was received at `since` or before, and when that was."""
    rows = await tx.connection.fetch(sql("tenants_to_tick"), since)
    return {_tenant(row): row["last_received"] for row in rows}


def _tenant(row: Any) -> TenantId:
    return TenantId(UUID(int=row["tenant_id"].int))
