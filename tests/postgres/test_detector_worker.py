"""A shard's worker between a real journal and a real store: whatever happens to it, the judgement is the same."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from actors.control import append_rule_revision
from actors.detector import DetectorDsns, ShardPlan, ShardWorker
from actors.judge import TenantJudge, TurnLimits
from actors.rules import RuleLibrary
from actors.shard_claims import ShardClaims
from detect.record import TenantId
from detect.sigma import load_rule_set, pack_bytes, starter_pack
from store.journal import JournalEntry, JournalWriter
from store.postgres import tenant_transaction
from store.rule_sets import put_rule_set
from tests.postgres.fixtures import Database

START = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
PACK = starter_pack()
DIGEST = load_rule_set(PACK).digest


def guessing(minute: int, address: str) -> bytes:
    """A batch of ten failed passwords of one address, a second apart."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for second in range(10):
        at = START + timedelta(minutes=minute, seconds=second)
        record = records.add()
        record.time_unix_nano = int(at.timestamp()) * 10**9
        record.body.string_value = (
            f"Mar  1 10:{minute:02d}:{second:02d} web-1 sshd[{4000 + second}]: "
            f"Failed password for root from {address} port {40000 + second} ssh2"
        )
    return gzip.compress(request.SerializeToString(), mtime=0)


BATCHES = [guessing(minute, f"203.0.113.{minute % 5 + 1}") for minute in range(30)]


async def append(database: Database, tenant: TenantId, bodies: list[bytes], first: int = 0) -> None:
    journal = JournalWriter(await database.writer())
    for number, body in enumerate(bodies, start=first):
        digest = hashlib.sha256(body).digest()
        received = START + timedelta(minutes=number, seconds=30)
        key = hashlib.sha256(f"{number}".encode()).digest()
        await journal.append(JournalEntry(tenant, "agent", key, digest, "otlp_protobuf", "gzip", 10, body, received))


async def new_tenant(database: Database) -> TenantId:
    tenant = await database.tenant()
    journal = JournalWriter(await database.writer())
    async with tenant_transaction(await database.app(), tenant) as tx:
        await put_rule_set(tx, DIGEST, pack_bytes(PACK))
    await append_rule_revision(journal, tenant, DIGEST, 1, START)
    return tenant


def plan(**changes: int | float) -> ShardPlan:
    """Without ticks: they are rows that depend on when the worker looks, so only the test about them has them."""
    paced = {"poll_interval_s": 0.02, "turn_rows": 3, "tick_after_idle_s": 1e12} | changes
    return ShardPlan(name="one", actors=("one",), **paced)  # type: ignore[arg-type]


@asynccontextmanager
async def working(database: Database, shard_plan: ShardPlan) -> AsyncIterator[ShardWorker]:
    dsns = DetectorDsns(database.dsn("trustsoc_detector"), database.dsn("trustsoc_writer"))
    worker = ShardWorker(shard_plan, dsns, time.time)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def mark(database: Database, tenant: TenantId) -> int:
    superuser = await database.superuser()
    return int(await superuser.fetchval("SELECT seq FROM detector_marks WHERE tenant_id = $1", tenant))


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)


async def judged(database: Database, tenant: TenantId, seq: int) -> None:
    async def reached() -> bool:
        return await mark(database, tenant) >= seq

    await until(reached)


async def verdict(database: Database, tenant: TenantId) -> dict[str, list[object]]:
    """What was judged, without what differs between tenants by design (ids are functions of the tenant)."""
    superuser = await database.superuser()
    queries = {
        "events": "SELECT seq, position, rule_id, severity, score, title, matched::text, evidence::text FROM events"
        " WHERE tenant_id = $1 ORDER BY seq, position, rule_id, matched::text",
        "records": "SELECT seq, position, time, logsource, entities, message, record::text FROM raw_logs"
        " WHERE tenant_id = $1 ORDER BY seq, position",
        "rollups": "SELECT entity_kind, entity, window_start, features::text FROM feature_rollup_1m"
        " WHERE tenant_id = $1 ORDER BY 1, 2, 3",
        "incidents": "SELECT title, severity, score, first_time, last_time, event_count, revision, techniques"
        " FROM incidents WHERE tenant_id = $1 ORDER BY created_seq, title",
        "members": "SELECT position, time, stage, reason FROM incident_events WHERE tenant_id = $1 ORDER BY 1, 2, 4",
    }
    return {name: [tuple(row) for row in await superuser.fetch(query, tenant)] for name, query in queries.items()}


async def test_what_is_durable_is_judged_stored_and_searchable(database: Database) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:5])
    async with working(database, plan()):
        await judged(database, tenant, 6)
    found = await verdict(database, tenant)
    assert len(found["records"]) == 50
    assert found["events"], "five bursts of guessing are worth an event"
    assert found["incidents"]


async def test_a_worker_that_dies_again_and_again_judges_as_one_that_does_not(database: Database) -> None:
    calm, restless = await new_tenant(database), await new_tenant(database)
    await append(database, calm, BATCHES)
    async with working(database, plan()):
        await judged(database, calm, len(BATCHES) + 1)
    await append(database, restless, BATCHES)
    for stop_at in (2, 3, 7, 12, 13, 20, 26):
        async with working(database, plan(snapshot_every_batches=4)):
            await judged(database, restless, stop_at)
    async with working(database, plan(snapshot_every_batches=4)):
        await judged(database, restless, len(BATCHES) + 1)
    expected, actual = await verdict(database, calm), await verdict(database, restless)
    for table, rows in expected.items():
        assert rows, f"{table} says nothing, so the comparison would prove nothing"
        assert actual[table] == rows, table


