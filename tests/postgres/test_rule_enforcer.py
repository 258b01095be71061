"""Rules are put in force for all tenants whatever becomes of one of them, and while logs go on arriving."""

from __future__ import annotations

import asyncio
import zlib
from datetime import timedelta
from typing import Any, cast

import orjson
import pytest

from actors.metrics import Metrics
from actors.rule_check import CheckEnded, RulesRefused, check_upload
from detect.record import TenantId
from detect.sigma import pack as pack_module
from detect.sigma.pack import MAGIC, BadPack, pack_bytes
from serve.services import EdgeServices
from store.journal import JournalEntry, JournalWriter
from store.postgres import system_transaction, tenant_transaction
from store.rule_choices import PackChoice, choices_due, read_choice
from store.rule_packs import PackInUse, newest_packs, remove_pack
from store.rule_sets import RuleSetConflict, put_rule_set
from store.tenants import Principal
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import START, until
from tests.postgres.test_rules import OWN, RULE, STARTER, choice_of, choose, enforcer_of, in_journal, install

OTHER = RULE.replace("c01", "c02")


def padded(text: str, size: int) -> str:
    return f"{text}{'#' * size}\n"


def test_an_upload_that_would_not_unpack_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack_bytes([("a.yml", padded(RULE, 20_000))]).removeprefix(MAGIC)
    monkeypatch.setattr(pack_module, "MAX_PACK_BYTES", 10_000)
    monkeypatch.setattr("actors.rule_check.unpack_archive", lambda _: _content(archive))
    with pytest.raises(BadPack, match="more than 10000 bytes"):
        check_upload(b"an archive may unpack to more than a pack", None)


def _content(deflated: bytes) -> Any:
    from detect.sigma.archive import PackContent

    return PackContent([(path, text) for path, text in orjson.loads(zlib.decompress(deflated))], [])


async def test_a_tenant_whose_packs_are_too_large_together_keeps_its_rules_and_stops_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [await database.tenant() for _ in range(2)]
    large, other = min(tenants), max(tenants)  # in the order in which they are due
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    await install(enforcer, "second", OTHER)
    await choose(enforcer, large, 1, [OWN, PackChoice("second")], {})
    await choose(enforcer, other, 1, [OWN], {})
    before = [await choice_of(database, tenant) for tenant in (large, other)]
    await install(enforcer, "own", padded(RULE, 2000))
    await install(enforcer, "second", padded(OTHER, 2000))
    monkeypatch.setattr(pack_module, "MAX_PACK_BYTES", 4000)
    assert await enforcer.enforce_due(START) == 2
    after = [await choice_of(database, tenant) for tenant in (large, other)]
    assert after[0].digest == before[0].digest
    assert "more than 4000 bytes" in (after[0].refused_reason or "")
    assert after[1].enforced == after[1].revision == before[1].revision + 1
    assert await enforcer.enforce_due(START) == 0, "what was refused is not tried again"
    superuser = await database.superuser()
    await superuser.execute("UPDATE tenant_rules SET enforced = enforced - 1 WHERE tenant_id = $1", large)
    assert [await enforcer.enforce_due(START) for _ in range(2)] == [1, 0], "the set before was left half done"
    with pytest.raises(RulesRefused, match="more than 4000 bytes"):
        await choose(enforcer, other, 2, [OWN, PackChoice("second")], {})


async def test_a_pack_that_cannot_be_read_any_more_stops_neither_other_tenants_nor_a_start(database: Database) -> None:
    tenants = [await database.tenant() for _ in range(2)]
    enforcer = await enforcer_of(database)
    for tenant, name in zip(sorted(tenants), ("broken", "own"), strict=True):
        await install(enforcer, name, RULE)
        await choose(enforcer, tenant, 1, [PackChoice(name)], {})
        await install(enforcer, name, OTHER, f"# {name}")
    superuser = await database.superuser()
    await superuser.execute(
        "UPDATE rule_sets SET pack = 'no pack' WHERE digest = (SELECT digest FROM rule_packs WHERE name = 'broken'"
        " ORDER BY revision DESC LIMIT 1)"
    )
    await superuser.execute("UPDATE tenant_rules SET digest = NULL WHERE tenant_id = $1", min(tenants))
    second = await enforcer_of(database)  # a start
    assert len(await in_journal(database, max(tenants))) == 3
    with pytest.raises(RulesRefused, match="not a rule pack"):
        await choose(second, max(tenants), 2, [PackChoice("broken")], {})


