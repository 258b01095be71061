"""Stores what a detector judged, exactly once: rows, events, incidents and the progress mark in one transaction.

The transaction is fenced by the shard's epoch, so a detector that was replaced can store nothing, and bound to the
mark, so no batch is judged twice and none is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import asyncpg

from detect.batch import BatchOutput
from detect.record import TenantId
from store.dead_letters import store_dead_letters
from store.detection_rows import (
    event_row,
    fold_row,
    incident_row,
    member_columns,
    newest_incidents,
    rollup_columns,
)
from store.partitions import days_of
from store.postgres import Pool, TenantTransaction, detector_transaction
from store.queries import sql
from store.raw_log_copy import RAW_LOG_COLUMNS, copy_stream
from store.shards import Fenced, require_epoch
from store.snapshots import REPLAY_HORIZON, Snapshot, keep_snapshot, newest_snapshot


class MarkMismatch(Exception):
    """The outputs do not begin right after what is stored. `mark` is the last seq that is stored."""

    def __init__(self, mark: int, first: int) -> None:
        super().__init__(f"judgements are stored up to seq {mark}, so the next is {mark + 1}, not {first}")
        self.mark = mark
        self.first = first


@dataclass(frozen=True, slots=True)
class DetectorState:
    """Where a tenant's detection stands: the last stored seq (0 for none) and the snapshot to start from."""

    mark: int
    snapshot: Snapshot | None


async def load_state(tx: TenantTransaction) -> DetectorState:
    """What a detector needs to go on. The snapshot's seq is at most the mark; what is between is replayed."""
    mark = await tx.connection.fetchval(sql("mark_read"))
    return DetectorState(mark or 0, await newest_snapshot(tx))


async def write_output(
    pool: Pool,
    tenant: TenantId,
    *,
    shard: int,
    epoch: int,
    outputs: Sequence[BatchOutput],
    received: Mapping[int, datetime],
    snapshot: Snapshot | None = None,
    replay_horizon: timedelta = REPLAY_HORIZON,
) -> int:
    """Stores the outputs of consecutive batches and returns the new mark. All or nothing.

    `pool` is of the detector role; `received` has the journal's time of receipt of each seq; snapshots older than the
    `replay_horizon` are let go. Raises Fenced, MarkMismatch, StorageUnavailable; ValueError when the seqs are not
    consecutive or the snapshot is not of the last.
    """
    if not outputs or any(after.seq != before.seq + 1 for before, after in pairwise(outputs)):
        raise ValueError("write_output takes the outputs of one or more consecutive batches")
    if snapshot is not None and snapshot.seq != outputs[-1].seq:
        raise ValueError(f"the snapshot is of seq {snapshot.seq}, the last output of seq {outputs[-1].seq}")
    writing = _Writing(pool, tenant, shard, epoch, outputs, received, snapshot, replay_horizon)
    try:
        await writing.transaction()
    except asyncpg.CheckViolationError as error:
        if error.table_name != "raw_logs" or error.constraint_name:
            raise
        # The day of receipt has no partition (any more): a replay of old batches, or a janitor that is behind.
        await writing.make_days()
        await writing.transaction()
    return outputs[-1].seq


@dataclass(frozen=True, slots=True)
class _Writing:
    pool: Pool
    tenant: TenantId
    shard: int
    epoch: int
    outputs: Sequence[BatchOutput]
    received: Mapping[int, datetime]
    snapshot: Snapshot | None
    replay_horizon: timedelta

    async def transaction(self) -> None:
        async with detector_transaction(self.pool, self.tenant) as tx:
            mark = await tx.connection.fetchval(sql("mark_lock")) or 0
            await tx.connection.execute(sql("become_writer"))
            await require_epoch(tx, self.shard, self.epoch)
            if mark != self.outputs[0].seq - 1:
                raise MarkMismatch(mark, self.outputs[0].seq)
            await self._copy_records(tx)
            await tx.connection.execute(sql("become_app"))
            await self._store_events(tx)
            await self._store_rollups(tx)
            await self._store_incidents(tx)
            await store_dead_letters(tx, self.outputs, self.received)
            await self._store_progress(tx)

    async def make_days(self) -> None:
        days = days_of(self.received[output.seq] for output in self.outputs)
        async with detector_transaction(self.pool, self.tenant) as tx:
            for day in days:
                await tx.connection.fetchval(sql("partitions_make"), day, 1)

    async def _copy_records(self, tx: TenantTransaction) -> None:
        # COPY FROM is refused under row-level security, hence the writer role for this one step.
        if any(output.records for output in self.outputs):
            stream = copy_stream(tx.tenant, self.outputs, self.received)
            await tx.connection.copy_to_table("raw_logs", source=stream, columns=RAW_LOG_COLUMNS, format="binary")

    async def _store_events(self, tx: TenantTransaction) -> None:
        rows = [event_row(tx.tenant, event) for output in self.outputs for event in output.events]
        if rows:
            await tx.connection.executemany(sql("event_insert"), rows)
        folds = [fold_row(tx.tenant, fold) for output in self.outputs for fold in output.folds]
        if folds:
            await tx.connection.executemany(sql("event_fold_upsert"), folds)

    async def _store_rollups(self, tx: TenantTransaction) -> None:
        for span, columns in rollup_columns(self.outputs).items():
            await tx.connection.execute(sql(f"rollup_upsert_{span}"), tx.tenant, *columns)

    async def _store_incidents(self, tx: TenantTransaction) -> None:
        incidents = newest_incidents(self.outputs)
        if not incidents:
            return
        rows = [incident_row(tx.tenant, incident) for incident in incidents]
        await tx.connection.executemany(sql("incident_upsert"), rows)
        await tx.connection.execute(sql("incident_member_insert"), tx.tenant, *member_columns(self.outputs))
        ids = [incident.id for incident in incidents]
        revisions = [incident.revision for incident in incidents]
        await tx.connection.execute(sql("advisory_enqueue"), tx.tenant, ids, revisions)

    async def _store_progress(self, tx: TenantTransaction) -> None:
        last = self.outputs[-1]
        await tx.connection.execute(
            sql("mark_move"), tx.tenant, last.seq, self.epoch, last.open_windows, self.received[last.seq]
        )
        if self.snapshot is not None:
            await keep_snapshot(tx, self.snapshot, self.epoch, self.replay_horizon)


__all__ = ["DetectorState", "Fenced", "MarkMismatch", "Snapshot", "load_state", "write_output"]
