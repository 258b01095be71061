"""A detector shard: many tenants' detectors in one actor, fed from the journal, fenced by an epoch.

The shard is a thin shell. `ShardWorker` is the loop: it finds tenants whose journal is ahead of their mark, takes fair
turns, lets the pure `TenantDetector` judge, and commits what it said together with the mark in one transaction that
an older epoch cannot make. `DetectorShard` runs the worker in a thread of its own, so that an actor call is answered
while a batch is being judged. Whatever fails, the state in memory is thrown away and rebuilt from snapshot and journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import structlog

from actors.control import append_tick
from actors.judge import TenantJudge, TurnLimits
from actors.logs import configure_logs
from actors.rules import RuleLibrary
from detect.record import TenantId
from store.detections import Fenced
from store.journal import JournalWriter, behind
from store.postgres import Pool, StorageUnavailable, connect_pool, system_transaction_as_detector
from store.shards import actor_of, claim, shard_of

logger = structlog.get_logger("detector")

_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How one actor works: its name, all actors that share the shards, and its pace (seconds, rows, bytes)."""

    name: str
    actors: tuple[str, ...]
    virtual_shards: int = 64
    poll_interval_s: float = 0.5
    snapshot_every_batches: int = 200
    snapshot_every_s: float = 30.0
    tick_after_idle_s: float = 60.0
    turn_rows: int = 64
    turn_bytes: int = 8 * 2**20
    turn_records: int = 2000


@dataclass(frozen=True, slots=True)
class DetectorDsns:
    """Where the journal and the judgement live: of the detector role, and of the writer role for control rows."""

    detector: str
    writer: str


@dataclass(slots=True)
class ShardReport:
    """What the actor did since it started, and how far behind it is (batches)."""

    actor: str
    state: str = "starting"
    batches: int = 0
    records: int = 0
    events: int = 0
    late: int = 0
    future: int = 0
    poison: int = 0
    restarts: int = 0
    tenants: int = 0
    lag_batches: int = 0

    def add(self, batches: int, counts: dict[str, int]) -> None:
        """Adds one turn's counts."""
        self.batches += batches
        self.records += counts.get("records", 0)
        self.events += counts.get("events", 0)
        self.late += counts.get("late", 0)
        self.future += counts.get("future", 0)
        self.poison += counts.get("poison", 0)


