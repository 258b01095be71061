"""A fork of a tenant at a past seq: the production code over the journal again, in memory, changing nothing.

`replay` is the whole of it, over a pool; `replay_in_task` runs it in a process of its own (a Ray task), so that neither
the edge nor a detector is held up. What comes out is a stream of plain dicts: start, progress, then result or error.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from actors.replay_difference import ReplayDifference, Replayed
from actors.rules import RuleLibrary, RuleSetMissing
from detect.record import TenantId
from detect.sigma import RuleSet, load_rule_set
from detect.sigma.pack import BadPack
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from store.journal import JournalRow
from store.postgres import Pool, StorageUnavailable, connect_pool
from store.pruning import JournalPruned, read_unpruned
from store.replay import (
    ReplayRunning,
    one_replay,
    read_only_transaction,
    replay_bounds,
    retried_later,
    stored_events,
)
from store.rule_sets import get_rule_set
from store.snapshots import Snapshot, snapshot_at

Line = dict[str, Any]

LONGEST_S = 2 * 3600.0
"""Nothing else ends a replay that gets nowhere: it is never cancelled, and keeps its place until it has ended."""
_NICENESS = 10
_SHOWN_ERRORS = 5


class ReplayRefused(Exception):
    """The replay cannot be made; the message says what to ask instead. `status` is HTTP's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Batches `first` to `last` (None: all that is judged) of a tenant.

    `rules` are (name, text) of the files to judge by, instead of what was in force; `max_batches` may be read at most,
    in `longest_s` seconds.
    """

    tenant: UUID
    first: int
    last: int | None = None
    rules: tuple[tuple[str, str], ...] | None = None
    max_batches: int = 20_000
    rows: int = 64
    bytes: int = 8 * 2**20
    longest_s: float = LONGEST_S


async def replay(pool: Pool, request: ReplayRequest) -> AsyncGenerator[Line, None]:
    """Replays and compares. `pool` is of the app role and needs two connections. Raises ReplayRefused and
    StorageUnavailable."""
    async with alone(pool, TenantId(request.tenant)):
        async for line in ReplayFork(pool, request).lines():
            yield line


@asynccontextmanager
async def alone(pool: Pool, tenant: TenantId) -> AsyncIterator[None]:
    """The only replay of the tenant while the block runs. Raises ReplayRefused when there is another."""
    try:
        async with one_replay(pool, tenant):
            yield
    except ReplayRunning as error:
        raise ReplayRefused(409, str(error)) from error


class ReplayFork:
    """A tenant's detector over the journal again."""

    def __init__(self, pool: Pool, request: ReplayRequest) -> None:
        self._pool = pool
        self._request = request
        self._tenant = TenantId(request.tenant)
        self._ends = time.monotonic() + request.longest_s

    async def lines(self) -> AsyncGenerator[Line, None]:
        """Start, progress, result."""
        request = self._request
        other = await _other_rules(request)
        async with read_only_transaction(self._pool, self._tenant) as tx:
            mark, _ = await replay_bounds(tx)
            snapshot = await snapshot_at(tx, request.first - 1)
        last = _checked_last(request, mark)
        library = RuleLibrary(self.fetch_pack)
        detector = await self.detector(library, other, snapshot)
        begin = detector.seq
        if last - begin > request.max_batches:
            raise ReplayRefused(
                422,
                f"from the snapshot at {begin} to {last} there are {last - begin} batches, more than the "
                f"{request.max_batches} that one replay may read: ask for a shorter range",
            )
        yield {"type": "start", "from": request.first, "to": last, "snapshot": begin, "batches": last - begin}
        said = Replayed(self._tenant, request.first, last)
        while detector.seq < last:
            for row in await self.read(detector.seq, last):
                batch = row.batch()
                await library.load_for(batch)
                output = detector.observe(batch)
                said.add(output.events, output.folds, detector.watermark_ns)
            yield {"type": "progress", "seq": detector.seq, "done": detector.seq - begin, "total": last - begin}
        difference = await self._compare(said, last, detector.watermark_ns)
        counted: Line = {**difference.counts, "repeats": difference.repeats, "samples": difference.samples}
        yield {"type": "result", "from": request.first, "to": last} | counted

    async def detector(self, library: RuleLibrary, other: RuleSet | None, snapshot: Snapshot | None) -> TenantDetector:
        """As it stood before the first batch, or at the nearest snapshot before; judging by `other` if there is one."""
        if other is not None:
            detector = TenantDetector(self._tenant, lambda _: other, EwmaModel)
        else:
            detector = TenantDetector(self._tenant, library.resolve, EwmaModel, matcher=library.matcher)
        if snapshot is None:
            return detector
        try:
            await library.restore(detector, snapshot.state)
        except (ValueError, LookupError) as error:
            raise ReplayRefused(409, f"the snapshot at {snapshot.seq} cannot be used: {error}") from error
        return detector

    async def read(self, after: int, last: int) -> list[JournalRow]:
        """The next batches. Raises ReplayRefused when they are gone, or the time is up."""
        if time.monotonic() > self._ends:
            raise ReplayRefused(422, f"not done within {self._request.longest_s / 60:g} minutes: ask for less at once")
        try:
            async with read_only_transaction(self._pool, self._tenant) as tx:
                rows = await read_unpruned(tx, after, self._request.rows, self._request.bytes)
        except JournalPruned as error:
            raise ReplayRefused(409, f"no snapshot is kept from which to replay: {error}") from error
        return [row for row in rows if row.seq <= last]

    async def _compare(self, said: Replayed, last: int, watermark_ns: int) -> ReplayDifference:
        difference = ReplayDifference()
        async with read_only_transaction(self._pool, self._tenant) as tx:
            later = await retried_later(tx, self._request.first, last)
        async for stored in stored_events(self._pool, self._tenant, self._request.first, last):
            said.compare(stored, difference, watermark_ns, later)
        said.add_new(difference)
        return difference

    async def fetch_pack(self, digest: str) -> bytes | None:
        """The pack of a rule set."""
        async with read_only_transaction(self._pool, self._tenant) as tx:
            return await get_rule_set(tx, digest)


