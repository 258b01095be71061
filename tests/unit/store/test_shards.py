"""Rendezvous hashing: even, stable, and moving no more than it must."""

from __future__ import annotations

from collections import Counter
from uuid import UUID, uuid5

import pytest

from detect.record import TenantId
from store.shards import SHARDS, actor_of, shard_of

TENANTS = [TenantId(uuid5(UUID(int=7), str(number))) for number in range(3200)]


def test_tenants_spread_evenly_over_the_shards() -> None:
    counts = Counter(shard_of(tenant) for tenant in TENANTS)
    assert set(counts) == set(range(SHARDS))
    # Mean 50, standard deviation 7: five of them either way.
    assert 15 <= min(counts.values()) <= max(counts.values()) <= 85


def test_a_shard_is_the_same_for_ever() -> None:
    # Written down once: a change would move every tenant's state.
    assert [shard_of(tenant) for tenant in TENANTS[:6]] == [25, 17, 39, 60, 19, 32]


def test_one_actor_more_takes_shards_and_moves_no_other() -> None:
    actors = ["a", "b", "c"]
    before = {shard: actor_of(shard, actors) for shard in range(1024)}
    after = {shard: actor_of(shard, [*actors, "d"]) for shard in range(1024)}
    moved = {shard for shard in before if before[shard] != after[shard]}
    assert {after[shard] for shard in moved} == {"d"}
    assert 170 <= len(moved) <= 350, "about a quarter"
    assert {shard: actor_of(shard, ["d", "c", "a", "b"]) for shard in range(1024)} == after, "order is no matter"


def test_one_actor_less_hands_on_its_own_shards_only() -> None:
    before = {shard: actor_of(shard, ["a", "b", "c"]) for shard in range(1024)}
    after = {shard: actor_of(shard, ["a", "c"]) for shard in range(1024)}
    assert all(after[shard] == before[shard] for shard in before if before[shard] != "b")
    with pytest.raises(ValueError, match="at least one"):
        actor_of(1, [])
