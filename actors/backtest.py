"""A backtest: the past judged again with some rules added or replaced, and what those would have said differently.

It is a replay (actors/replay.py) in which every rule set that was in force has the given rules on top. So the other
rules, the correlations that feed on them and the overlay are as they were, and nothing is changed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from actors.backtest_difference import BacktestDifference
from actors.replay import Line, ReplayFork, ReplayRefused, ReplayRequest, alone, in_task
from actors.replay_difference import Replayed
from actors.rule_cache import RuleCache
from actors.rule_check import changed_rules
from actors.rule_masking import RecordMasks, masked_sources
from actors.rules import RuleLibrary
from detect.batch import Batch
from detect.event import DetectionEvent
from detect.record import TenantId
from detect.sigma import RuleError, RuleSet, load_rule_set, pack_bytes, unpack
from detect.sigma.overlay import TRIAL_PREFIX, trial_sources
from store.postgres import Pool
from store.queries import sql
from store.replay import (
    EVENT_COLUMNS,
    ReplayRange,
    range_of,
    read_only_transaction,
    retried_later,
    stored_events,
)
from store.snapshots import snapshot_at
from store.values import iso_time

# Another version of the same rule is no difference in what it says.
_IGNORED = frozenset({"rule_version"})
_SEQ, _RULE = EVENT_COLUMNS.index("seq"), EVENT_COLUMNS.index("rule_id")


@dataclass(frozen=True, slots=True)
class BacktestRequest:
    """Which rules, (name, text) of files, on what was received in [since, until) (None: until now); `rule_cache` as of
    ShardPlan. `masks` says how the tenant's records are masked now (None: not at all)."""

    tenant: UUID
    rules: tuple[tuple[str, str], ...]
    since: datetime
    until: datetime | None = None
    max_batches: int = 20_000
    rows: int = 64
    bytes: int = 8 * 2**20
    rule_cache: str = ""
    masks: RecordMasks | None = None


async def backtest(pool: Pool, request: BacktestRequest) -> AsyncGenerator[Line, None]:
    """Lines start, progress and result. `pool` is of the app role and needs two connections. Raises ReplayRefused and
    StorageUnavailable."""
    async with alone(pool, TenantId(request.tenant)):
        async for line in _Backtest(pool, request).lines():
            yield line


def backtest_in_task(request: BacktestRequest) -> Iterator[Line]:
    """The lines of a backtest, in a process of its own; see in_task."""
    yield from in_task(lambda pool: backtest(pool, request))


