"""One tenant's detector between journal and store: restore, read, judge, commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from actors.rules import RuleLibrary, RuleSetMissing
from detect.batch import BatchOutput
from detect.record import TenantId
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from store.detections import load_state, write_output
from store.journal import JournalRow, read_journal
from store.postgres import Pool, detector_transaction
from store.snapshots import REPLAY_HORIZON, Snapshot, store_snapshot


class SnapshotUnusable(RuntimeError):
    """The stored state cannot be restored: its format is newer, or rules it needs are gone."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """What one turn of a tenant may take: journal rows, bytes of payload, and records (at least one row).

    `replay_horizon` is how far back snapshots are kept for replays.
    """

    rows: int
    bytes: int
    records: int
    replay_horizon: timedelta = REPLAY_HORIZON


@dataclass(slots=True)
class Turn:
    """What a turn did. `rows` is 0 when the tenant had nothing to judge."""

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, judged: _Judged) -> None:
        """Counts what was judged; it counts for something once it is stored."""
        self.rows += len(judged.outputs)
        for output in judged.outputs:
            for name, count in output.counts.items():
                self.counts[name] = self.counts.get(name, 0) + count


@dataclass(frozen=True, slots=True)
class _Judged:
    """What some consecutive batches came to, to be stored by one transaction."""

    outputs: list[BatchOutput]
    received: dict[int, datetime]
    snapshot: Snapshot | None


# A turn ends then, so that the other tenants have theirs.
_COMMITS_A_TURN = 4
# What a restart may have to judge again: some five seconds of work, however fast it came.
_RECORDS_TO_REPLAY = 30_000


class TenantJudge:
    """Holds a tenant's detector in memory. Any error leaves it unusable: throw it away and make a new one."""

    def __init__(self, tenant: UUID, pool: Pool, library: RuleLibrary, limits: TurnLimits) -> None:
        self.tenant = TenantId(tenant)
        self._pool = pool
        self._library = library
        self._limits = limits
        self._detector: TenantDetector | None = None
        self._since_snapshot = 0
        self._records_since = 0
        self._snapshot_at = 0.0
        self.last_received: datetime | None = None

    async def turn(self, shard: int, epoch: int, snapshot_due: Callable[[int, float], bool], now: float) -> Turn:
        """Judges the next batches and commits the judgement under the epoch. Raises Fenced, StorageUnavailable."""
        detector = self._detector or await self._restore(now)
        turn = Turn()
        committing: asyncio.Task[None] | None = None
        try:
            for rows in _cut(await self._read(detector.seq), self._limits.records)[:_COMMITS_A_TURN]:
                judged = await self._judge(detector, rows, snapshot_due, now)
                if committing is not None:
                    await committing
                committing = asyncio.create_task(self._commit(judged, shard, epoch))
                turn.add(judged)
            if committing is not None:
                await committing
        except BaseException:
            # This state is ahead of what is stored: nobody may go on from it.
            self._detector = None
            if committing is not None:
                committing.cancel()
                await asyncio.gather(committing, return_exceptions=True)
            raise
        return turn

    async def _judge(
        self, detector: TenantDetector, rows: list[JournalRow], snapshot_due: Callable[[int, float], bool], now: float
    ) -> _Judged:
        """Judges in a thread, so that what was judged before is stored meanwhile."""
        batches = [row.batch() for row in rows]
        for batch in batches:
            await self._library.load_for(batch)
        outputs = await asyncio.to_thread(lambda: [detector.observe(batch) for batch in batches])
        self.last_received = rows[-1].received
        self._since_snapshot += len(rows)
        self._records_since += sum(row.records for row in rows)
        snapshot = None
        due = snapshot_due(self._since_snapshot, now - self._snapshot_at)
        if due or self._records_since >= _RECORDS_TO_REPLAY:
            state = await asyncio.to_thread(detector.snapshot)
            snapshot = Snapshot(detector.seq, TenantDetector.FORMAT, state, self.last_received)
            self._restart_count(now)
        return _Judged(outputs, {row.seq: row.received for row in rows}, snapshot)

    def _restart_count(self, now: float) -> None:
        self._since_snapshot, self._records_since, self._snapshot_at = 0, 0, now

    async def _commit(self, judged: _Judged, shard: int, epoch: int) -> None:
        await write_output(
            self._pool,
            self.tenant,
            shard=shard,
            epoch=epoch,
            outputs=judged.outputs,
            received=judged.received,
            snapshot=judged.snapshot,
            replay_horizon=self._limits.replay_horizon,
        )

    async def keep(self, shard: int, epoch: int) -> bool:
        """Stores a snapshot of what was judged since the last one, before this state is let go. Raises Fenced."""
        detector = self._detector
        if detector is None or not self._since_snapshot or self.last_received is None:
            return False
        snapshot = Snapshot(detector.seq, TenantDetector.FORMAT, detector.snapshot(), self.last_received)
        horizon = self._limits.replay_horizon
        stored = await store_snapshot(
            self._pool, self.tenant, shard=shard, epoch=epoch, snapshot=snapshot, horizon=horizon
        )
        self._since_snapshot = 0
        return stored

    async def _restore(self, now: float) -> TenantDetector:
        """Snapshot, then the journal up to the mark with its output suppressed: the state as it was."""
        async with detector_transaction(self._pool, self.tenant) as transaction:
            stored = await load_state(transaction)
        detector = TenantDetector(self.tenant, self._library.resolve, EwmaModel, matcher=self._library.matcher)
        if stored.snapshot is not None:
            await self._restore_snapshot(detector, stored.snapshot)
        while detector.seq < stored.mark:
            rows = await self._read(detector.seq)
            if not rows or rows[0].seq != detector.seq + 1:
                lacking = f"the journal lacks batch {detector.seq + 1} that the replay needs"
                raise SnapshotUnusable(f"{lacking}: it was pruned, so a later snapshot or a backup must be used")
            for row in rows:
                if row.seq <= stored.mark:
                    await self._observe(detector, row)
        self._detector = detector
        self._restart_count(now)
        return detector

    async def _restore_snapshot(self, detector: TenantDetector, snapshot: Snapshot) -> None:
        if snapshot.format > TenantDetector.FORMAT:
            raise SnapshotUnusable(f"the snapshot has format {snapshot.format}: run the version that wrote it")
        try:
            detector.restore(snapshot.state)
        except RuleSetMissing as missing:
            await self._library.load(missing.digest)
            detector.restore(snapshot.state)

    async def _read(self, after: int) -> list[JournalRow]:
        async with detector_transaction(self._pool, self.tenant) as transaction:
            return await read_journal(transaction, after, self._limits.rows, self._limits.bytes)

    async def _observe(self, detector: TenantDetector, row: JournalRow) -> BatchOutput:
        batch = row.batch()
        await self._library.load_for(batch)
        return detector.observe(batch)


def _cut(rows: list[JournalRow], records: int) -> list[list[JournalRow]]:
    """In pieces of at most so many records each, so that a commit, and what it makes visible, is never far away."""
    pieces: list[list[JournalRow]] = []
    taken = 0
    for row in rows:
        if not pieces or taken + row.records > records:
            pieces.append([])
            taken = 0
        pieces[-1].append(row)
        taken += row.records
    return pieces
