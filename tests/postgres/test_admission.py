"""Quotas, the backlog and fair commits on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from actors.metrics import Metrics
from detect.record import TenantId
from serve.ingest.gate import open_gate
from serve.ingest.head_room import HeadRoom, HeadRoomLimits, HeadRoomPoll
from serve.settings import Settings
from store.audit import verify_audit
from store.backlog import Backlog, backlogs
from store.journal import Appended, JournalEntry, JournalLimits, JournalWriter, Overloaded
from store.postgres import system_transaction, tenant_transaction
from store.quotas import Quota, QuotaOverride, all_overrides, get_override, set_override
from tests.postgres.fixtures import Database

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def entry(tenant: TenantId, key: str, payload: bytes = b"body", records: int = 3) -> JournalEntry:
    return JournalEntry(
        tenant, "web-1", key.encode(), payload[:32].ljust(32, b"\0"), "otlp_protobuf", "identity", records, payload, NOW
    )


async def set_quota(database: Database, tenant: TenantId, quota: QuotaOverride) -> None:
    async with tenant_transaction(await database.app(), tenant) as tx:
        await set_override(tx, quota, actor="admin")


async def test_a_quota_is_one_tenants_and_leaves_its_other_settings_alone(database: Database) -> None:
    one, two = await database.tenant(), await database.tenant()
    superuser = await database.superuser()
    await superuser.execute("""UPDATE tenants SET settings = '{"raw_logs": {"days": 3}}' WHERE tenant_id = $1""", one)
    await set_quota(database, one, QuotaOverride(records_per_s=5, weight=2))
    async with tenant_transaction(await database.app(), one) as tx:
        assert await get_override(tx) == QuotaOverride(records_per_s=5, weight=2)
        await verify_audit(tx)
        action, detail = await tx.connection.fetchrow("SELECT action, detail FROM audit_log ORDER BY position DESC")
        assert action == "quota.set"
        assert '"records_per_s":5.0' in detail
    async with tenant_transaction(await database.app(), two) as tx:
        assert await get_override(tx) == QuotaOverride()
    async with system_transaction(await database.writer()) as system:
        assert await all_overrides(system) == ({one: QuotaOverride(records_per_s=5, weight=2)}, [])
    await set_quota(database, one, QuotaOverride())
    settings = await superuser.fetchval("SELECT settings::text FROM tenants WHERE tenant_id = $1", one)
    assert settings.replace(" ", "") == '{"raw_logs":{"days":3}}'


async def test_the_writer_reads_quotas_and_no_other_setting(database: Database) -> None:
    async with system_transaction(await database.writer()) as system:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await system.connection.fetch("SELECT settings FROM tenants")


async def test_a_stored_quota_that_is_none_is_named_and_the_others_hold(database: Database) -> None:
    good, bad = await database.tenant(), await database.tenant()
    await set_quota(database, good, QuotaOverride(weight=3))
    superuser = await database.superuser()
    await superuser.execute("""UPDATE tenants SET settings = '{"quota": {"weight": -1}}' WHERE tenant_id = $1""", bad)
    async with system_transaction(await database.writer()) as system:
        assert await all_overrides(system) == ({good: QuotaOverride(weight=3)}, [bad])


async def test_the_backlog_is_what_no_detector_has_judged(database: Database) -> None:
    tenant, done = await database.tenant(), await database.tenant()
    writer = JournalWriter(await database.writer())
    for number in range(6):
        await writer.append(entry(tenant, f"k{number}", payload=b"x" * 100, records=10))
    await writer.append(entry(done, "k"))
    superuser = await database.superuser()
    await superuser.execute("UPDATE detector_marks SET seq = 2 WHERE tenant_id = $1", tenant)
    await superuser.execute("UPDATE detector_marks SET seq = 1 WHERE tenant_id = $1", done)
    async with system_transaction(await database.writer()) as system:
        assert await backlogs(system, 100) == {tenant: Backlog(mark=2, batches=4, records=40, bytes=400)}
        assert await backlogs(system, 3) == {tenant: Backlog(mark=2, batches=4, records=40, bytes=400)}


async def test_a_poll_brings_quotas_backlog_and_disk_and_outlives_the_database(database: Database) -> None:
    tenant = await database.tenant()
    await set_quota(database, tenant, QuotaOverride(records_per_s=7))
    pool = await database.writer()
    await JournalWriter(pool).append(entry(tenant, "k", records=3))
    limits = HeadRoomLimits(disk=Path("/"), disk_reserve_bytes=1)
    room, metrics, polls = HeadRoom(limits, Quota(burst_s=4)), Metrics(), list[int]()
    poll = HeadRoomPoll(room, pool, limits, every_s=3600, changed=lambda: polls.append(1), metrics=metrics)
    await poll.start()
    assert room.quota(tenant) == Quota(records_per_s=7, burst_s=4)
    assert room.backlog(tenant).records == 3
    assert (room.disk_free or 0) > 0
    pool.terminate()
    with pytest.raises(asyncpg.InterfaceError):
        await pool.fetch("SELECT 1")
    await poll.poll()
    assert room.quota(tenant).records_per_s == 7, "the last figures stay"
    assert len(polls) == 2
    await poll.stop()


async def test_the_gate_weighs_the_journal(database: Database) -> None:
    tenant = await database.tenant()
    await set_quota(database, tenant, QuotaOverride(weight=5, max_backlog=2))
    pool = await database.writer()
    journal = JournalWriter(pool)
    await journal.append(entry(tenant, "k", records=3))
    async with open_gate(Settings(), 1, pool, journal, Metrics()) as gate:
        assert gate.room.weights() == {tenant: 5}
        assert gate.room.shortage(tenant, gate.room.quota(tenant).max_backlog) == ("backlog", 5.0)


async def test_a_quiet_tenant_is_stored_after_one_group_of_a_noisy_one_at_most(database: Database) -> None:
    noisy, quiet = await database.tenant(), await database.tenant()
    limits = JournalLimits(group_rows=10, lanes=1)
    writer = JournalWriter(await database.writer(), limits)
    order: list[str] = []

    async def send(tenant: TenantId, key: str) -> Appended:
        appended = await writer.append(entry(tenant, key))
        order.append(key)
        return appended

    waiting = [asyncio.create_task(send(noisy, f"noisy-{number}")) for number in range(300)]
    await waiting[0]
    assert await send(quiet, "quiet") == Appended(1, False)
    # One group was on its way when the quiet one came, and one holds it.
    assert order.index("quiet") <= 30
    assert [appended.seq for appended in await asyncio.gather(*waiting)] == list(range(1, 301)), "order is kept"


async def test_a_second_lane_lets_others_go_on_while_a_group_is_stuck(database: Database) -> None:
    stuck, free = await database.tenant(), await database.tenant()
    writer = JournalWriter(await database.writer())
    superuser = await database.superuser()
    async with superuser.transaction():
        await superuser.execute("SELECT 1 FROM journal_heads WHERE tenant_id = $1 FOR UPDATE", stuck)
        first = asyncio.create_task(writer.append(entry(stuck, "first")))
        await asyncio.sleep(0)
        second = asyncio.create_task(writer.append(entry(stuck, "second")))
        await asyncio.sleep(0)
        assert await writer.append(entry(free, "k")) == Appended(1, False)
        assert not first.done()
    assert [appended.seq for appended in await asyncio.gather(first, second)] == [1, 2]


async def test_one_tenant_cannot_fill_what_waits(database: Database) -> None:
    noisy, quiet = await database.tenant(), await database.tenant()
    writer = JournalWriter(await database.writer(), JournalLimits(waiting_rows=20))
    answers = await asyncio.gather(
        *(writer.append(entry(noisy, f"n{number}")) for number in range(50)),
        *(writer.append(entry(quiet, f"q{number}")) for number in range(3)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers[:50] if isinstance(answer, Overloaded)]
    assert len(refused) == 50 - 11
    assert answers[50:] == [Appended(seq, False) for seq in (1, 2, 3)]
    assert writer.full_for(noisy, 1) == 0
