"""Which shard a tenant belongs to, which actor should hold a shard, and who holds it now (with its epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from detect.record import TenantId
from store.postgres import SystemTransaction
from store.queries import sql

SHARDS = 64


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


async def holders(tx: SystemTransaction) -> dict[int, tuple[str, int]]:
    """Who holds each claimed shard: (actor, epoch)."""
    return {row["shard"]: (row["actor"], row["epoch"]) for row in await tx.connection.fetch(sql("shard_list"))}