class ShardWorker:
    """The loop of one shard actor. Runs until `stop`, in the event loop that calls `run`."""

    def __init__(self, plan: ShardPlan, dsns: DetectorDsns, clock: Callable[[], float]) -> None:
        self._plan = plan
        self._dsns = dsns
        self._clock = clock
        self._woken = asyncio.Event()
        self._stopping = False
        self._judges: dict[TenantId, TenantJudge] = {}
        self._epochs: dict[int, int] = {}
        self._ticked: dict[TenantId, float] = {}
        self.report = ShardReport(actor=plan.name)

    def wake(self) -> None:
        """There may be work; called from the worker's own event loop."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the loop after the current turn."""
        self._stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Claims the actor's shards and works until stopped or fenced off; reconnects after storage trouble."""
        while not self._stopping:
            try:
                await self._work()
            except StorageUnavailable as error:
                self._forget_all("waiting for the store")
                logger.warning("store unavailable", actor=self._plan.name, error=str(error))
                await asyncio.sleep(min(error.retry_after_s, _RETRY_S))
            except Fenced as error:
                self._forget_all("fenced")
                logger.warning("another actor took the shards: stopping", actor=self._plan.name, error=str(error))
                return
        self._forget_all("stopped")

    async def _work(self) -> None:
        name = f"detector {self._plan.name}"
        with contextlib.ExitStack() as stack:
            pool = await connect_pool(self._dsns.detector, name=name, max_size=2)
            stack.callback(pool.terminate)
            writer = await connect_pool(self._dsns.writer, name=name, min_size=0, max_size=1)
            stack.callback(writer.terminate)
            async with system_transaction_as_detector(pool) as transaction:
                self._epochs = await claim(transaction, self._plan.name, self._own_shards())
            library, journal = RuleLibrary(pool), JournalWriter(writer)
            self.report.state = "running"
            while not self._stopping:
                self._woken.clear()
                judged = await self._round(pool, library, journal)
                if not judged:
                    await self._pause()

    def _own_shards(self) -> list[int]:
        plan = self._plan
        return [shard for shard in range(plan.virtual_shards) if actor_of(shard, plan.actors) == plan.name]

    async def _round(self, pool: Pool, library: RuleLibrary, journal: JournalWriter) -> int:
        """One fair turn for every tenant that is behind; the number of batches judged."""
        async with system_transaction_as_detector(pool) as transaction:
            work = await behind(transaction)
        mine = {
            tenant: last_seq - mark
            for tenant, (mark, last_seq) in work.items()
            if shard_of(tenant, self._plan.virtual_shards) in self._epochs
        }
        self.report.lag_batches = sum(mine.values())
        judged = 0
        for tenant in mine:
            if self._stopping:
                break
            judged += await self._turn(tenant, pool, library)
        await self._tick_idle(journal)
        self.report.tenants = len(self._judges)
        return judged

    async def _turn(self, tenant: TenantId, pool: Pool, library: RuleLibrary) -> int:
        shard = shard_of(tenant, self._plan.virtual_shards)
        judge = self._judges.get(tenant)
        if judge is None:
            limits = TurnLimits(self._plan.turn_rows, self._plan.turn_bytes, self._plan.turn_records)
            judge = self._judges[tenant] = TenantJudge(tenant, pool, library, limits)
        try:
            turn = await judge.turn(shard, self._epochs[shard], self._snapshot_due, self._clock())
        except (Fenced, StorageUnavailable):
            raise
        except Exception:
            # One tenant's trouble must not stop the others; its state is rebuilt from the journal at the next turn.
            del self._judges[tenant]
            self.report.restarts += 1
            logger.exception("judging failed; the tenant is replayed", tenant=str(tenant), actor=self._plan.name)
            return 0
        self.report.add(turn.rows, turn.counts)
        return turn.rows

    def _snapshot_due(self, batches: int, seconds: float) -> bool:
        return batches >= self._plan.snapshot_every_batches or seconds >= self._plan.snapshot_every_s

    async def _tick_idle(self, journal: JournalWriter) -> None:
        """A tick row for tenants that fell silent with windows open: time passes for them as data, not by a clock."""
        now = self._clock()
        for tenant, judge in self._judges.items():
            if not judge.open_windows or judge.last_received is None:
                continue
            quiet = now - max(judge.last_received.timestamp(), self._ticked.get(tenant, 0.0))
            if quiet >= self._plan.tick_after_idle_s:
                self._ticked[tenant] = now
                await append_tick(journal, tenant, datetime.fromtimestamp(now, UTC))

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), self._plan.poll_interval_s)

    def _forget_all(self, state: str) -> None:
        if self._judges:
            self.report.restarts += 1
        self._judges.clear()
        self.report.state = state


class DetectorShard:
    """The actor: starts its worker in a thread and answers calls at once. Ray restarts it; the journal does the rest.

    Data source names come from the environment of the process (TRUSTSOC_*_DSN), never from an argument.
    """

    def __init__(self, plan: ShardPlan) -> None:
        configure_logs()
        dsns = DetectorDsns(os.environ["TRUSTSOC_DETECTOR_DSN"], os.environ["TRUSTSOC_WRITER_DSN"])
        self._worker = ShardWorker(plan, dsns, time.time)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"shard-{plan.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._worker.run())
        except Exception:
            logger.exception("the shard's loop failed; the actor ends so that it is started anew")
            os._exit(1)

    def wake(self) -> None:
        """A hint that some tenant's journal has grown. Losing it costs at most the poll interval."""
        self._loop.call_soon_threadsafe(self._worker.wake)

    def report_now(self) -> dict[str, str | float]:
        """Counts since the start, lag and state, for /api/status and /metrics."""
        return asdict(self._worker.report)

    def process_id(self) -> int:
        """The actor's process, for those who test what happens when it dies."""
        return os.getpid()