async def test_a_tenant_that_has_no_row_yet_is_due(database: Database) -> None:
    enforcer = await enforcer_of(database)
    tenant = await database.tenant()
    async with system_transaction(await database.writer()) as tx:
        assert await choices_due(tx, START, "") == [tenant]
    assert await enforcer.enforce_due(START) == 1
    assert len(await in_journal(database, tenant)) == 1


async def test_the_pack_that_new_tenants_begin_with_stays(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    await choose(enforcer, tenant, 1, [OWN], {})
    async with system_transaction(await database.writer()) as tx:
        with pytest.raises(PackInUse, match="new tenants begin with"):
            await remove_pack(tx, "starter", actor="test")
        assert "starter" in await newest_packs(tx)


class Administrator:
    """Lets everybody in, as an administrator."""

    async def admin(self, _: object) -> Principal:
        return Principal(None, "0" * 12, frozenset(), admin=True)


async def test_a_new_tenant_is_made_though_its_rules_must_wait(database: Database) -> None:
    async def ended(_: TenantId) -> None:
        raise CheckEnded("the check of the rules ended early: try again")

    services = EdgeServices(
        authenticator=cast("Any", Administrator()),
        app_pool=await database.app(),
        writer_pool=await database.writer(),
        directory=cast("Any", None),
        advisor=cast("Any", None),
        enforce_rules=ended,
        metrics=Metrics(),
    )
    assert (await services.create_tenant({}, "acme"))["name"] == "acme"
    async with system_transaction(await database.writer()) as tx:
        assert len(await choices_due(tx, START, "")) == 1, "the housekeeping makes up for it"


async def test_logs_are_taken_while_changes_of_one_tenant_wait_for_one_another(database: Database) -> None:
    app = await database.pool("trustsoc_app", max_size=8)  # as the edge has
    busy, other = await database.tenant(), await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    superuser = await database.superuser()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def blocked() -> bool:
        return int(await superuser.fetchval(waiting)) >= 4

    async with tenant_transaction(app, busy) as tx:
        await read_choice(tx, lock=True)
        changes = [asyncio.create_task(choose(enforcer, busy, 1, [OWN, STARTER], {})) for _ in range(5)]
        await until(blocked)
        journal = JournalWriter(await database.writer())
        entry = JournalEntry(other, "agent", b"k" * 32, b"d" * 32, "otlp_protobuf", "identity", 1, b"", START)
        async with asyncio.timeout(5):
            assert (await journal.append(entry)).seq == 2
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1, "the others come too late"


async def test_a_refused_set_is_checked_once_though_entries_expire(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    ends = START + timedelta(hours=1)
    entry = {"enabled": True, "owner": "o", "reason": "r", "expires": ends.isoformat()}
    await choose(enforcer, tenant, 1, [OWN], {"rules": {"some-rule": entry}})
    broken = RULE.replace("title:", "titel:")
    filter_only = "title: F\nlogsource: {product: linux}\nfilter: {rules: any, a: [x], condition: not a}\n"
    archive = check_upload(pack_bytes([("broken.yml", broken), ("filter.yml", filter_only)]), None)
    await enforcer.install("own", archive, "test")
    assert await enforcer.enforce_due(START) == 1
    refused = await choice_of(database, tenant)
    assert refused.refused_digest is not None
    assert refused.next_expiry == ends
    assert await enforcer.enforce_due(ends) == 1
    again = await choice_of(database, tenant)
    assert (again.refused_digest, again.next_expiry) == (refused.refused_digest, None), "the entry says what is so"
    assert await enforcer.enforce_due(ends) == 0
    superuser = await database.superuser()
    audited = "SELECT count(*) FROM audit_log WHERE tenant_id = $1 AND action = 'rules.refuse'"
    assert await superuser.fetchval(audited, tenant) == 1


async def test_equal_sources_are_the_same_set_however_they_are_deflated(database: Database) -> None:
    packed = pack_bytes([("a.yml", RULE)])
    otherwise = MAGIC + zlib.compress(zlib.decompress(packed.removeprefix(MAGIC)), 1)
    assert otherwise != packed
    async with system_transaction(await database.writer()) as tx:
        assert await put_rule_set(tx, "d" * 64, packed)
        assert not await put_rule_set(tx, "d" * 64, otherwise)
        with pytest.raises(RuleSetConflict):
            await put_rule_set(tx, "d" * 64, pack_bytes([("a.yml", OTHER)]))
