"""A tenant that masks: agents get its key, analysts ask what tokens stand for, and no clear value stays here."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from structlog.typing import EventDict

from agent.masking import Masker, MaskingKey, default_policy
from detect.record import TenantId
from serve.masking.reveal import MAX_CANDIDATES, MAX_TOKENS
from serve.signing_masters import add_master
from store.audit import verify_audit
from store.postgres import tenant_transaction
from store.tenants import create_admin_key, create_key, own_tenant
from tests.contract.control.edge import ControlEdge, Host
from tests.postgres.fixtures import Database
from tests.postgres.test_rules import ANY_LOGIN, OWN, RULE, STARTER, choose, install

OFF: dict[str, Any] = {
    "enabled": False,
    "key": None,
    "fingerprint": None,
    "keys": [],
    "agents_to_enrol": 0,
    "changed_by": None,
    "changed_at": None,
}


async def administrator(edge: ControlEdge, database: Database) -> str:
    """The address of the tenant's setting, with an administrator's key and one that may reveal among the keys."""
    owner = await asyncpg.connect(database.dsn("trustsoc_owner"))
    edge.keys["administrator"] = (await create_admin_key(owner, "test")).secret_text
    await owner.close()
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        edge.keys["analyst"] = (await create_key(tx, "analyst", ["reveal"], actor="test")).secret_text
        return f"/api/admin/tenants/{(await own_tenant(tx)).name}/masking"


async def switched(edge: ControlEdge, address: str, **wanted: Any) -> Any:
    """The setting after a change, which must succeed."""
    answer = await edge.call("PUT", address, wanted, "administrator")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def asked(edge: ControlEdge, tokens: list[str], *candidates: str, key: str = "analyst") -> httpx.Response:
    body = {"tokens": tokens, "candidates": candidates, "reason": "case 4711"}
    return await edge.call("POST", "/api/reveal", body, key)


def tokens_of(host: Host) -> dict[str, str]:
    """What an agent with the key of that host's enrolment sends in the place of clear values."""
    values = Masker(MaskingKey.parse(host.answer["masking_key"])).values
    fields = {"alice": "user", "203.0.113.7": "", "bob@corp.example": ""}
    return {clear: values.text(field, clear, []) for clear, field in fields.items()}


async def audit_of(database: Database, tenant: TenantId) -> list[Any]:
    query = "SELECT actor, action, detail::text FROM audit_log WHERE tenant_id = $1 ORDER BY position"
    rows = await (await database.superuser()).fetch(query, tenant)
    return [(row["actor"], row["action"], orjson.loads(row["detail"])) for row in rows if "masking" in row["action"]]


async def test_masking_is_off_until_an_administrator_says_otherwise(edge: ControlEdge, database: Database) -> None:
    address = await administrator(edge, database)
    assert (await edge.call("GET", address, key="administrator")).json() == OFF
    assert await switched(edge, address, enabled=False) == OFF
    assert "masking_key" not in (await edge.host("web-1")).answer
    assert await audit_of(database, edge.tenant) == []
    for key in ("operator", "reader", "analyst"):
        assert (await edge.call("PUT", address, {"enabled": True}, key)).status_code == 403, key
        assert (await edge.call("GET", address, key=key)).status_code == 403, key
    for body in ({}, {"enabled": "perhaps"}, {"enabled": True, "master": 1}, {"enabled": False, "new_key": True}):
        assert (await edge.call("PUT", address, body, "administrator")).status_code == 422, body
    missing = address.replace("/tenants/", "/tenants/no-")
    assert (await edge.call("PUT", missing, {"enabled": True}, "administrator")).status_code == 404


