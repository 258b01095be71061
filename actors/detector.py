"""A detector shard: many tenants' detectors in one actor, fed from the journal, fenced by an epoch.

The shard is a thin shell. `ShardWorker` is the loop: it holds the shards that the plan gives it, finds tenants whose
journal is ahead of their mark, takes fair turns, lets the pure `TenantDetector` judge, and commits what it said
together with the mark in one transaction that an older epoch cannot make. `DetectorShard` runs the worker in a thread
of its own, so that an actor call is answered while a batch is being judged. Whatever fails, the state in memory is
thrown away and rebuilt from snapshot and journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from actors.control import append_tick
from actors.held_tenants import HeldTenants
from actors.judge import SnapshotUnusable, TenantJudge, TurnLimits
from actors.logs import configure_logs
from actors.rule_cost import RuleCosts
from actors.rules import RuleLibrary
from actors.shard_claims import ShardClaims
from detect.record import TenantId
from store.journal import JournalWriter, behind
from store.postgres import Pool, StorageUnavailable, connect_pool, system_transaction_as_detector
from store.shards import Fenced, Superseded, silent_tenants
from store.snapshots import REPLAY_HORIZON

logger = structlog.get_logger("detector")

_RETRY_S = 1.0
_REPORTED_RULES = 200


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How one actor works: its name, and its pace (seconds, rows, bytes).

    `actors` share the shards until the store has a plan, which may change while they work. `rule_cache` is the folder
    of compiled rules; see RuleCache.at.
    """

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
    reconcile_every_s: float = 2.0
    handover_s: float = 5.0
    longest_pause_s: float = 15.0
    max_tenants: int = 500
    replay_horizon: timedelta = REPLAY_HORIZON
    dear_snapshot_s: float = 0.1
    rule_cache: str = ""


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
    parked: int = 0
    evicted: int = 0
    shards: int = 0
    lag_batches: int = 0
    rule_hits: Counter[str] = field(default_factory=Counter)
    rule_cost: dict[str, float] = field(default_factory=dict)

    def add(self, batches: int, counts: dict[str, int], hits: Mapping[str, int]) -> None:
        """Adds one turn's counts, and the events of each rule."""
        self.rule_hits.update(hits)
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
        self._claims = ShardClaims(plan.name, plan.actors, plan.virtual_shards, plan.handover_s)
        self.report = ShardReport(actor=plan.name)

    def wake(self) -> None:
        """There may be work; called from the worker's own event loop."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the loop after the current turn."""
        self._stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Works until stopped, replaced by a newer process of its name, or removed from the plan.

        Reconnects after storage trouble.
        """
        while not self._stopping:
            try:
                await self._work()
                return
            except StorageUnavailable as error:
                self._end("waiting for the store", restarted=True)
                self._claims.forget()
                logger.warning("store unavailable", actor=self._plan.name, error=str(error))
                await asyncio.sleep(min(error.retry_after_s, _RETRY_S))
            except Superseded as error:
                self._end("fenced", restarted=True)
                logger.warning("another process has this actor's name: stopping", error=str(error))
                return
        self._end("stopped", restarted=False)

    async def _work(self) -> None:
        name = f"detector {self._plan.name}"
        with contextlib.ExitStack() as stack:
            pool = await connect_pool(
                self._dsns.detector, name=name, max_size=2, longest_pause_s=self._plan.longest_pause_s
            )
            stack.callback(pool.terminate)
            writer = await connect_pool(self._dsns.writer, name=name, min_size=0, max_size=1)
            stack.callback(writer.terminate)
            work = _Work(self._plan, pool, JournalWriter(writer), self._claims, self._clock, self.report)
            while not self._stopping:
                self._woken.clear()
                if not await work.keep_house():
                    self._end("removed", restarted=False)
                    return
                self.report.state = "running"
                if not await work.round(lambda: self._stopping):
                    await self._pause()
        self._end("stopped", restarted=False)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), self._plan.poll_interval_s)

    def _end(self, state: str, *, restarted: bool) -> None:
        self.report.restarts += restarted and self.report.tenants > 0
        self.report.tenants = self.report.shards = 0
        self.report.state = state


class _Work:
    """What a worker does over one connection to the store: judging, and keeping its shards and memory in order."""

    def __init__(
        self,
        plan: ShardPlan,
        pool: Pool,
        journal: JournalWriter,
        claims: ShardClaims,
        clock: Callable[[], float],
        report: ShardReport,
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._journal = journal
        self._claims = claims
        self._clock = clock
        self._report = report
        library = RuleLibrary.of_detector(pool, RuleCosts(report.rule_cost), plan.rule_cache)
        limits = TurnLimits(
            plan.turn_rows, plan.turn_bytes, plan.turn_records, plan.replay_horizon, plan.dear_snapshot_s
        )
        self._held = HeldTenants(plan.max_tenants, lambda tenant: TenantJudge(tenant, pool, library, limits))
        self._reconciled: float | None = None
        self._ticked = 0.0

    async def round(self, stopping: Callable[[], bool]) -> int:
        """One fair turn for every tenant that is behind; the number of batches judged."""
        async with system_transaction_as_detector(self._pool) as transaction:
            work = await behind(transaction)
        mine = {tenant: last_seq - mark for tenant, (mark, last_seq) in work.items() if self._claims.holds(tenant)}
        self._report.lag_batches = sum(mine.values())
        judged = 0
        for tenant in self._held.in_turn(mine, self._clock()):
            if stopping() or not await self.keep_house():
                break
            if self._claims.holds(tenant):  # housekeeping may have given it to another
                judged += await self._turn(tenant)
        self._report.tenants, self._report.parked = len(self._held), self._held.parked
        return judged

    async def _turn(self, tenant: TenantId) -> int:
        shard = self._claims.shard_of(tenant)
        judge = self._held.get(tenant)
        try:
            turn = await judge.turn(shard, self._claims.epochs[shard], self._snapshot_due, self._clock())
        except StorageUnavailable:
            raise
        except Fenced as error:
            self._held.drop(tenant)
            self._reconciled = None
            logger.warning("another actor has taken a shard", actor=self._plan.name, error=str(error))
            return 0
        except Exception as error:
            # One tenant's trouble must not stop the others; its state is rebuilt from the journal at its next turn.
            wait = self._held.leave_alone(tenant, self._clock(), long=isinstance(error, SnapshotUnusable))
            self._report.restarts += 1
            logger.exception(
                "judging failed; the tenant is replayed", tenant=str(tenant), actor=self._plan.name, again_in_s=wait
            )
            return 0
        self._held.went_well(tenant)
        self._report.add(turn.rows, turn.counts, turn.hits)
        await self._let_go(self._held.surplus())
        return turn.rows

    async def keep_house(self) -> bool:
        """Reconciles and ticks when it is time to; False once the plan has no place for this actor."""
        now = self._clock()
        if self._reconciled is None or not 0 <= now - self._reconciled < self._plan.reconcile_every_s:
            self._reconciled = now
            if not await self._reconcile(now):
                self._reconciled = None
                return False
        if not 0 <= now - self._ticked < min(self._plan.reconcile_every_s, self._plan.tick_after_idle_s):
            self._ticked = now
            await self._tick_silent(now)
        return True

    async def _reconcile(self, now: float) -> bool:
        changes = await self._claims.reconcile(self._pool, now)
        claims = self._claims
        if changes.surplus:
            leaving = self._held.of(lambda tenant: claims.shard_of(tenant) in changes.surplus)
            await self._let_go(leaving)
            await claims.release(self._pool, changes.surplus)
        for tenant in self._held.of(lambda tenant: not claims.holds(tenant)):
            self._held.drop(tenant)
        # What was read under an earlier claim may have been judged further by another since.
        for tenant in self._held.of(lambda tenant: claims.shard_of(tenant) in changes.gained):
            self._held.drop(tenant)
        self._report.shards = len(claims.epochs)
        return claims.in_plan

    async def _let_go(self, tenants: Collection[TenantId]) -> None:
        """Drops tenants from memory, each after a snapshot of what it has not stored yet."""
        for tenant in tenants:
            judge = self._held.drop(tenant)
            shard = self._claims.shard_of(tenant)
            if judge is None or shard not in self._claims.epochs:
                continue
            self._report.evicted += 1
            try:
                await judge.keep(shard, self._claims.epochs[shard])
            except Fenced:  # then the successor replays a little more
                self._reconciled = None

    def _snapshot_due(self, batches: int, seconds: float) -> bool:
        return batches >= self._plan.snapshot_every_batches or seconds >= self._plan.snapshot_every_s

    async def _tick_silent(self, now: float) -> None:
        """A tick row for tenants that fell silent with windows open: time passes for them as data, not by a clock."""
        try:
            since = datetime.fromtimestamp(now, UTC) - timedelta(seconds=self._plan.tick_after_idle_s)
        except OverflowError:  # a wait beyond all times: never
            return
        async with system_transaction_as_detector(self._pool) as transaction:
            silent = await silent_tenants(transaction, since)
        for tenant in silent:
            if self._claims.holds(tenant):
                await append_tick(self._journal, tenant, datetime.fromtimestamp(now, UTC))


class DetectorShard:
    """The actor: starts its worker in a thread and answers calls at once. Ray restarts it; the journal does the rest.

    Data source names come from the environment of the process (TRUSTSOC_*_DSN), never from an argument.
    """

    def __init__(self, plan: ShardPlan) -> None:
        configure_logs()
        # States are many small objects that live long and have no cycles: looking for some at the usual pace costs a
        # quarter of all judging, and more than half of a snapshot.
        # The middle generation is looked through while records wait: it stays small.
        gc.set_threshold(100_000, 5, 80)
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

    def report_now(self) -> dict[str, Any]:
        """Counts since the start, lag and state, for /api/status and /metrics; of the rules those that hit most."""
        report = self._worker.report
        hits = report.rule_hits.copy()  # in one step, for the worker's thread goes on counting
        named = {item.name: getattr(report, item.name) for item in fields(report)}
        costs = sorted(report.rule_cost.copy().items(), key=lambda item: -item[1])[:_REPORTED_RULES]
        return named | {"rule_hits": dict(hits.most_common(_REPORTED_RULES)), "rule_cost": dict(costs)}

    def process_id(self) -> int:
        """The actor's process, for those who test what happens when it dies."""
        return os.getpid()
