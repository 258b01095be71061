"""Retention and legal holds: what a tenant must keep stays, whatever anybody else may throw away."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from detect.record import TenantId
from store.audit import verify_audit
from store.holds import (
    HoldNotFound,
    list_holds,
    own_retention,
    place_hold,
    release_hold,
    set_retention,
)
from store.partitions import drop_partitions, make_partitions
from store.postgres import tenant_transaction
from store.pruning import StepLimits, prune_raw_logs, prune_rollups
from tests.postgres.fixtures import Database

TODAY = datetime.now(UTC).date()
NOON = datetime.now(UTC).replace(hour=12)


def days_ago(days: int) -> date:
    return TODAY - timedelta(days=days)


async def days_kept(database: Database) -> list[int]:
    """The ages in days of the partitions that are there, oldest first."""
    rows = await (await database.superuser()).fetch(
        "SELECT to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') AS day FROM pg_inherits "
        "WHERE inhparent = 'raw_logs'::regclass ORDER BY 1"
    )
    return [(TODAY - row["day"]).days for row in rows]


async def fill(database: Database, tenant: TenantId, age: int, records: int = 10) -> None:
    superuser = await database.superuser()
    await superuser.execute(
        """INSERT INTO raw_logs SELECT $1, $3, n, $2, $2, '', 9, 'a//b', '{}', 'm', '{}'
           FROM generate_series(1, $4) n""",
        tenant,
        NOON - timedelta(days=age),
        age,
        records,
    )


async def ages(database: Database, tenant: TenantId) -> dict[int, int]:
    """How many records of each age in days the tenant has."""
    superuser = await database.superuser()
    rows = await superuser.fetch(
        "SELECT seq, count(*) FROM raw_logs WHERE tenant_id = $1 GROUP BY 1 ORDER BY 1", tenant
    )
    return {row[0]: row[1] for row in rows}


async def retention(database: Database, tenant: TenantId, days: int | None) -> None:
    async with tenant_transaction(await database.app(), tenant) as tx:
        await set_retention(tx, days, actor="test")


async def test_a_partition_goes_when_no_tenant_needs_it_and_else_only_the_others_rows(database: Database) -> None:
    app = await database.app()
    ordinary, thrifty, careful = [await database.tenant() for _ in range(3)]
    await make_partitions(app, days_ago(12), 13)
    for tenant in (ordinary, thrifty, careful):
        for age in (1, 3, 6, 9, 12):
            await fill(database, tenant, age)
    await retention(database, thrifty, 2)
    await retention(database, careful, 10)
    assert await drop_partitions(app, days_ago(5)) == 2, "the careful one keeps ten days"
    assert await days_kept(database) == list(range(10, -1, -1))
    for tenant in (ordinary, thrifty, careful):
        await prune_raw_logs(app, tenant, 5, NOON, StepLimits(rows=4, steps=100))
    assert await ages(database, ordinary) == {1: 10, 3: 10}
    assert await ages(database, thrifty) == {1: 10}
    assert await ages(database, careful) == {1: 10, 3: 10, 6: 10, 9: 10}
    await retention(database, careful, None)
    assert await drop_partitions(app, days_ago(5)) == 5


async def test_a_settings_value_that_is_no_number_of_days_never_shortens_the_retention(database: Database) -> None:
    tenant = await database.tenant()
    superuser, app = await database.superuser(), await database.app()
    await make_partitions(app, days_ago(4), 5)
    await fill(database, tenant, 4)
    for odd in ("0", "-1", '"none"', "1e9", "null", "99999", "[]", "3.5"):
        await superuser.execute(
            "UPDATE tenants SET settings = $2 WHERE tenant_id = $1", tenant, f'{{"raw_log_retention_days": {odd}}}'
        )
        assert await prune_raw_logs(app, tenant, 30, NOON) == 0
        async with tenant_transaction(app, tenant) as tx:
            assert await own_retention(tx) is None
    for wrong in (0, -3, 3651):
        with pytest.raises(ValueError, match="1 to 3650"):
            await retention(database, tenant, wrong)


async def test_a_hold_keeps_days_for_its_tenant_alone(database: Database) -> None:
    app = await database.app()
    sued, other = await database.tenant(), await database.tenant()
    await make_partitions(app, days_ago(9), 10)
    for tenant in (sued, other):
        for age in (5, 6, 7, 8, 9):
            await fill(database, tenant, age)
    begins = datetime.combine(days_ago(8), datetime.min.time(), UTC) + timedelta(hours=13)
    ends = datetime.combine(days_ago(7), datetime.min.time(), UTC) + timedelta(hours=1)
    async with tenant_transaction(app, sued) as tx:
        hold = await place_hold(tx, "court order 9", begins, ends, actor="alice")
    assert await drop_partitions(app, days_ago(5)) == 2, "a day that the hold touches stays whole"
    for tenant in (sued, other):
        await prune_raw_logs(app, tenant, 5, NOON)
    assert await ages(database, sued) == {5: 10, 7: 10, 8: 10}
    assert await ages(database, other) == {5: 10}
    async with tenant_transaction(app, other) as tx:
        assert await list_holds(tx) == []
        with pytest.raises(HoldNotFound):
            await release_hold(tx, hold.hold_id, "not theirs", actor="mallory")
    async with tenant_transaction(app, sued) as tx:
        released = await release_hold(tx, hold.hold_id, "order lifted", actor="bob")
        assert (released.released_by, released.placed_by) == ("bob", "alice")
    assert await drop_partitions(app, days_ago(5)) == 2
    async with tenant_transaction(app, sued) as tx:
        with pytest.raises(HoldNotFound):
            await release_hold(tx, hold.hold_id, "again", actor="bob")
        assert [item.hold_id for item in await list_holds(tx)] == [hold.hold_id]
        assert (await verify_audit(tx)).position == 3, "made, placed, released"


async def test_a_hold_without_bounds_keeps_everything(database: Database) -> None:
    tenant, app, superuser = await database.tenant(), await database.app(), await database.superuser()
    await make_partitions(app, days_ago(6), 7)
    await fill(database, tenant, 6)
    await superuser.execute(
        "INSERT INTO feature_rollup_1m SELECT $1, 'ip', 'a', now() - n * interval '1 day', '{}' "
        "FROM generate_series(1, 60) n",
        tenant,
    )
    async with tenant_transaction(app, tenant) as tx:
        hold = await place_hold(tx, "investigation", None, None, actor="test")
    assert await drop_partitions(app, TODAY) == 0
    assert await prune_raw_logs(app, tenant, 1, NOON) == 0
    assert await prune_rollups(app, tenant, "1m", timedelta(days=30), datetime.now(UTC)) == 0
    async with tenant_transaction(app, tenant) as tx:
        await release_hold(tx, hold.hold_id, "over", actor="test")
    assert await drop_partitions(app, TODAY) == 6
    steps = StepLimits(rows=7, steps=100)
    assert await prune_rollups(app, tenant, "1m", timedelta(days=30), datetime.now(UTC), steps) == 31


async def test_a_hold_waits_for_deletions_that_did_not_see_it(database: Database) -> None:
    tenant, app = await database.tenant(), await database.app()
    await make_partitions(app, days_ago(3), 4)
    await fill(database, tenant, 3)
    async with tenant_transaction(app, tenant) as deleting:
        deleted = await deleting.connection.fetchval("SELECT raw_logs_prune($1, 100)", days_ago(2))
        assert deleted == 10

        async def place() -> None:
            async with tenant_transaction(app, tenant) as tx:
                await place_hold(tx, "late", None, None, actor="test")

        placing = asyncio.create_task(place())
        superuser = await database.superuser()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while await superuser.fetchval(waiting) == 0:
            await asyncio.sleep(0.01)
        assert not placing.done()
    await placing
    assert await prune_raw_logs(app, tenant, 1, NOON) == 0


async def test_the_app_can_delete_only_through_the_functions(database: Database) -> None:
    tenant, app = await database.tenant(), await database.app()
    for table in ("journal", "raw_logs", "events", "feature_rollup_1m", "legal_holds", "journal_pruned"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(app, tenant) as tx:
                await tx.connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of this list
    for call in (
        "SELECT raw_logs_prune(current_date + 2, 10)",
        "SELECT raw_logs_prune(current_date, 0)",
        "SELECT rollups_prune('1m', now(), 10)",
        "SELECT rollups_prune('2m', now() - interval '1 day', 10)",
    ):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            async with tenant_transaction(app, tenant) as tx:
                await tx.connection.execute(call)
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await app.execute(call)  # no tenant


async def test_a_hold_needs_a_reason_and_a_range_that_makes_sense(database: Database) -> None:
    tenant, app = await database.tenant(), await database.app()
    for reason, begins, ends in (
        (" ", None, None),
        ("x", NOON, NOON),
        ("x", NOON.replace(tzinfo=None), None),
    ):
        with pytest.raises(ValueError, match=r"needs|before"):
            async with tenant_transaction(app, tenant) as tx:
                await place_hold(tx, reason, begins, ends, actor="test")
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(HoldNotFound):
            await release_hold(tx, uuid4(), "none such", actor="test")
