"""Rule packs, choices and overlays over a real store: what is chosen comes into force whole and once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from actors.backtest import BacktestRequest, backtest
from actors.replay import Line, ReplayRefused
from actors.rule_check import PackCheck, RuleCatalog, RulesRefused, check_set, check_upload, unpack_catalog
from actors.rule_enforcer import RuleEnforcer
from actors.rule_masking import MaskedSet, RecordMasks, masked_set
from detect.record import TenantId
from detect.sigma.overlay import read_overlay
from detect.sigma.pack import BadPack, pack_bytes
from store.journal import JournalWriter
from store.postgres import system_transaction, tenant_transaction
from store.rule_catalogs import get_catalog, rule_hits
from store.rule_choices import ChoiceChanged, PackChoice, RuleChoice, choices_due, read_choice
from store.rule_packs import PackInUse, PackNotFound, newest_packs, pack_versions, remove_pack
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import BATCHES, START, append, judged, plan, verdict, working

ANY_LOGIN = "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0c01"
RULE = f"""
title: Any failed login
id: {ANY_LOGIN}
status: stable
level: low
logsource: {{product: linux, service: sshd}}
detection:
  words: ["Failed password"]
  condition: words
"""
FILTER = f"""
title: The scanner of the office
logsource: {{product: linux, service: sshd}}
filter:
  rules: [{ANY_LOGIN}]
  office: ["203.0.113.1 "]
  condition: not office