class _Backtest:
    def __init__(self, pool: Pool, request: BacktestRequest) -> None:
        self._pool = pool
        self._request = request
        self._tenant = TenantId(request.tenant)
        self._fork = ReplayFork(pool, ReplayRequest(request.tenant, 1, rows=request.rows, bytes=request.bytes))
        # What is compiled already is the set as it was; the altered one goes by the same digest and is never kept.
        self._before = RuleLibrary(self._fork.fetch_pack, RuleCache.at(request.rule_cache))
        self._after = RuleLibrary(self._altered)
        self._given: frozenset[str] = frozenset()
        self._fetched: list[str] = []
        self._affected: list[tuple[int, frozenset[str]]] = []

    async def lines(self) -> AsyncGenerator[Line, None]:
        await self._check()
        span = await self._span()
        async with read_only_transaction(self._pool, self._tenant) as tx:
            snapshot = await snapshot_at(tx, span.first - 1)
        detector = await self._fork.detector(self._after, None, snapshot)
        begin = detector.seq
        if span.last - begin > self._request.max_batches:
            raise ReplayRefused(
                422,
                f"from the snapshot at {begin} to {span.last} there are {span.last - begin} batches, more than the "
                f"{self._request.max_batches} that one backtest may read: ask for a shorter time",
            )
        yield {"type": "start", "batches": span.last - begin} | _span_view(span)
        difference = BacktestDifference()
        said = Replayed(self._tenant, span.first, span.last, _IGNORED)
        await self._note(begin + 1)
        while detector.seq < span.last:
            for row in await self._fork.read(detector.seq, span.last):
                batch = row.batch()
                await self._load(batch)
                output = detector.observe(batch)
                events = self._of_affected(output.events)
                said.add(events, output.folds, detector.watermark_ns)
                difference.keep_evidence(events)
            yield {"type": "progress", "seq": detector.seq, "done": detector.seq - begin, "total": span.last - begin}
        await self._compare(said, difference, span, detector.watermark_ns)
        yield {"type": "result", "rules": difference.by_rule()} | difference.totals() | _span_view(span)

    async def _check(self) -> None:
        """Refuses rules that cannot be used on top of those that are in force now."""
        alone = await asyncio.to_thread(load_rule_set, list(self._request.rules))
        stated = (error.rule_id for error in alone.errors if error.rule_id is not None)
        self._given = frozenset([*(rule.id for rule in (*alone.rules, *alone.correlations)), *stated])
        async with read_only_transaction(self._pool, self._tenant) as tx:
            newest = await tx.connection.fetchval(sql("control_rules_newest"))
        if newest is None:
            raise ReplayRefused(409, "no rules are in force for this tenant")
        await self._after.load(newest)
        await self._note(0)
        faults = [error for error in self._after.resolve(newest).errors if error.path.startswith(TRIAL_PREFIX)]
        if faults:
            raise ReplayRefused(422, f"{len(faults)} of the rules cannot be used: {'; '.join(map(_shown, faults[:5]))}")
        if not self._affected[-1][1]:
            raise ReplayRefused(422, "there is no rule in what was given, and no filter of a rule that is in force")

    async def _span(self) -> ReplayRange:
        async with read_only_transaction(self._pool, self._tenant) as tx:
            found = await range_of(tx, self._request.since, self._request.until)
        if found is None:
            raise ReplayRefused(422, "nothing that was received in this time is judged and can still be replayed")
        return found

    async def _altered(self, digest: str) -> bytes | None:
        """The pack of a rule set with the given rules on top."""
        pack = await self._fork.fetch_pack(digest)
        if pack is None:
            return None
        self._fetched.append(digest)
        before = await self._before.load(digest)
        return await asyncio.to_thread(self._with_given, pack, None if before is None else before.rules)

    def _with_given(self, pack: bytes, before: RuleSet | None) -> bytes:
        sources = trial_sources(unpack(pack), self._request.rules, self._given)
        masks = self._request.masks
        return pack_bytes(sources if masks is None or before is None else masked_sources(sources, masks, before))

    async def _load(self, batch: Batch) -> None:
        await self._after.load_for(batch)
        await self._note(batch.seq)

    async def _note(self, seq: int) -> None:
        """From `seq` on also those rules count that differ in a rule set that was just fetched."""
        while self._fetched:
            digest = self._fetched.pop()
            await self._before.load(digest)
            changed = changed_rules(self._before.resolve(digest), self._after.resolve(digest))
            known = self._affected[-1][1] if self._affected else frozenset()
            self._affected.append((seq, known | changed | self._given))

    def _of_affected(self, events: Sequence[DetectionEvent]) -> list[DetectionEvent]:
        affected = self._affected[-1][1] if self._affected else frozenset()
        return [event for event in events if event.rule_id in affected]

    async def _compare(
        self, said: Replayed, difference: BacktestDifference, span: ReplayRange, watermark_ns: int
    ) -> None:
        starts = [seq for seq, _ in self._affected]
        async with read_only_transaction(self._pool, self._tenant) as tx:
            later = await retried_later(tx, span.first, span.last)
        async for stored in stored_events(self._pool, self._tenant, span.first, span.last):
            place = bisect_right(starts, stored.row[_SEQ]) - 1
            if place >= 0 and stored.row[_RULE] in self._affected[place][1]:
                said.compare(stored, difference, watermark_ns, later)
        said.add_new(difference)


def _shown(fault: RuleError) -> str:
    """The fault with the file's name as it was given."""
    return str(replace(fault, path=fault.path.removeprefix(TRIAL_PREFIX).partition("/")[2]))


def _span_view(span: ReplayRange) -> dict[str, Any]:
    return {
        "from": span.first,
        "to": span.last,
        "received_from": iso_time(span.received_first),
        "received_to": iso_time(span.received_last),
    }
