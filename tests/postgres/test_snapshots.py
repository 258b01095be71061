"""Snapshots of several seqs, what a newer format does, and memory that is bounded whatever the number of tenants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from detect.record import TenantId
from detect.tenant import TenantDetector
from store.detections import Snapshot, write_output
from store.postgres import TenantTransaction, system_transaction, tenant_transaction
from store.shards import claim
from store.snapshots import newest_snapshot, snapshot_at
from tests.postgres.fixtures import Database
from tests.postgres.outputs import output
from tests.postgres.test_detector_worker import BATCHES, append, judged, new_tenant, plan, until, verdict, working

SHARD = 3
MORNING = datetime(2026, 3, 1, 6, tzinfo=UTC)


async def judge(database: Database, tenant: TenantId, epoch: int, received: list[datetime]) -> None:
    """A batch with a snapshot for each time of receipt."""
    for seq, at in enumerate(received, start=1):
        await write_output(
            await database.detector(), tenant, shard=SHARD, epoch=epoch, outputs=[output(seq)], received={seq: at},
            snapshot=Snapshot(seq, 2, b"state of %d" % seq, at), replay_horizon=timedelta(days=3),
        )  # fmt: skip


async def kept_seqs(tx: TenantTransaction) -> list[int]:
    return [row["seq"] for row in await tx.connection.fetch("SELECT seq FROM detector_snapshots ORDER BY seq")]


async def test_the_newest_three_and_one_a_day_within_the_horizon_are_kept(database: Database) -> None:
    tenant, other = await database.tenant(), await database.tenant()
    async with system_transaction(await database.writer()) as tx:
        epoch = (await claim(tx, "a", [SHARD]))[SHARD]
    times = [MORNING + timedelta(hours=6 * number) for number in range(30)]  # a week and a half, four a day
    await judge(database, tenant, epoch, times)
    await judge(database, other, epoch, times[:2])
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert await kept_seqs(tx) == [16, 20, 24, 28, 29, 30]
        newest, before, none = await newest_snapshot(tx), await snapshot_at(tx, 23), await snapshot_at(tx, 15)
    assert newest is not None and (newest.seq, newest.state) == (30, b"state of 30")
    assert before is not None and before.seq == 20
    assert none is None
    async with tenant_transaction(await database.app(), other) as tx:
        assert await kept_seqs(tx) == [1, 2]


async def test_a_tenant_with_a_newer_snapshot_is_parked_with_the_reason_and_the_others_go_on(
    database: Database,
) -> None:
    ahead, usual = await new_tenant(database), await new_tenant(database)
    await append(database, ahead, BATCHES[:3])
    async with working(database, plan(snapshot_every_batches=1)):
        await judged(database, ahead, 4)
    superuser = await database.superuser()
    await superuser.execute(
        "UPDATE detector_snapshots SET format = $2 WHERE tenant_id = $1", ahead, TenantDetector.FORMAT + 1
    )
    await append(database, ahead, BATCHES[3:5], first=3)
    await append(database, usual, BATCHES[:5])
    async with working(database, plan()) as worker:
        await judged(database, usual, 6)
        await until(lambda: worker.report.parked == 1)
        assert worker.report.restarts == 1, "it is not tried again and again"
        await append(database, usual, BATCHES[5:8], first=5)
        await judged(database, usual, 9)
    assert await superuser.fetchval("SELECT seq FROM detector_marks WHERE tenant_id = $1", ahead) == 4


async def test_more_tenants_than_fit_into_memory_are_judged_alike(database: Database) -> None:
    many = [await new_tenant(database) for _ in range(6)]
    calm = await new_tenant(database)
    await append(database, calm, BATCHES[:12])
    async with working(database, plan()):
        await judged(database, calm, 13)
    async with working(database, plan(max_tenants=2, turn_rows=4)) as worker:
        for tenant in many:
            await append(database, tenant, BATCHES[:6])
        for tenant in many:
            await judged(database, tenant, 7)
        for tenant in many:
            await append(database, tenant, BATCHES[6:12], first=6)
        for tenant in many:
            await judged(database, tenant, 13)
        await until(lambda: worker.report.lag_batches == 0)
        assert worker.report.tenants <= 2
        assert worker.report.evicted > 0
        assert worker.report.restarts == 0
    expected = await verdict(database, calm)
    for tenant in many:
        assert await verdict(database, tenant) == expected


async def test_windows_of_a_tenant_that_was_put_away_are_closed_by_a_tick_all_the_same(database: Database) -> None:
    silent, other = await new_tenant(database), await new_tenant(database)
    await append(database, silent, BATCHES[:2])
    async with working(database, plan()):
        await judged(database, silent, 3)
    await append(database, other, BATCHES[:2])
    # A worker that has never held the silent tenant since it was started.
    async with working(database, plan(tick_after_idle_s=0.1, max_tenants=1)):
        superuser = await database.superuser()

        async def minutes_closed() -> bool:
            rows = await superuser.fetchval("SELECT count(*) FROM feature_rollup_1m WHERE tenant_id = $1", silent)
            return bool(rows)

        await until(minutes_closed)


async def test_a_tick_is_appended_once_however_many_look(database: Database) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:2])
    async with working(database, plan(tick_after_idle_s=3600.0)):  # the batches were received long ago

        async def ticked() -> bool:
            superuser = await database.superuser()
            return not await superuser.fetchval("SELECT open_windows FROM detector_marks WHERE tenant_id = $1", tenant)

        await judged(database, tenant, 3)
        await until(ticked)
    superuser = await database.superuser()
    rows = await superuser.fetchval("SELECT count(*) FROM journal WHERE tenant_id = $1 AND kind = 'control'", tenant)
    assert rows == 2, "the rules, and one tick"