"""
STARTER = PackChoice("starter")
OWN = PackChoice("own")


known_set, known_upload = cache(check_set), cache(check_upload)


class HereChecks:
    """The checks in a thread of this process, the same bytes once: every test begins with the starter pack."""

    async def rule_set(self, pack: bytes) -> RuleCatalog:
        return await asyncio.to_thread(known_set, pack)

    async def masked(self, pack: bytes, masks: RecordMasks) -> MaskedSet:
        return await asyncio.to_thread(masked_set, pack, masks)

    async def upload(self, data: bytes, pin: str | None) -> PackCheck:
        return await asyncio.to_thread(known_upload, data, pin)


async def enforcer_of(database: Database) -> RuleEnforcer:
    made = RuleEnforcer(
        await database.app(), await database.writer(), JournalWriter(await database.writer()), HereChecks()
    )
    await made.enforce_everywhere("test", START)
    return made


async def install(enforcer: RuleEnforcer, name: str, *texts: str) -> bool:
    archive = pack_bytes([(f"{number}.yml", text) for number, text in enumerate(texts)])
    _, new = await enforcer.install(name, check_upload(archive, None), "test")
    return new


async def choose(
    enforcer: RuleEnforcer, tenant: TenantId, version: int, packs: list[PackChoice], overlay: Any, now: datetime = START
) -> RuleChoice:
    read = read_overlay(json.dumps(overlay))
    return await enforcer.choose(tenant, version, packs, read, actor="admin", remarks={}, now=now)


async def choice_of(database: Database, tenant: TenantId) -> RuleChoice:
    async with tenant_transaction(await database.app(), tenant) as tx:
        return await read_choice(tx)


async def in_journal(database: Database, tenant: TenantId) -> list[str]:
    """The rule sets that control rows put in force, in their order."""
    superuser = await database.superuser()
    rows = await superuser.fetch(
        "SELECT convert_from(payload, 'UTF8')::json ->> 'digest' AS digest FROM journal"
        " WHERE tenant_id = $1 AND kind = 'control' ORDER BY seq",
        tenant,
    )
    return [row["digest"] for row in rows]


async def test_every_tenant_starts_with_the_starter_pack_and_a_second_start_changes_nothing(database: Database) -> None:
    tenant = await database.tenant()
    await enforcer_of(database)
    before = await in_journal(database, tenant)
    assert len(before) == 1
    await (await enforcer_of(database)).enforce_everywhere("test", START)
    assert await in_journal(database, tenant) == before
    choice = await choice_of(database, tenant)
    assert (choice.packs, choice.digest, choice.enforced) == ((STARTER,), before[0], choice.revision)


async def test_a_choice_is_kept_over_starts_and_over_a_new_starter_pack(database: Database) -> None:
    chooser, follower = await database.tenant(), await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    chosen = await choose(enforcer, chooser, 1, [OWN], {})
    assert chosen.version == 2
    assert await install(enforcer, "starter", RULE.replace(ANY_LOGIN, "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0c02"))
    assert await enforcer.enforce_due(START) == 1, "only who follows the pack"
    assert (await choice_of(database, chooser)).digest == chosen.digest
    assert len(await in_journal(database, follower)) == 2
    await enforcer_of(database)  # which installs the program's own starter pack again
    assert (await choice_of(database, chooser)).digest == chosen.digest
    digests = await in_journal(database, follower)
    assert len(digests) == 3
    assert digests[0] == digests[2], "an earlier set can come into force again"


async def test_what_cannot_be_used_changes_nothing_and_is_named(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    before = await choice_of(database, tenant)
    for packs, overlay, words in (
        ([OWN, PackChoice("missing")], {}, "no rule pack 'missing' is installed"),
        ([PackChoice("own", "0" * 64)], {}, "no version 000000000000 of the rule pack 'own'"),
        (
            [OWN],
            {"filters": {"bad": {"text": "title: [", "owner": "o", "reason": "r"}}},
            r"!overlay/filters/bad\.yml:\d+: ",
        ),
        (
            [OWN],
            {"filters": {"rule": {"text": RULE.replace("c01", "c09"), "owner": "o", "reason": "r"}}},
            "not a Sigma",
        ),
    ):
        with pytest.raises((PackNotFound, RulesRefused), match=words):
            await choose(enforcer, tenant, 1, packs, overlay)
    with pytest.raises(ChoiceChanged, match="at version 1 now"):
        await choose(enforcer, tenant, 7, [OWN], {})
    assert await choice_of(database, tenant) == before
    with pytest.raises(RulesRefused, match=r"0\.yml:\d+: .*cannot"):
        try:
            await install(enforcer, "own", RULE.replace("condition: words", "condition: nothing"))
        except RulesRefused as error:
            raise RulesRefused(f"{error} cannot") from error
    with pytest.raises(BadPack):
        check_upload(b"no archive", None)
    with pytest.raises(RulesRefused, match="not what was pinned"):
        check_upload(pack_bytes([("a.yml", RULE)]), "0" * 64)


async def test_a_pack_update_that_breaks_a_tenant_is_refused_for_it_and_the_old_set_goes_on(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    overlay = {"lists": {"names": {"values": ["root"]}}}
    chosen = await choose(enforcer, tenant, 1, [OWN], overlay)
    broken = RULE.replace('words: ["Failed password"]', "words: {Image: 1}").replace("title:", "titel:")
    archive = check_upload(pack_bytes([("filter.yml", FILTER), ("broken.yml", broken)]), None)
    assert (archive.rules, archive.filters, len(archive.problems)) == (0, 1, 1)
    await enforcer.install("own", archive, "test")
    assert await enforcer.enforce_due(START) == 1
    after = await choice_of(database, tenant)
    assert (after.digest, after.enforced) == (chosen.digest, chosen.enforced)
    assert after.refused_reason is not None
    assert "own/broken.yml:" in after.refused_reason
    assert await enforcer.enforce_due(START) == 0, "it is not tried again"
    await install(enforcer, "own", RULE.replace("level: low", "level: high"))
    assert await enforcer.enforce_due(START) == 1
    mended = await choice_of(database, tenant)
    assert mended.refused_reason is None
    assert mended.digest != chosen.digest


async def test_an_entry_that_expires_is_a_row_of_the_journal(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    plain = (await choice_of(database, tenant)).digest
    ends = START + timedelta(hours=1)
    entry = {"level": "low", "owner": "o", "reason": "r", "expires": ends.isoformat()}
    some_rule = "02cadae9-5a7b-4ca8-9c8c-e214bfc77f67"
    chosen = await choose(enforcer, tenant, 1, [STARTER], {"rules": {some_rule: entry}})
    assert chosen.next_expiry == ends
    assert await enforcer.enforce_due(ends - timedelta(seconds=1)) == 0
    assert await enforcer.enforce_due(ends) == 1
    assert await enforcer.enforce_due(ends) == 0
    assert await in_journal(database, tenant) == [plain, chosen.digest, plain]
    assert (await choice_of(database, tenant)).version == 2, "nobody changed it"


async def test_a_change_left_half_done_is_finished_once(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    chosen = await choose(enforcer, tenant, 1, [OWN], {})
    rows = await in_journal(database, tenant)
    superuser = await database.superuser()
    await superuser.execute("UPDATE tenant_rules SET enforced = enforced - 1 WHERE tenant_id = $1", tenant)
    async with system_transaction(await database.writer()) as tx:
        assert await choices_due(tx, START, "") == [tenant]
    await enforcer.enforce_due(START)
    after = await choice_of(database, tenant)
    assert (after.digest, after.enforced) == (chosen.digest, chosen.revision)
    assert await in_journal(database, tenant) == rows, "the row was there: it is the same one"


async def test_a_pack_in_use_stays_and_one_that_is_not_goes(database: Database) -> None:
    tenant = await database.tenant("acme")
    enforcer = await enforcer_of(database)
    assert await install(enforcer, "own", RULE)
    assert not await install(enforcer, "own", RULE), "the same version again"
    await choose(enforcer, tenant, 1, [STARTER, OWN], {})
    with pytest.raises(PackInUse, match="used by acme"):
        async with system_transaction(await database.writer()) as tx:
            await remove_pack(tx, "own", actor="test")
    await choose(enforcer, tenant, 2, [STARTER], {})
    async with system_transaction(await database.writer()) as tx:
        await remove_pack(tx, "own", actor="test")
        assert set(await newest_packs(tx)) == {"starter"}
        assert await pack_versions(tx, "own") == []
        with pytest.raises(PackNotFound):
            await remove_pack(tx, "own", actor="test")


async def test_a_worker_that_reloads_in_mid_stream_keeps_the_state_of_unchanged_rules(database: Database) -> None:
    """The calm tenant has the second set from the start; the other gets it while its correlations hold matches."""
    calm, restless = await database.tenant(), await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    await choose(enforcer, calm, 1, [STARTER, OWN], {})
    await append(database, calm, BATCHES[:12])
    await append(database, restless, BATCHES[:6])
    async with working(database, plan(snapshot_every_batches=2)):
        await judged(database, restless, 7)
        await choose(enforcer, restless, 1, [OWN, STARTER], {})
        await append(database, restless, BATCHES[6:12], first=6)
        await judged(database, restless, 14)
        await judged(database, calm, 14)
    expected, actual = await verdict(database, calm), await verdict(database, restless)
    of_starter = [[row[2:6] for row in found["events"] if row[2] != ANY_LOGIN] for found in (expected, actual)]
    assert of_starter[0]
    assert of_starter[0] == of_starter[1]
    assert sum(row[2] == ANY_LOGIN for row in expected["events"]) == 120
    assert sum(row[2] == ANY_LOGIN for row in actual["events"]) == 60, "from the change on"


async def test_the_overlay_works_in_the_detector_and_hits_are_counted(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    tuned = {
        "rules": {ANY_LOGIN: {"level": "critical"}},
        "filters": {"office": {"text": FILTER, "owner": "o", "reason": "our scanner"}},
    }
    await choose(enforcer, tenant, 1, [OWN], tuned)
    await append(database, tenant, BATCHES[:5])
    async with working(database, plan()):
        await judged(database, tenant, 7)
        await choose(enforcer, tenant, 2, [OWN, STARTER], {"rules": {ANY_LOGIN: {"enabled": False}}})
        await append(database, tenant, BATCHES[5:7], first=5)
        await judged(database, tenant, 10)
    events = (await verdict(database, tenant))["events"]
    assert {row[3] for row in events if row[2] == ANY_LOGIN} == {"critical"}
    assert sum(row[2] == ANY_LOGIN for row in events) == 40, "four of five addresses, until it was switched off"
    async with tenant_transaction(await database.app(), tenant) as tx:
        hits = await rule_hits(tx, [ANY_LOGIN, "never"], START)
        stored = await get_catalog(tx, (await read_choice(tx)).digest or "")
    assert (hits[ANY_LOGIN].hits, hits["never"].hits, hits["never"].last_hit) == (40, 0, None)
    states = {rule.id: rule.state for rule in unpack_catalog(stored or b"").rules}
    assert states[ANY_LOGIN] == "off"
    assert set(states.values()) == {"on", "off", "silent"}


async def test_rules_go_by_the_ids_that_their_events_have(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    names = {"a\0b": r'"a\0b"', "long " + "x" * 2000: "long " + "x" * 2000}
    await install(enforcer, "own", *(RULE.replace(f"id: {ANY_LOGIN}", f"name: {name}") for name in names.values()))
    await choose(enforcer, tenant, 1, [OWN], {})
    await append(database, tenant, BATCHES[:2])
    async with working(database, plan()):
        await judged(database, tenant, 4)
    async with tenant_transaction(await database.app(), tenant) as tx:
        hits = await rule_hits(tx, [*names, "never"], START)
        longest = await tx.connection.fetchval("SELECT current_setting('statement_timeout')")
    assert {rule_id: found.hits for rule_id, found in hits.items()} == dict.fromkeys(names, 20) | {"never": 0}
    assert longest == "10s", "as long as a search may take"


async def told(database: Database, request: BacktestRequest) -> Line:
    lines = [line async for line in backtest(await database.app(), request)]
    assert lines[0]["type"] == "start"
    assert lines[-1]["type"] == "result"
    return lines[-1]


async def test_a_backtest_shows_what_is_new_lost_and_changed_and_changes_nothing(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    await choose(enforcer, tenant, 1, [OWN, STARTER], {})
    await append(database, tenant, BATCHES[:10])
    async with working(database, plan(snapshot_every_batches=4)):
        await judged(database, tenant, 12)
    rows = await in_journal(database, tenant)
    narrowed = RULE.replace('["Failed password"]', '["from 203.0.113.1 "]')
    fresh = RULE.replace(ANY_LOGIN, "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0c07").replace("Any failed", "Another")
    since = START + timedelta(minutes=2)

    async def of(*texts: str, **changes: Any) -> dict[str, Any]:
        files = tuple((f"{number}.yml", text) for number, text in enumerate(texts))
        found = await told(database, BacktestRequest(tenant, files, **({"since": since} | changes)))
        return found | {rule["title"]: rule for rule in found["rules"]}

    same = await of(RULE)
    assert (same["same"], same["new"], same["lost"], same["changed"]) == (80, 0, 0, 0)
    lost = await of(narrowed)
    assert (lost["changed"], lost["lost"], lost["new"]) == (10, 70, 0), "one address of five, with other words matched"
    assert lost["Any failed login"]["days"] == [
        {"day": "2026-03-01", "same": 0, "lost": 70, "new": 0, "changed": 10, "pending": 0}
    ]
    assert "Failed password" in lost["Any failed login"]["samples"]["lost"][0]["evidence"][0]["message"]
    changed = await of(RULE.replace("level: low", "level: high"))
    assert changed["changed"] == 80
    assert changed["rules"][0]["samples"]["changed"][0]["columns"] == ["severity", "score"]
    new = await of(fresh, until=START + timedelta(minutes=4))
    assert (new["new"], new["same"], new["lost"]) == (20, 0, 0), "minutes 2 and 3; other rules are not compared"
    assert new["Another login"]["samples"]["new"][0]["evidence"][0]["message"].startswith("Mar  1 10:02")
    filtered = await of(FILTER)
    assert (filtered["lost"], filtered["same"]) == (10, 70), "a filter on trial"
    assert await in_journal(database, tenant) == rows
    with pytest.raises(ReplayRefused, match=r"0\.yml:\d+: "):
        await of(RULE.replace("condition: words", "condition: nothing"))
    with pytest.raises(ReplayRefused, match="nothing that was received"):
        await of(RULE, since=datetime(2027, 1, 1, tzinfo=UTC))


async def test_a_rule_that_is_off_can_be_tried(database: Database) -> None:
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    await choose(enforcer, tenant, 1, [OWN, STARTER], {"rules": {ANY_LOGIN: {"enabled": False, "level": "high"}}})
    await append(database, tenant, BATCHES[:3])
    async with working(database, plan()):
        await judged(database, tenant, 5)
    found = await told(database, BacktestRequest(tenant, (("a.yml", RULE),), START))
    assert found["new"] == 30
    assert found["rules"][0]["samples"]["new"][0]["severity"] == "high", "as the overlay would have it"
