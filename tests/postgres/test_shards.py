"""Shards that move while everything goes on: by scaling, by pinning, and from an orphan that knows of nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from actors.detector import DetectorDsns, ShardPlan, ShardWorker
from detect.record import TenantId
from store.postgres import Pool, system_transaction
from store.shards import (
    Superseded,
    actor_names,
    configure,
    holdings,
    pin,
    pinned_actor,
    plan,
    register,
    require_generation,
    scale,
    shard_of,
    shard_set,
    unpin,
)
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import BATCHES, append, judged, mark, new_tenant, until, verdict

SHARDS = 8
ROOT = Path(__file__).resolve().parents[2]


def worker_plan(name: str, **changes: float) -> ShardPlan:
    paced = {
        "virtual_shards": SHARDS, "poll_interval_s": 0.02, "turn_rows": 2, "tick_after_idle_s": 1e12,
        "reconcile_every_s": 0.05, "handover_s": 30.0,
    } | changes  # fmt: skip
    return ShardPlan(name=name, actors=actor_names(1), **paced)  # type: ignore[arg-type]


@asynccontextmanager
async def actor(database: Database, name: str, **changes: float) -> AsyncIterator[ShardWorker]:
    dsns = DetectorDsns(database.dsn("trustsoc_detector"), database.dsn("trustsoc_writer"))
    worker = ShardWorker(worker_plan(name, **changes), dsns, time.time)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def set_actors(writer: Pool, count: int) -> None:
    async with system_transaction(writer) as tx:
        await scale(tx, count, changed_by="test")


async def settled(database: Database, count: int) -> None:
    """Waits until every shard is held by whom the plan gives it to."""
    writer = await database.writer()

    async def holds() -> bool:
        async with system_transaction(writer) as tx:
            shards, held = await shard_set(tx, ()), await holdings(tx)
        wanted = {shard: shards.holder_of(shard) for shard in (*range(SHARDS), *shards.pins.values())}
        return len(shards.actors) == count and {s: h.actor for s, h in held.items() if s in wanted} == wanted

    await until(holds)


async def test_the_same_is_said_while_one_actor_becomes_three_and_then_two(database: Database) -> None:
    calm, moved = [[await new_tenant(database) for _ in range(4)] for _ in range(2)]
    writer = await database.writer()
    async with system_transaction(writer) as tx:
        await configure(tx, 1)
    for tenant in calm:
        await append(database, tenant, BATCHES)
    async with actor(database, "detector-0"):
        for tenant in calm:
            await judged(database, tenant, len(BATCHES) + 1)

    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(actor(database, name)) for name in actor_names(1)]
        for number, (first, last, actors) in enumerate(((0, 10, 3), (10, 20, 2), (20, 30, 2))):
            for tenant in moved:
                await append(database, tenant, BATCHES[first:last], first=first)
            if number < 2:
                await set_actors(writer, actors)
            for name in actor_names(actors)[len(workers) :]:
                workers.append(await stack.enter_async_context(actor(database, name)))
            await settled(database, actors)
        for tenant in moved:
            await judged(database, tenant, len(BATCHES) + 1)
        await until(lambda: workers[2].report.state == "removed")
        assert [worker.report.state for worker in workers[:2]] == ["running", "running"]
        assert sum(worker.report.restarts for worker in workers) == 0, "handing over is no failure"
    for before, after in zip(calm, moved, strict=True):
        expected, actual = await verdict(database, before), await verdict(database, after)
        for table, rows in expected.items():
            assert rows, f"{table} says nothing, so the comparison would prove nothing"
            assert actual[table] == rows, table


async def test_a_holder_that_is_gone_is_not_waited_for_longer_than_the_handover(database: Database) -> None:
    writer = await database.writer()
    async with system_transaction(writer) as tx:
        await configure(tx, 1)
    async with actor(database, "detector-0"):
        await settled(database, 1)
    await set_actors(writer, 2)
    async with actor(database, "detector-1", handover_s=0.2), actor(database, "detector-0"):
        await settled(database, 2)


async def test_an_actor_that_the_plan_does_not_have_claims_nothing(database: Database) -> None:
    async with system_transaction(await database.writer()) as tx:
        await configure(tx, 1)
    async with actor(database, "detector-0"):
        await settled(database, 1)
        async with system_transaction(await database.writer()) as tx:
            before = await holdings(tx)
        async with actor(database, "detector-7", handover_s=0.0) as stranger:
            await until(lambda: stranger.report.state == "removed")
        async with system_transaction(await database.writer()) as tx:
            assert await holdings(tx) == before


async def test_a_pinned_tenant_moves_to_an_actor_of_its_own_and_back(database: Database) -> None:
    tenant = await new_tenant(database)
    writer = await database.writer()
    async with system_transaction(writer) as tx:
        await configure(tx, 1)
    await append(database, tenant, BATCHES[:10])
    async with actor(database, "detector-0") as shared:
        await judged(database, tenant, 4)
        async with system_transaction(writer) as tx:
            shard = await pin(tx, tenant, changed_by="test")
            assert await pin(tx, tenant, changed_by="test") == shard
        async with actor(database, pinned_actor(shard)) as own:
            await settled(database, 1)
            await append(database, tenant, BATCHES[10:20], first=10)
            await judged(database, tenant, 21)
            assert own.report.records > 0
            shared_before = shared.report.records
            await append(database, tenant, BATCHES[20:25], first=20)
            await judged(database, tenant, 26)
            assert shared.report.records == shared_before
            async with system_transaction(writer) as tx:
                assert await unpin(tx, tenant, changed_by="test")
            await until(lambda: own.report.state == "removed")
        await append(database, tenant, BATCHES[25:], first=25)
        await judged(database, tenant, len(BATCHES) + 1)
    calm = await new_tenant(database)
    await append(database, calm, BATCHES)
    async with actor(database, "detector-0"):
        await judged(database, calm, len(BATCHES) + 1)
    assert await verdict(database, tenant) == await verdict(database, calm)


async def test_only_a_change_of_the_settings_overrules_what_was_decided(database: Database) -> None:
    writer = await database.writer()
    for configured, decided, expected in ((2, 5, 2), (2, None, 5), (3, None, 3)):
        async with system_transaction(writer) as tx:
            await configure(tx, configured)
            found = await plan(tx)
            assert found is not None and found.actors == expected
            if decided is not None:
                await scale(tx, decided, changed_by="someone")
    with pytest.raises(ValueError, match="1 to 1024"):
        async with system_transaction(writer) as tx:
            await scale(tx, 0, changed_by="someone")


async def test_only_the_newest_process_of_a_name_may_claim(database: Database) -> None:
    async with system_transaction(await database.writer()) as tx:
        first = await register(tx, "detector-0")
        await require_generation(tx, "detector-0", first)
        second = await register(tx, "detector-0")
        with pytest.raises(Superseded, match=f"process {second} of its name"):
            await require_generation(tx, "detector-0", first)


@asynccontextmanager
async def process(database: Database) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker of the name detector-0 in a process of its own, running. It reconciles so seldom that it must learn
    from a refused write that it was replaced."""
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.postgres.orphan_worker", cwd=ROOT, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert made.stdin is not None and made.stdout is not None
    plan_of = worker_plan("detector-0", reconcile_every_s=1e9, turn_rows=1, longest_pause_s=1.0)
    names = (
        "name",
        "actors",
        "virtual_shards",
        "poll_interval_s",
        "turn_rows",
        "tick_after_idle_s",
        "reconcile_every_s",
    )
    asked = {
        "plan": {name: getattr(plan_of, name) for name in names},
        "detector": database.dsn("trustsoc_detector"),
        "writer": database.dsn("trustsoc_writer"),
    }
    try:
        made.stdin.write(json.dumps(asked).encode() + b"\n")
        await made.stdin.drain()
        assert await made.stdout.readline() == b"running\n"
        yield made
    finally:
        if made.returncode is None:
            made.kill()
            await made.wait()


