"""One tenant's detector between journal and store: restore, read, judge, commit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from actors.forked_copy import CopyFailed, ForkedCopy, fork_copy
from actors.rules import RuleLibrary
from actors.snapshot_pace import SnapshotPace, uncollected
from detect.batch import BatchOutput
from detect.record import TenantId
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from store.detections import load_state, write_output
from store.journal import JournalRow, read_journal
from store.postgres import Pool, StorageUnavailable, detector_transaction
from store.pruning import JournalPruned, read_unpruned
from store.shards import Fenced
from store.snapshots import REPLAY_HORIZON, Snapshot, store_snapshot

logger = structlog.get_logger("detector")


class SnapshotUnusable(RuntimeError):
    """The stored state cannot be restored: its format is newer, or rules it needs are gone."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """What one turn of a tenant may take: journal rows, bytes of payload, and records (at least one row).

    `replay_horizon` is how far back snapshots are kept for replays; one that takes `dear_snapshot_s` of processor time
    is made by a copy of the process, which may take `longest_packing_s`.
    """

    rows: int
    bytes: int
    records: int
    replay_horizon: timedelta = REPLAY_HORIZON
    dear_snapshot_s: float = 0.1
    longest_packing_s: float = 120.0


@dataclass(slots=True)
class Turn:
    """What a turn did. `rows` is 0 when the tenant had nothing to judge."""

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)

    def add(self, judged: _Judged) -> None:
        """Counts what was judged; it counts for something once it is stored."""
        self.rows += len(judged.outputs)
        for output in judged.outputs:
            for name, count in output.counts.items():
                self.counts[name] = self.counts.get(name, 0) + count
            self.hits.update(event.rule_id for event in output.events)
            for fold in output.folds:
                self.hits[fold.rule_id] += fold.added


@dataclass(frozen=True, slots=True)
class _Judged:
    """What some consecutive batches came to, to be stored by one transaction.

    `snapshot` goes with it; what `copy` makes is stored afterwards, while judging goes on.
    """

    outputs: list[BatchOutput]
    received: dict[int, datetime]
    snapshot: Snapshot | None = None
    copy: ForkedCopy | None = None


# A turn ends then, so that the other tenants have theirs.
_COMMITS_A_TURN = 4


class TenantJudge:
    """Holds a tenant's detector in memory. Any error leaves it unusable: throw it away and make a new one."""

    def __init__(self, tenant: UUID, pool: Pool, library: RuleLibrary, limits: TurnLimits) -> None:
        self.tenant = TenantId(tenant)
        self._pool = pool
        self._library = library
        self._limits = limits
        self._detector: TenantDetector | None = None
        self._pace = SnapshotPace(dear_s=limits.dear_snapshot_s)
        self._copy: ForkedCopy | None = None  # begun, and what it holds is not stored yet
        self._packing: asyncio.Task[None] | None = None
        self.last_received: datetime | None = None

    async def turn(self, shard: int, epoch: int, snapshot_due: Callable[[int, float], bool], now: float) -> Turn:
        """Judges the next batches and commits the judgement under the epoch. Raises Fenced, StorageUnavailable."""
        detector = self._detector or await self._restore(now)
        self._end_packing()
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
            if self._copy is not None:
                self._copy.abandon()
                self._copy = None
            raise
        return turn

    async def _judge(
        self, detector: TenantDetector, rows: list[JournalRow], snapshot_due: Callable[[int, float], bool], now: float
    ) -> _Judged:
        """Judges in a thread, so that what was judged before is stored meanwhile."""
        seconds, outputs = await self._observed(detector, rows)
        self.last_received = rows[-1].received
        judged = _Judged(outputs, {row.seq: row.received for row in rows})
        pace = self._pace
        pace.judged(len(rows), seconds)
        busy = self._copy is not None or self._packing is not None
        if busy or not pace.due(snapshot_due(pace.batches, now - pace.at)):
            return judged
        pace.restart(now)
        if pace.dear:
            try:
                self._copy = await asyncio.to_thread(fork_copy, detector.snapshot)
                return replace(judged, copy=self._copy)
            except OSError as error:
                logger.warning("no room for a copy: judging waits for the snapshot", error=str(error))
        return replace(judged, snapshot=await self._snapshot(detector, rows[-1].received))

    async def _observed(self, detector: TenantDetector, rows: list[JournalRow]) -> tuple[float, list[BatchOutput]]:
        """What the rows come to, and the seconds of processor time that judging them took."""
        batches = [row.batch() for row in rows]
        held = [await self._library.load_for(batch) for batch in batches]

        def observe() -> tuple[float, list[BatchOutput]]:
            began = time.thread_time()
            outputs = [detector.observe(batch) for batch in batches]
            spent = time.thread_time() - began
            self._library.sample_costs(detector.rules_digest, outputs)
            return spent, outputs

        seconds, outputs = await asyncio.to_thread(observe)
        del held  # the rules of these batches are in force now, or were never
        return seconds, outputs

    async def _snapshot(self, detector: TenantDetector, received: datetime) -> Snapshot:
        """A snapshot made in a thread; what it takes is what the next one is expected to take."""

        def pack() -> tuple[float, bytes]:
            began = time.thread_time()
            with uncollected():
                state = detector.snapshot()
            return time.thread_time() - began, state

        self._pace.cost_s, state = await asyncio.to_thread(pack)
        return Snapshot(detector.seq, detector.FORMAT, state, received)

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
        if judged.copy is not None:
            self._copy = None
            self._packing = asyncio.create_task(self._pack(judged.copy, *max(judged.received.items()), shard, epoch))

    async def _pack(self, copy: ForkedCopy, seq: int, received: datetime, shard: int, epoch: int) -> None:
        """Stores what the copy makes of the state after `seq`. Without it a restart begins at the snapshot before."""
        try:
            self._pace.cost_s, state = await copy.result(self._limits.longest_packing_s)
            await self._store(Snapshot(seq, TenantDetector.FORMAT, state, received), shard, epoch)
        except (CopyFailed, Fenced, StorageUnavailable) as error:
            logger.warning("a snapshot was not stored", tenant=str(self.tenant), seq=seq, error=str(error))

    def _end_packing(self) -> None:
        """Forgets a packing that has ended; raises what it should not have ended with."""
        packing = self._packing
        if packing is not None and packing.done():
            self._packing = None
            packing.result()

    async def _store(self, snapshot: Snapshot, shard: int, epoch: int) -> bool:
        horizon = self._limits.replay_horizon
        return await store_snapshot(
            self._pool, self.tenant, shard=shard, epoch=epoch, snapshot=snapshot, horizon=horizon
        )

    async def keep(self, shard: int, epoch: int) -> bool:
        """Stores a snapshot of what was judged since the last one, before this state is let go. Raises Fenced."""
        if self._packing is not None:
            await asyncio.wait({self._packing})  # however it ends
        detector = self._detector
        if detector is None or not self._pace.batches or self.last_received is None:
            return False
        stored = await self._store(await self._snapshot(detector, self.last_received), shard, epoch)
        self._pace.batches = 0
        return stored

    async def _restore(self, now: float) -> TenantDetector:
        """Snapshot, then the journal up to the mark with its output suppressed: the state as it was."""
        async with detector_transaction(self._pool, self.tenant) as transaction:
            stored = await load_state(transaction)
        detector = TenantDetector(self.tenant, self._library.resolve, EwmaModel, matcher=self._library.matcher)
        self._pace.restart(now)
        if stored.snapshot is not None:
            await self._restore_snapshot(detector, stored.snapshot)
        while detector.seq < stored.mark:
            rows = [row for row in await self._read_again(detector.seq) if row.seq <= stored.mark]
            seconds, _ = await self._observed(detector, rows)
            self._pace.judged(0, seconds)
        self._detector = detector
        return detector

    async def _restore_snapshot(self, detector: TenantDetector, snapshot: Snapshot) -> None:
        if snapshot.format > TenantDetector.FORMAT:
            raise SnapshotUnusable(f"the snapshot has format {snapshot.format}: run the version that wrote it")
        self._pace.cost_s = await self._library.restore(detector, snapshot.state)

    async def _read_again(self, after: int) -> list[JournalRow]:
        try:
            async with detector_transaction(self._pool, self.tenant) as transaction:
                return await read_unpruned(transaction, after, self._limits.rows, self._limits.bytes)
        except JournalPruned as error:
            raise SnapshotUnusable(f"the journal lacks what the replay needs: {error}") from error

    async def _read(self, after: int) -> list[JournalRow]:
        async with detector_transaction(self._pool, self.tenant) as transaction:
            return await read_journal(transaction, after, self._limits.rows, self._limits.bytes)


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