async def test_an_agent_of_a_masking_tenant_gets_the_tenants_key(
    edge: ControlEdge, database: Database, logs: list[EventDict]
) -> None:
    address = await administrator(edge, database)
    await edge.host("before")
    shown = await switched(edge, address, enabled=True)
    assert (shown["enabled"], shown["key"], shown["keys"], shown["agents_to_enrol"]) == (True, 1, [1], 1)
    hosts = [await edge.host(name) for name in ("web-1", "web-2")]
    texts = {host.answer["masking_key"] for host in hosts}
    [text] = texts
    assert MaskingKey.parse(text).fingerprint == shown["fingerprint"]
    assert (await edge.call("GET", address, key="administrator")).json()["agents_to_enrol"] == 1
    assert text not in str(logs)
    # The database cannot be made to tell the key: only which master it comes of is there.
    superuser = await database.superuser()
    for table in ("tenant_masking", "masking_keys", "agents", "audit_log"):
        assert text[6:] not in str(await superuser.fetch(f"SELECT t::text FROM {table} t"))  # noqa: S608


async def test_switching_off_and_on_again_keeps_the_key(edge: ControlEdge, database: Database) -> None:
    address = await administrator(edge, database)
    await switched(edge, address, enabled=True)
    first = (await edge.host("web-1")).answer["masking_key"]
    add_master(edge.settings.signing_folder)
    assert (await switched(edge, address, enabled=False))["agents_to_enrol"] == 1
    assert "masking_key" not in (await edge.host("web-2")).answer
    assert (await switched(edge, address, enabled=True))["key"] == 1
    assert (await edge.host("web-3")).answer["masking_key"] == first, "a newer master changes nothing by itself"
    changes = [(action, detail) for _, action, detail in await audit_of(database, edge.tenant)]
    assert changes == [("tenant.masking", {"enabled": enabled, "master": 1}) for enabled in (True, False, True)], (
        "what changes nothing leaves no row"
    )


async def test_a_new_key_is_asked_for_and_old_tokens_are_still_revealed(edge: ControlEdge, database: Database) -> None:
    address = await administrator(edge, database)
    await switched(edge, address, enabled=True)
    old = tokens_of(await edge.host("web-1"))
    refused = await edge.call("PUT", address, {"enabled": True, "new_key": True}, "administrator")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:trustsoc:problem:no-newer-master")
    add_master(edge.settings.signing_folder)
    shown = await switched(edge, address, enabled=True, new_key=True)
    assert (shown["key"], shown["keys"], shown["agents_to_enrol"]) == (2, [2, 1], 1)
    new = tokens_of(await edge.host("web-2"))
    assert old["alice"] != new["alice"]
    answer = (await asked(edge, [old["alice"], new["alice"], old["203.0.113.7"]], "alice")).json()
    found = [(item["token"], item["clear"], item["key"]) for item in answer["items"] if item["outcome"] == "candidate"]
    assert found == [(old["alice"], "alice", 1), (new["alice"], "alice", 2)]
    addresses = {item["key"]: item["clear"] for item in answer["items"] if item["outcome"] == "address"}
    assert set(addresses) == {1, 2}
    assert addresses[1] == "203.0.113.7"


async def test_what_tokens_stand_for_is_answered_and_the_question_is_audited(
    edge: ControlEdge, database: Database, logs: list[EventDict]
) -> None:
    address = await administrator(edge, database)
    await switched(edge, address, enabled=True)
    tokens = tokens_of(await edge.host())
    assert all(token != clear for clear, token in tokens.items())
    mistaken = "carol mistyped"
    answer = await asked(edge, [*tokens.values(), mistaken], "alice", "bob@corp.example", "mallory")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    found = {item["token"]: (item["outcome"], item["clear"]) for item in answer.json()["items"]}
    assert found == {
        tokens["alice"]: ("candidate", "alice"),
        tokens["203.0.113.7"]: ("address", "203.0.113.7"),
        tokens["bob@corp.example"]: ("candidate", "bob@corp.example"),
        mistaken: ("no token", ""),
    }
    assert answer.json()["missing_keys"] == []
    [(actor, action, detail)] = (await audit_of(database, edge.tenant))[1:]
    assert (actor, action) == (edge.keys["analyst"].split("_")[1], "masking.reveal")
    assert detail == {"tokens": list(tokens.values()), "reason": "case 4711", "candidates": 3, "revealed": 3}
    everything = str(await (await database.superuser()).fetch("SELECT t::text FROM audit_log t")) + str(logs)
    for clear in ("alice", "bob@", "mallory", "203.0.113.7", "carol"):
        assert clear not in everything, clear
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await verify_audit(tx)