async def test_an_orphan_process_that_wakes_up_again_stores_nothing_and_stops(database: Database) -> None:
    calm, tenant = await new_tenant(database), await new_tenant(database)
    async with system_transaction(await database.writer()) as tx:
        await configure(tx, 1)
    await append(database, tenant, BATCHES[:5])
    async with process(database) as orphan:
        await judged(database, tenant, 6)
        # Work that the orphan is in the middle of when it is stopped, or sees as soon as it goes on.
        await append(database, tenant, BATCHES[5:12], first=5)
        os.kill(orphan.pid, signal.SIGSTOP)
        async with actor(database, "detector-0"):
            await judged(database, tenant, 13)
        # Nobody else works now: what it finds when it goes on is work that it will try to store.
        await append(database, tenant, BATCHES[12:20], first=12)
        os.kill(orphan.pid, signal.SIGCONT)
        assert orphan.stdout is not None
        async with asyncio.timeout(60):
            assert await orphan.stdout.readline() == b"fenced\n"
            assert await orphan.wait() == 0
        assert await mark(database, tenant) == 13, "it has stored nothing"
        async with actor(database, "detector-0") as successor:
            await append(database, tenant, BATCHES[20:], first=20)
            await judged(database, tenant, len(BATCHES) + 1)
            assert successor.report.state == "running"
            await append(database, calm, BATCHES)
            await judged(database, calm, len(BATCHES) + 1)
    assert await verdict(database, tenant) == await verdict(database, calm)
    shard = shard_of(TenantId(tenant), SHARDS)
    superuser = await database.superuser()
    row = await superuser.fetchrow(
        "SELECT marks.epoch AS judged, held.epoch AS held FROM detector_marks marks, shard_map held"
        " WHERE marks.tenant_id = $1 AND held.shard = $2", tenant, shard,
    )  # fmt: skip
    assert row["judged"] == row["held"], "the last word is the successor's"
