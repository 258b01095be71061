"""Advisory work, the audit chain, partitions, rule packs and shards."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, timedelta

import asyncpg
import pytest

from detect.record import TenantId
from store.advisories import IncidentNotFound, due, finish, latest, postpone, save_version
from store.audit import AuditChainBroken, append_audit, verify_audit
from store.partitions import drop_partitions, make_partitions
from store.postgres import system_transaction, tenant_transaction
from store.rule_sets import RuleSetConflict, get_rule_set, put_rule_set
from store.shards import claim, holders
from tests.postgres.fixtures import Database
from tests.postgres.outputs import full_output, incident_id
from tests.postgres.test_search import fill


async def now(database: Database) -> datetime:
    return await (await database.superuser()).fetchval("SELECT clock_timestamp()")


async def lease(database: Database, at: datetime, limit: int = 10) -> list[tuple[TenantId, int, int]]:
    async with system_transaction(await database.writer()) as tx:
        return [(work.tenant, work.revision, work.attempts) for work in await due(tx, at, limit)]


async def test_work_is_leased_to_one_and_comes_back_when_the_lease_is_over(database: Database) -> None:
    tenant = await fill(database, lambda t: full_output(t, 1))
    at = await now(database)
    assert await lease(database, at) == [(tenant, 1, 1)]
    assert await lease(database, at) == []
    assert await lease(database, at + timedelta(minutes=3)) == [(tenant, 1, 2)]


async def test_workers_at_the_same_time_share_the_work(database: Database) -> None:
    tenants = {await fill(database, lambda t: full_output(t, 1)) for _ in range(6)}
    at = await now(database)
    rounds = await asyncio.gather(*(lease(database, at, 2) for _ in range(3)))
    leased = [tenant for found in rounds for tenant, _, _ in found]
    assert len(leased) == len(set(leased))
    rest = await lease(database, at)
    assert set(leased) | {tenant for tenant, _, _ in rest} == tenants


async def test_finished_postponed_and_overtaken_work(database: Database) -> None:
    tenant = await fill(database, lambda t: full_output(t, 1, revision=2))
    incident, at = incident_id(tenant), await now(database)
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert await postpone(tx, incident, 2, until=at + timedelta(hours=1), error="no\0 engine")
        assert not await postpone(tx, incident, 1, until=at, error="of an older revision")
    assert await lease(database, at + timedelta(minutes=59)) == []
    assert await lease(database, at + timedelta(hours=2)) == [(tenant, 2, 1)]
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert not await finish(tx, incident, 1), "revision 2 still waits"
        assert await finish(tx, incident, 2)
        assert not await finish(tx, incident, 2)


async def test_versions_of_an_advisory_are_kept_without_gaps(database: Database) -> None:
    tenant = await fill(database, lambda t: full_output(t, 1))
    app = await database.app()

    async def save(number: int) -> int:
        async with tenant_transaction(app, tenant) as tx:
            return await save_version(
                tx, incident_id(tenant), 1, generator="template", fallback_reason="off", body={"n": number, "t": "a\0b"}
            )

    assert sorted(await asyncio.gather(*(save(number) for number in range(8)))) == list(range(1, 9))
    async with tenant_transaction(app, tenant) as tx:
        newest = await latest(tx, incident_id(tenant))
        assert newest is not None
        assert (newest.version, newest.generator, newest.fallback_reason) == (8, "template", "off")
        assert newest.body["t"] == "a\ufffdb"
        assert await latest(tx, TenantId(tenant)) is None
        with pytest.raises(IncidentNotFound):
            await save_version(tx, tenant, 1, generator="t", fallback_reason=None, body={})


async def test_the_audit_chain_shows_every_kind_of_tampering(database: Database) -> None:
    tenant, app, superuser = await database.tenant(), await database.app(), await database.superuser()

    async def append(number: int) -> int:
        async with tenant_transaction(app, tenant) as tx:
            return await append_audit(tx, "alice", "incident.close", f"i:{number}", {"why": 'a\0ü"\\', "n": number})

    # The first row tells of the tenant's making. Concurrent writers take turns.
    assert sorted(await asyncio.gather(*(append(number) for number in range(6)))) == [2, 3, 4, 5, 6, 7]

    async def verify() -> int:
        async with tenant_transaction(app, tenant) as tx:
            return (await verify_audit(tx)).position

    assert await verify() == 7
    for tampering, position in (
        ("UPDATE audit_log SET actor = 'mallory' WHERE position = 4", 4),
        ("UPDATE audit_log SET at = at - interval '1 day' WHERE position = 3", 3),
        ("UPDATE audit_log SET actor = 'alicei', action = 'ncident.close' WHERE position = 5", 5),
        ("DELETE FROM audit_log WHERE position = 2", 2),
    ):
        transaction = superuser.transaction()
        await transaction.start()
        await superuser.execute("CREATE TABLE untampered AS TABLE audit_log")
        await transaction.commit()
        await superuser.execute(tampering)
        with pytest.raises(AuditChainBroken) as caught:
            await verify()
        assert caught.value.position == position
        await superuser.execute("ALTER TABLE audit_log DISABLE TRIGGER audit_chain")
        await superuser.execute("DELETE FROM audit_log; INSERT INTO audit_log SELECT * FROM untampered")
        await superuser.execute("ALTER TABLE audit_log ENABLE TRIGGER audit_chain; DROP TABLE untampered")
        assert await verify() == 7


async def test_partitions_are_made_ahead_and_dropped_by_retention(database: Database) -> None:
    app = await database.app()
    assert await make_partitions(app, date(2026, 3, 1), 3) == 3
    assert await make_partitions(app, date(2026, 3, 1), 3) == 0, "what is there stays"
    assert await make_partitions(app, date(2026, 3, 3), 4) == 3
    assert await drop_partitions(app, date(2026, 3, 2)) == 1
    names = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'raw_logs'::regclass ORDER BY 1"
    found = [row["name"] for row in await (await database.superuser()).fetch(names)]
    assert found == [f"raw_logs_202603{day:02}" for day in range(2, 7)]


async def test_partitions_may_be_made_by_several_at_once(database: Database) -> None:
    app = await database.app()
    assert sum(await asyncio.gather(*(make_partitions(app, date(2026, 5, 1), 5) for _ in range(4)))) == 5


async def test_the_app_can_neither_flood_nor_empty_the_logs(database: Database) -> None:
    app = await database.app()
    for days in (0, 401, -1):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await make_partitions(app, date(2026, 3, 1), days)
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await drop_partitions(app, date(2100, 1, 1))


async def test_a_rule_pack_is_stored_once_under_its_digest(database: Database) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert await put_rule_set(tx, "abc", b"pack")
        assert not await put_rule_set(tx, "abc", b"pack")
        with pytest.raises(RuleSetConflict):
            await put_rule_set(tx, "abc", b"another")
        assert await get_rule_set(tx, "none") is None
    async with system_transaction(await database.writer()) as tx:
        assert await get_rule_set(tx, "abc") == b"pack"


async def test_a_claim_raises_the_epoch_of_its_shards_only(database: Database) -> None:
    async with system_transaction(await database.writer()) as tx:
        assert await claim(tx, "a", [1, 2, 2]) == {1: 1, 2: 1}
        assert await claim(tx, "b", [2, 3]) == {2: 2, 3: 1}
        assert await holders(tx) == {1: ("a", 1), 2: ("b", 2), 3: ("b", 1)}
