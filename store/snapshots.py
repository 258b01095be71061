"""Detector state as of a seq: the newest few for a restart, one a day for a replay of the past.

The journal may be pruned up to the oldest of them: what is before it, nobody can replay anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from detect.record import TenantId
from store.postgres import Pool, TenantTransaction, detector_transaction
from store.queries import sql
from store.shards import require_epoch

KEEP_NEWEST = 3
REPLAY_HORIZON = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Detector state after the batch `seq`. `format` is the version of the encoding of `state`; `received` is the
    journal's time of receipt of that batch."""

    seq: int
    format: int
    state: bytes
    received: datetime | None = None


async def newest_snapshot(tx: TenantTransaction) -> Snapshot | None:
    """The one to start from."""
    return _snapshot(await tx.connection.fetchrow(sql("snapshot_read")))


async def snapshot_at(tx: TenantTransaction, seq: int) -> Snapshot | None:
    """The newest at or before a seq."""
    return _snapshot(await tx.connection.fetchrow(sql("snapshot_at"), seq))


async def keep_snapshot(
    tx: TenantTransaction, snapshot: Snapshot, epoch: int, horizon: timedelta = REPLAY_HORIZON
) -> None:
    """Stores a snapshot and lets go of those that neither a restart nor a replay within the horizon needs."""
    await tx.connection.execute(
        sql("snapshot_write"), tx.tenant, snapshot.seq, epoch, snapshot.format, snapshot.state, snapshot.received
    )
    await tx.connection.execute(sql("snapshot_thin"), KEEP_NEWEST, horizon)


async def store_snapshot(
    pool: Pool, tenant: TenantId, *, shard: int, epoch: int, snapshot: Snapshot, horizon: timedelta = REPLAY_HORIZON
) -> bool:
    """Stores a snapshot by itself, of the newest batch judged or one before it. `pool` is of the detector role.

    False when the mark is not that far: it was judged, but not stored. Raises Fenced, StorageUnavailable.
    """
    async with detector_transaction(pool, tenant) as tx:
        mark = await tx.connection.fetchval(sql("mark_lock"))
        await tx.connection.execute(sql("become_writer"))
        await require_epoch(tx, shard, epoch)
        if (mark or 0) < snapshot.seq:
            return False
        await tx.connection.execute(sql("become_app"))
        await keep_snapshot(tx, snapshot, epoch, horizon)
    return True


def _snapshot(row: Any) -> Snapshot | None:
    return None if row is None else Snapshot(row["seq"], row["format"], row["state"])
