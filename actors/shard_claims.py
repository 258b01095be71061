"""How one process comes to hold shards, and to lose them: by the plan, by its name's newest process, by epochs.

Reconciling is one transaction that holds the plan and the generation still while it claims, so of any number of
processes exactly one holds a shard, and none claims what the plan gives to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detect.record import TenantId
from store.postgres import Pool, system_transaction_as_detector
from store.shards import (
    Holding,
    ShardSet,
    claim,
    holdings,
    register,
    release,
    require_generation,
    shard_set,
)


@dataclass(frozen=True, slots=True)
class ShardChanges:
    """What reconciling found: `lost` shards are another's already, `surplus` ones are to be finished and released."""

    lost: frozenset[int]
    surplus: frozenset[int]
    gained: frozenset[int]


class ShardClaims:
    """The shards of one process of an actor. `handover_s` is how long a holder that should go is waited for."""

    def __init__(self, actor: str, otherwise: Sequence[str], virtual_shards: int, handover_s: float) -> None:
        self._actor = actor
        self._otherwise = tuple(otherwise)
        self._virtual_shards = virtual_shards
        self._handover_s = handover_s
        self._generation: int | None = None
        self._waiting_since: dict[int, float] = {}
        self.epochs: dict[int, int] = {}
        self.shards = ShardSet(self._otherwise)

    @property
    def in_plan(self) -> bool:
        """Whether the plan still has this actor."""
        return self._actor in self.shards.names

    def shard_of(self, tenant: TenantId) -> int:
        """The shard of a tenant, whoever holds it."""
        return self.shards.shard_of(tenant, self._virtual_shards)

    def holds(self, tenant: TenantId) -> bool:
        """Whether the tenant is this process's to judge."""
        return self.shard_of(tenant) in self.epochs

    def forget(self) -> None:
        """After the connection was lost nothing is sure: every shard is claimed anew."""
        self.epochs.clear()
        self._waiting_since.clear()

    async def reconcile(self, pool: Pool, now: float) -> ShardChanges:
        """Claims what the plan gives to this actor. Raises Superseded once a newer process has its name.

        `pool` is of the detector role, `now` in seconds of any clock that goes forward.
        """
        async with system_transaction_as_detector(pool) as transaction:
            if self._generation is None:
                self._generation = await register(transaction, self._actor)
            await require_generation(transaction, self._actor, self._generation)
            self.shards = await shard_set(transaction, self._otherwise, hold=True)
            held = await holdings(transaction)
            wanted = self.shards.shards_of(self._actor, self._virtual_shards)
            lost = {shard for shard, epoch in self.epochs.items() if shard not in held or held[shard].epoch != epoch}
            missing = wanted - (self.epochs.keys() - lost)
            free = {shard for shard in missing if self._may_take(shard, held.get(shard), now)}
            gained = await claim(transaction, self._actor, free) if free else {}
        self._waiting_since = {
            shard: since for shard, since in self._waiting_since.items() if shard in missing - gained.keys()
        }
        self.epochs = {shard: epoch for shard, epoch in self.epochs.items() if shard not in lost} | gained
        surplus = self.epochs.keys() - wanted
        return ShardChanges(frozenset(lost), frozenset(surplus), frozenset(gained))

    async def release(self, pool: Pool, shards: Iterable[int]) -> None:
        """Gives shards up that are finished."""
        given = {shard: self.epochs.pop(shard) for shard in set(shards) & self.epochs.keys()}
        async with system_transaction_as_detector(pool) as transaction:
            await release(transaction, given)

    def _may_take(self, shard: int, holding: Holding | None, now: float) -> bool:
        """At once when nobody holds it, an earlier process of this name does, or the holder has finished."""
        if holding is None or holding.released or holding.actor == self._actor:
            return True
        return now - self._waiting_since.setdefault(shard, now) >= self._handover_s