async def test_only_a_key_with_the_scope_reveal_may_ask(edge: ControlEdge, database: Database) -> None:
    address = await administrator(edge, database)
    await switched(edge, address, enabled=True)
    token = tokens_of(await edge.host())["alice"]
    for key, status in (("operator", 403), ("reader", 403), ("sender", 403), ("administrator", 403), ("", 401)):
        assert (await asked(edge, [token], "alice", key=key)).status_code == status, key
    assert (await edge.call("GET", "/api/agents", key="analyst")).status_code == 403, "and it may do nothing else"
    assert len(await audit_of(database, edge.tenant)) == 1


async def test_another_tenant_learns_nothing_of_our_tokens(edge: ControlEdge, database: Database) -> None:
    mine, address = edge.tenant, await administrator(edge, database)
    await switched(edge, address, enabled=True)
    tokens = tokens_of(await edge.host())
    before = await audit_of(database, mine)
    await edge.use(await database.tenant())
    theirs = await administrator(edge, database)
    assert (await edge.call("GET", theirs, key="administrator")).json() == OFF
    never = await asked(edge, [tokens["alice"]], "alice")
    assert (never.status_code, never.json()["type"]) == (409, "urn:trustsoc:problem:not-masked")
    await switched(edge, theirs, enabled=True)
    assert tokens_of(await edge.host())["alice"] != tokens["alice"]
    items = (await asked(edge, list(tokens.values()), "alice", "bob@corp.example")).json()["items"]
    assert not {item["clear"] for item in items} & set(tokens)
    assert await audit_of(database, mine) == before


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": []},
        {"tokens": ["u-1"] * (MAX_TOKENS + 1)},
        {"tokens": [""]},
        {"tokens": ["x" * 401]},
        {"tokens": [5]},
        {"candidates": ["someone"] * (MAX_CANDIDATES + 1)},
        {"candidates": ["someone" * 100]},
        {"reason": ""},
        {"reason": " \n"},
        {"reason": "x" * 501},
        {"key": 1},
    ],
)
async def test_a_question_that_does_not_fit_is_refused_and_says_nothing_of_the_names(
    edge: ControlEdge, database: Database, change: dict[str, Any]
) -> None:
    await switched(edge, await administrator(edge, database), enabled=True)
    body = {"tokens": ["u-0123456789bcdfghj"], "candidates": ["someone"], "reason": "case 4711"} | change
    answer = await edge.call("POST", "/api/reveal", body, "analyst")
    assert answer.status_code == 422
    assert "someone" not in answer.text
    assert len(await audit_of(database, edge.tenant)) == 1


async def test_the_largest_question_is_answered_while_others_are_served(edge: ControlEdge, database: Database) -> None:
    await switched(edge, await administrator(edge, database), enabled=True)
    token = tokens_of(await edge.host())["alice"]
    names = [f"user{number}" for number in range(MAX_CANDIDATES - 1)]
    asking = asyncio.create_task(asked(edge, [token] * MAX_TOKENS, *names, "alice"))
    await asyncio.sleep(0)
    assert (await edge.call("GET", "/api/agents")).status_code == 200
    items = (await asking).json()["items"]
    assert [item["clear"] for item in items] == ["alice"] * MAX_TOKENS