def _checked_last(request: ReplayRequest, mark: int) -> int:
    last = mark if request.last is None else request.last
    if last > mark:
        raise ReplayRefused(422, f"batch {last} is not judged yet: the last one that is, is {mark}")
    if not 1 <= request.first <= last:
        raise ReplayRefused(422, f"there is nothing from {request.first} to {last}: batches go from 1 to {mark}")
    return last


async def _other_rules(request: ReplayRequest) -> RuleSet | None:
    if request.rules is None:
        return None
    loaded = await asyncio.to_thread(load_rule_set, list(request.rules))
    if loaded.errors:
        shown = "; ".join(str(error) for error in loaded.errors[:_SHOWN_ERRORS])
        raise ReplayRefused(422, f"{len(loaded.errors)} of the rules cannot be used: {shown}")
    if not loaded.rules and not loaded.correlations:
        raise ReplayRefused(422, "there is no rule in what was given")
    return loaded


def replay_in_task(request: ReplayRequest) -> Iterator[Line]:
    """The lines of a replay, in a process of its own; see in_task."""
    yield from in_task(lambda pool: replay(pool, request))


def in_task(lines_over: Callable[[Pool], AsyncGenerator[Line, None]]) -> Iterator[Line]:
    """The lines that come out over a pool of the process.

    What somebody can mend, and what will pass, is the last line (`error`); a defect of the program is an exception. The
    data source name comes from the environment of the process, never from an argument.
    """
    with suppress(OSError):  # beside ingest and detectors a replay has time
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    loop = asyncio.new_event_loop()
    lines = _safe_lines(lines_over)
    try:
        while True:
            yield loop.run_until_complete(anext(lines))
    except StopAsyncIteration:
        return
    finally:
        loop.run_until_complete(lines.aclose())
        loop.close()


async def _safe_lines(lines_over: Callable[[Pool], AsyncGenerator[Line, None]]) -> AsyncGenerator[Line, None]:
    try:
        pool = await connect_pool(os.environ["TRUSTSOC_APP_DSN"], name="replay", min_size=0, max_size=2)
        try:
            async for line in lines_over(pool):
                yield line
        finally:
            pool.terminate()
    except ReplayRefused as error:
        yield {"type": "error", "status": error.status, "detail": str(error)}
    except (RuleSetMissing, BadPack) as error:
        yield {"type": "error", "status": 409, "detail": str(error)}
    except StorageUnavailable as error:
        yield {"type": "error", "status": 503, "detail": str(error)}
