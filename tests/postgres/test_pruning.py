"""The journal is pruned of what nothing needs, and of nothing else: not under load, not before a restart, not held."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from actors.control import append_rule_revision, append_tick
from detect.record import TenantId
from store.holds import place_hold, release_hold
from store.journal import Appended, JournalWriter
from store.postgres import tenant_transaction
from store.pruning import JournalPruned, StepLimits, prune_journal, pruned_journal, require_unpruned
from store.search import count_status
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import (
    BATCHES,
    DIGEST,
    START,
    append,
    judged,
    new_tenant,
    plan,
    verdict,
    working,
)
from tests.postgres.test_journal import entry

WEEK = timedelta(days=7)
NOW = START + timedelta(days=30)
OFTEN = {"snapshot_every_batches": 4, "snapshot_every_s": 1e9}


async def seqs(database: Database, tenant: TenantId) -> list[int]:
    superuser = await database.superuser()
    return [
        row["seq"] for row in await superuser.fetch("SELECT seq FROM journal WHERE tenant_id = $1 ORDER BY seq", tenant)
    ]


async def oldest_snapshot(database: Database, tenant: TenantId) -> int:
    superuser = await database.superuser()
    return int(await superuser.fetchval("SELECT min(seq) FROM detector_snapshots WHERE tenant_id = $1", tenant))


async def keep_newest_snapshot(database: Database, tenant: TenantId) -> int:
    """As if the older ones had been given up; returns its seq."""
    superuser = await database.superuser()
    await superuser.execute(
        "DELETE FROM detector_snapshots AS s WHERE tenant_id = $1 AND seq < (SELECT max(seq) FROM detector_snapshots "
        "WHERE tenant_id = $1)",
        tenant,
    )
    return await oldest_snapshot(database, tenant)


async def judge_all(database: Database, tenant: TenantId, batches: int) -> None:
    async with working(database, plan(**OFTEN)):
        await judged(database, tenant, batches)


async def test_what_is_judged_old_and_covered_by_a_snapshot_goes_but_the_rules_in_force_stay(
    database: Database,
) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:12])
    await judge_all(database, tenant, 13)
    kept_from = await keep_newest_snapshot(database, tenant)
    assert kept_from >= 4
    deleted = await prune_journal(await database.app(), tenant, WEEK, NOW, StepLimits(rows=3, steps=100))
    assert await seqs(database, tenant) == [1, *range(kept_from + 1, 14)], "the rules row is the first"
    assert deleted == kept_from - 1
    async with tenant_transaction(await database.app(), tenant) as tx:
        pruned = await pruned_journal(tx)
        assert (pruned.before_seq, pruned.batches, pruned.records) == (kept_from + 1, deleted, deleted * 10)
        assert (await count_status(tx))["records"] == 120, "the totals do not shrink"
        await require_unpruned(tx, kept_from + 1)
        with pytest.raises(JournalPruned, match=f"whole from batch {kept_from + 1}"):
            await require_unpruned(tx, 2)
    assert await prune_journal(await database.app(), tenant, WEEK, NOW) == 0, "nothing more can go"


async def test_only_superseded_rules_and_ticks_go(database: Database) -> None:
    tenant = await new_tenant(database)
    journal = JournalWriter(await database.writer())
    await append_tick(journal, tenant, START)
    await append_rule_revision(journal, tenant, DIGEST, 2, START + timedelta(seconds=1))
    await append(database, tenant, BATCHES[:5])
    await judge_all(database, tenant, 8)
    kept_from = await keep_newest_snapshot(database, tenant)
    await prune_journal(await database.app(), tenant, WEEK, NOW)
    assert await seqs(database, tenant) == [3, *range(kept_from + 1, 9)]


async def test_nothing_goes_that_is_young_or_unjudged_or_without_a_snapshot(database: Database) -> None:
    tenant, app = await new_tenant(database), await database.app()
    await append(database, tenant, BATCHES[:6])
    everything = await seqs(database, tenant)
    assert await prune_journal(app, tenant, WEEK, NOW) == 0, "nothing is judged"
    await judge_all(database, tenant, 7)
    assert await prune_journal(app, tenant, WEEK, START + timedelta(days=2)) == 0, "all is younger than a week"
    superuser = await database.superuser()
    await superuser.execute("DELETE FROM detector_snapshots WHERE tenant_id = $1", tenant)
    assert await prune_journal(app, tenant, WEEK, NOW) == 0, "a replay must begin at the first batch"
    assert await seqs(database, tenant) == everything


async def test_the_horizon_is_enforced_by_the_function_itself(database: Database) -> None:
    tenant = await database.tenant()
    for horizon, rows in ((datetime.now(UTC), 10), (START, 0), (START, 10**6)):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            async with tenant_transaction(await database.app(), tenant) as tx:
                await tx.connection.fetchrow("SELECT * FROM journal_prune($1, 0, $2)", horizon, rows)
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await (await database.app()).fetchrow("SELECT * FROM journal_prune($1, 0, 10)", START)


async def test_a_hold_keeps_the_batches_that_it_covers_until_it_is_released(database: Database) -> None:
    tenant, app = await new_tenant(database), await database.app()
    await append(database, tenant, BATCHES[:12])
    await judge_all(database, tenant, 13)
    kept_from = await keep_newest_snapshot(database, tenant)
    assert kept_from >= 7
    async with tenant_transaction(app, tenant) as tx:
        begins, ends = START + timedelta(minutes=2), START + timedelta(minutes=5)
        hold = await place_hold(tx, "case 2026-17", begins, ends, actor="test")
    await prune_journal(app, tenant, WEEK, NOW, StepLimits(rows=2, steps=100))
    # Batch n was received half a minute after minute n-2.
    assert await seqs(database, tenant) == [1, 4, 5, 6, *range(kept_from + 1, 14)]
    async with tenant_transaction(app, tenant) as tx:
        await release_hold(tx, hold.hold_id, "closed", actor="test")
    await prune_journal(app, tenant, WEEK, NOW)
    assert await seqs(database, tenant) == [1, *range(kept_from + 1, 14)]


async def test_a_parked_batch_stays_four_times_as_long(database: Database) -> None:
    tenant, app = await new_tenant(database), await database.app()
    await append(database, tenant, BATCHES[:8])
    await judge_all(database, tenant, 9)
    kept_from = await keep_newest_snapshot(database, tenant)
    superuser = await database.superuser()
    await superuser.execute(
        "INSERT INTO dead_letters (tenant_id, seq, position, stage, subject, error, letter_id, last_seq, hour) "
        "VALUES ($1, 3, -1, 'decode', 'otlp_protobuf', 'broken', gen_random_uuid(), 3, now()), "
        "($1, 4, -1, 'decode', 'otlp_protobuf', 'mended', gen_random_uuid(), 4, now())",
        tenant,
    )
    await superuser.execute(
        "UPDATE dead_letters SET state = 'fixed' WHERE tenant_id = $1 AND error = 'mended'",
        tenant,
    )
    # The function reckons with its own clock, by which START lies in the past; so the keep is what is turned.
    age = datetime.now(UTC) - START
    await prune_journal(app, tenant, age / 2, datetime.now(UTC))
    assert await seqs(database, tenant) == [1, 3, *range(kept_from + 1, 10)]
    await prune_journal(app, tenant, age / 5, datetime.now(UTC))
    assert await seqs(database, tenant) == [1, *range(kept_from + 1, 10)]


async def test_pruning_beside_appends_and_judging_loses_nothing(database: Database) -> None:
    """The disturbed tenant is pruned without a pause while it is fed and its worker dies; both end with one verdict."""
    calm, pruned = await new_tenant(database), await new_tenant(database)
    await append(database, calm, BATCHES)
    await judge_all(database, calm, len(BATCHES) + 1)
    app, done = await database.app(), asyncio.Event()
    gone = 0

    async def prune() -> None:
        nonlocal gone
        while not done.is_set():
            gone += await prune_journal(app, pruned, WEEK, NOW, StepLimits(rows=5, steps=20))
            await asyncio.sleep(0.005)

    async def feed() -> None:
        for number, body in enumerate(BATCHES):
            await append(database, pruned, [body], first=number)

    pruning, feeding = asyncio.create_task(prune()), asyncio.create_task(feed())
    for stop_at in (5, 9, 14, 20, 27, len(BATCHES) + 1):
        async with working(database, plan(**OFTEN)):
            await judged(database, pruned, stop_at)
        await keep_newest_snapshot(database, pruned)
    await feeding
    async with working(database, plan(**OFTEN)):
        await judged(database, pruned, len(BATCHES) + 1)
    done.set()
    await pruning
    assert gone > 10, "pruning had something to do"
    expected, actual = await verdict(database, calm), await verdict(database, pruned)
    for table, rows in expected.items():
        assert rows, table
        assert actual[table] == rows, table


async def test_a_restart_after_pruning_goes_on_from_the_snapshot(database: Database) -> None:
    calm, pruned = await new_tenant(database), await new_tenant(database)
    for tenant in (calm, pruned):
        await append(database, tenant, BATCHES[:15])
        await judge_all(database, tenant, 16)
    await keep_newest_snapshot(database, pruned)
    assert await prune_journal(await database.app(), pruned, WEEK, NOW) > 0
    for tenant in (calm, pruned):
        await append(database, tenant, BATCHES[15:], first=15)
        await judge_all(database, tenant, len(BATCHES) + 1)
    assert await verdict(database, pruned) == await verdict(database, calm)


async def test_a_repeat_is_known_for_as_long_as_its_original_is_kept(database: Database) -> None:
    """The idempotency window is the replay horizon: a sender that repeats later is stored anew."""
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:8])
    await judge_all(database, tenant, 9)
    await keep_newest_snapshot(database, tenant)
    journal = JournalWriter(await database.writer())
    repeated = entry(tenant, "sent twice", payload=BATCHES[0], encoding="gzip")
    first = await journal.append(repeated)
    assert await journal.append(repeated) == Appended(first.seq, duplicate=True)
    superuser = await database.superuser()
    await superuser.execute("UPDATE journal SET received = $2 WHERE tenant_id = $1", tenant, START)
    await judge_all(database, tenant, first.seq)
    await superuser.execute("UPDATE detector_snapshots SET seq = $2 WHERE tenant_id = $1", tenant, first.seq)
    await prune_journal(await database.app(), tenant, WEEK, NOW)
    assert await journal.append(repeated) == Appended(first.seq + 1, duplicate=False)