async def test_a_snapshot_made_beside_the_judging_is_one_to_go_on_from(database: Database) -> None:
    calm, restless = await new_tenant(database), await new_tenant(database)
    superuser = await database.superuser()

    async def snapshot() -> int:
        newest = "SELECT coalesce(max(seq), 0) FROM detector_snapshots WHERE tenant_id = $1"
        return int(await superuser.fetchval(newest, restless))

    await append(database, calm, BATCHES)
    async with working(database, plan()):
        await judged(database, calm, len(BATCHES) + 1)
    aside = plan(snapshot_every_batches=1, dear_snapshot_s=0.0)
    for first in range(0, len(BATCHES), 10):
        before = await snapshot()
        async with working(database, aside):
            await append(database, restless, BATCHES[first : first + 10], first=first)
            await judged(database, restless, first + 11)

            async def newer(before: int = before) -> bool:
                return await snapshot() > before

            await until(newer)
    expected, actual = await verdict(database, calm), await verdict(database, restless)
    for table, rows in expected.items():
        assert rows and actual[table] == rows, table


@pytest.mark.parametrize("longest_packing_s", [0.0, 60.0], ids=["every packing fails", "packings at work"])
async def test_letting_go_of_a_tenant_stores_its_whole_state(database: Database, longest_packing_s: float) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:10])
    pool, superuser = await database.detector(), await database.superuser()
    claims = ShardClaims("one", ("one",), 64, handover_s=5.0)
    await claims.reconcile(pool, 0.0)
    held = claims.shard_of(tenant), claims.epochs[claims.shard_of(tenant)]
    limits = TurnLimits(4, 2**20, 10, dear_snapshot_s=0.0, longest_packing_s=longest_packing_s)
    judge = TenantJudge(tenant, pool, RuleLibrary.of_detector(pool), limits)
    while (await judge.turn(*held, lambda batches, _: batches > 0, 0.0)).rows:
        pass
    newest = "SELECT max(seq) FROM detector_snapshots WHERE tenant_id = $1"
    assert await mark(database, tenant) == len(BATCHES[:10]) + 1
    if not longest_packing_s:
        assert await superuser.fetchval(newest, tenant) is None
    await judge.keep(*held)
    assert await superuser.fetchval(newest, tenant) == len(BATCHES[:10]) + 1


async def test_a_cancelled_worker_leaves_nothing_half_written(database: Database) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES)
    dsns = DetectorDsns(database.dsn("trustsoc_detector"), database.dsn("trustsoc_writer"))
    for milliseconds in (150, 250, 350, 200):
        task = asyncio.create_task(ShardWorker(plan(), dsns, time.time).run())
        await asyncio.sleep(milliseconds / 1000)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        superuser = await database.superuser()
        stored = await superuser.fetchval("SELECT coalesce(max(seq), 1) FROM raw_logs WHERE tenant_id = $1", tenant)
        assert stored == max(1, await mark(database, tenant))
    async with working(database, plan()):
        await judged(database, tenant, len(BATCHES) + 1)
    assert len((await verdict(database, tenant))["records"]) == 10 * len(BATCHES)


async def test_an_orphan_is_fenced_off_by_whoever_claims_its_shards(database: Database) -> None:
    tenant = await new_tenant(database)
    async with working(database, plan()) as orphan:
        await until(lambda: orphan.report.state == "running")
        async with working(database, plan()) as successor:
            await until(lambda: successor.report.state == "running")
            await append(database, tenant, BATCHES[:8])
            await judged(database, tenant, 9)
            await until(lambda: orphan.report.state in {"fenced", "running"})
            await append(database, tenant, BATCHES[8:16], first=8)
            await judged(database, tenant, 17)
            assert successor.report.state == "running"
    assert len((await verdict(database, tenant))["records"]) == 160


async def test_tenants_take_turns_and_never_meet(database: Database) -> None:
    tenants = [await new_tenant(database) for _ in range(4)]
    for number, tenant in enumerate(tenants):
        await append(database, tenant, BATCHES[: 3 + number])
    async with working(database, plan()):
        for number, tenant in enumerate(tenants):
            await judged(database, tenant, 4 + number)
    for number, tenant in enumerate(tenants):
        assert len((await verdict(database, tenant))["records"]) == 10 * (3 + number)


async def test_a_batch_that_nobody_can_read_is_parked_and_the_rest_goes_on(database: Database) -> None:
    tenant = await new_tenant(database)
    journal = JournalWriter(await database.writer())
    broken = JournalEntry(
        tenant, "agent", b"broken", b"d" * 32, "otlp_protobuf", "identity", 1, b"\xff\xff not protobuf", START
    )
    await journal.append(broken)
    await append(database, tenant, BATCHES[:2])
    async with working(database, plan()) as worker:
        await judged(database, tenant, 4)
        assert worker.report.poison == 1
    superuser = await database.superuser()
    [parked] = await superuser.fetch("SELECT seq, position, stage FROM dead_letters WHERE tenant_id = $1", tenant)
    assert tuple(parked) == (2, -1, "decode")
    assert len((await verdict(database, tenant))["records"]) == 20


async def test_a_tenant_that_falls_silent_gets_tick_rows_until_its_windows_are_closed(database: Database) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:2])
    async with working(database, plan(tick_after_idle_s=0.1)):
        await judged(database, tenant, 3)
        superuser = await database.superuser()

        async def minutes_closed() -> bool:
            rows = await superuser.fetchval("SELECT count(*) FROM feature_rollup_1m WHERE tenant_id = $1", tenant)
            return bool(rows)

        await until(minutes_closed)
        ticks = await superuser.fetchval(
            "SELECT count(*) FROM journal WHERE tenant_id = $1 AND kind = 'control' AND seq > 3", tenant
        )
        assert ticks >= 1