async def test_rules_follow_the_setting_and_those_that_miss_something_are_named(
    edge: ControlEdge, database: Database
) -> None:
    address = await administrator(edge, database)
    await edge.rules.install_starter("test")
    await install(edge.rules, "own", RULE.replace('["Failed password"]', "{user|endswith: lice}"))
    await choose(edge.rules, edge.tenant, 1, [OWN, STARTER], {})

    async def listed(**wanted: Any) -> Any:
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        return (await edge.call("GET", f"/api/rules?{query}", key="reader")).json()

    plain = await listed(pack="own")
    assert [rule["doubts"] for rule in plain["items"]] == [[]]
    await switched(edge, address, enabled=True)
    masked = await listed(pack="own", doubtful=True)
    assert masked["rule_set"] != plain["rule_set"]
    [rule] = masked["items"]
    [doubt] = rule["doubts"]
    assert (rule["id"], rule["state"]) == (ANY_LOGIN, "on")
    assert "'lice' is a part of a value of user" in doubt
    shown = (await edge.call("GET", f"/api/rules/{ANY_LOGIN}", key="reader")).json()
    assert [problem["reason"] for problem in shown["problems"]] == [doubt]
    await switched(edge, address, enabled=False)
    assert (await listed(pack="own"))["rule_set"] == plain["rule_set"]
    await switched(edge, address, enabled=True)
    await edge.use(await database.tenant())
    await choose(edge.rules, edge.tenant, 1, [OWN, STARTER], {})
    assert (await listed(pack="own"))["rule_set"] == plain["rule_set"], "another tenant's rules are as they were"
    assert (await listed(pack="own", doubtful=True))["items"] == []


async def test_a_host_that_masks_otherwise_than_the_rules_expect_is_named(
    edge: ControlEdge, database: Database
) -> None:
    address = await administrator(edge, database)
    await switched(edge, address, enabled=True)
    host = await edge.host()
    policy, key = default_policy().digest, MaskingKey.parse(host.answer["masking_key"]).fingerprint

    async def shown(masking: dict[str, str] | None) -> Any:
        await host.pull(**({} if masking is None else {"masking": masking}))
        said = {"state": "", "policy": "", "key": ""} | (masking or {})
        async with asyncio.timeout(20):
            while True:
                agent = (await edge.call("GET", "/api/agents/web-1", key="reader")).json()
                if agent["health"].get("masking") == said:
                    return agent["masking"]["state"], agent["masking"]["detail"]
                await asyncio.sleep(0.1)

    assert await shown(None) == ("unknown", "")
    assert await shown({"state": "on", "policy": policy, "key": key}) == ("alike", "")
    state, detail = await shown({"state": "on", "policy": "0" * 64, "key": key})
    assert (state, "a policy of its own" in detail) == ("otherwise", True)
    state, detail = await shown({"state": "on", "policy": policy, "key": "0" * 16})
    assert (state, "a key that the tenant never had" in detail) == ("otherwise", True)
    state, detail = await shown({"state": "off"})
    assert (state, "enrol it again" in detail) == ("otherwise", True)
    await switched(edge, address, enabled=False)
    assert await shown({"state": "off"}) == ("off", "")
    for bad in ({"state": "perhaps"}, {"policy": "x"}, {"key": "0" * 17}):
        assert (await host.post("/agent/jobs/pull", host.pulling(masking=bad))).status_code == 422, bad


async def test_without_its_master_no_agent_is_enrolled_in_clear(edge: ControlEdge, database: Database) -> None:
    address = await administrator(edge, database)
    await switched(edge, address, enabled=True)
    superuser = await database.superuser()
    await superuser.execute("INSERT INTO masking_keys (tenant_id, master, made_by) VALUES ($1, 7, 't')", edge.tenant)
    await superuser.execute("UPDATE tenant_masking SET master = 7 WHERE tenant_id = $1", edge.tenant)
    shown = (await edge.call("GET", address, key="administrator")).json()
    assert (shown["key"], shown["fingerprint"]) == (7, None)
    token = await edge.token()
    refused = await Host(edge, "web-1").enrol(token)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:trustsoc:problem:masking-unavailable")
    assert "7.key" in refused.json()["detail"]
    assert (await asked(edge, ["203.0.113.7"])).json()["missing_keys"] == [7], "the other key answers"
    await superuser.execute("DELETE FROM tenant_masking WHERE tenant_id = $1", edge.tenant)
    assert (await Host(edge, "web-1").enrol(token)).status_code == 201, "the refusal spent nothing"
