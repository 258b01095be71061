"""One tenant's detector between journal and store: restore, read, judge, commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from actors.rules import RuleLibrary, RuleSetMissing
from detect.batch import BatchOutput
from detect.record import TenantId
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from store.detections import Snapshot, load_state, write_output
from store.journal import JournalRow, read_journal
from store.postgres import Pool, detector_transaction


class SnapshotUnusable(RuntimeError):
    """The stored state cannot be restored: its format is newer, or rules it needs are gone."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """What one turn of a tenant may take: journal rows, bytes of payload, and records (at least one row)."""

    rows: int
    bytes: int
    records: int


@dataclass(slots=True)
class Turn:
    """What a turn did. `rows` is 0 when the tenant had nothing to judge."""

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class TenantJudge:
    """Holds a tenant's detector in memory. Any error leaves it unusable: throw it away and make a new one."""

    def __init__(self, tenant: UUID, pool: Pool, library: RuleLibrary, limits: TurnLimits) -> None:
        self.tenant = TenantId(tenant)
        self._pool = pool
        self._library = library
        self._limits = limits
        self._detector: TenantDetector | None = None
        self._since_snapshot = 0
        self._snapshot_at = 0.0
        self.last_received: datetime | None = None

    @property
    def open_windows(self) -> bool:
        """Whether time passing would still close a window (a reason for a tick row)."""
        return self._detector is not None and self._detector.open_windows

    async def turn(self, shard: int, epoch: int, snapshot_due: Callable[[int, float], bool], now: float) -> Turn:
        """Judges the next batches and commits the judgement under the epoch. Raises Fenced, StorageUnavailable."""
        detector = self._detector or await self._restore(now)
        rows = _cut(await self._read(detector.seq), self._limits.records)
        if not rows:
            return Turn()
        outputs = [await self._observe(detector, row) for row in rows]
        self.last_received = rows[-1].received
        self._since_snapshot += len(rows)
        snapshot = None
        if snapshot_due(self._since_snapshot, now - self._snapshot_at):
            snapshot = Snapshot(detector.seq, TenantDetector.FORMAT, detector.snapshot())
        await write_output(
            self._pool,
            self.tenant,
            shard=shard,
            epoch=epoch,
            outputs=outputs,
            received={row.seq: row.received for row in rows},
            snapshot=snapshot,
        )
        if snapshot is not None:
            self._since_snapshot, self._snapshot_at = 0, now
        return Turn(len(rows), _sum_counts(outputs))

    async def _restore(self, now: float) -> TenantDetector:
        """Snapshot, then the journal up to the mark with its output suppressed: the state as it was."""
        async with detector_transaction(self._pool, self.tenant) as transaction:
            stored = await load_state(transaction)
        detector = TenantDetector(self.tenant, self._library.resolve, EwmaModel)
        if stored.snapshot is not None:
            await self._restore_snapshot(detector, stored.snapshot)
        while detector.seq < stored.mark:
            rows = await self._read(detector.seq)
            if not rows:
                raise SnapshotUnusable(f"the journal lacks batch {detector.seq + 1} that the replay needs")
            for row in rows:
                if row.seq <= stored.mark:
                    await self._observe(detector, row)
        self._detector = detector
        self._since_snapshot, self._snapshot_at = 0, now
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


def _cut(rows: list[JournalRow], records: int) -> list[JournalRow]:
    """The first rows of at most so many records, so that a commit, and what it makes visible, is never far away."""
    taken = 0
    for count, row in enumerate(rows):
        if count and taken + row.records > records:
            return rows[:count]
        taken += row.records
    return rows


def _sum_counts(outputs: list[BatchOutput]) -> dict[str, int]:
    total: dict[str, int] = {}
    for output in outputs:
        for name, count in output.counts.items():
            total[name] = total.get(name, 0) + count
    return total
