"""Tokens enrol one agent each, names are unique, and a revocation takes everything along; all of it is audited."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from store.agent_policies import MOST_BYTES, PolicyNotFound, add_policy, get_policy, list_policies, policy_for_agent
from store.agents import (
    AgentFilter,
    AgentNotFound,
    CertificateRow,
    HeardHealth,
    active_agent,
    certificates_for_job,
    get_agent,
    label_agent,
    list_agents,
    list_certificates,
    record_certificate,
    revoke_agent,
    write_health,
)
from store.agents_enrolment import (
    AgentNameTaken,
    Enrolment,
    TokenNotFound,
    TokenRefused,
    create_token,
    enrol_agent,
    list_tokens,
    revoke_token,
    tenant_of_token,
)
from store.audit import verify_audit
from store.jobs import get_job
from store.postgres import tenant_transaction
from store.signing_keys import get_signing_key
from store.tenants import create_key, list_keys
from tests.postgres.agents import enrol, lease, make_job
from tests.postgres.fixtures import Database

NOW = datetime.now(UTC)
SOON = NOW + timedelta(hours=1)


def wanted(agent: str = "web-1") -> Enrolment:
    return Enrolment(agent, b"r" * 32, "1.0", "linux")


async def test_a_token_names_its_tenant_and_enrols_one_agent_with_its_labels(database: Database) -> None:
    app, tenant, stranger = await database.app(), await database.tenant(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        token = await create_token(tx, "for web-1", {"role": "web"}, SOON, actor="operator")
    assert repr(token.secret_text) not in repr(token)
    assert await tenant_of_token(app, token.secret_text) == (tenant, token.row.token_id)
    async with tenant_transaction(app, stranger) as tx:
        assert await list_tokens(tx) == []
        with pytest.raises(TokenRefused):
            await enrol_agent(tx, token.row.token_id, wanted(), master=1)
    async with tenant_transaction(app, tenant) as tx:
        made = await enrol_agent(tx, token.row.token_id, wanted(), master=1)
        assert (made.agent, made.labels, made.state) == ("web-1", {"role": "web"}, "active")
        key = await get_signing_key(tx, made.signing_key)
    assert key is not None
    assert key.agent == "web-1"
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(TokenRefused):
            await enrol_agent(tx, token.row.token_id, wanted("web-2"), master=1)
        [spent] = await list_tokens(tx)
        assert spent.spent_by == "web-1"
        assert (await verify_audit(tx)).position == 1 + 3  # the tenant; token, signing key, agent


async def test_of_twenty_that_use_one_token_at_once_one_is_enrolled(database: Database) -> None:
    app, tenant = await database.pool("trustsoc_app", 20), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        token = await create_token(tx, "", {}, SOON, actor="operator")

    async def use(number: int) -> bool:
        try:
            async with tenant_transaction(app, tenant) as tx:
                await enrol_agent(tx, token.row.token_id, wanted(f"web-{number}"), master=1)
        except TokenRefused:
            return False
        return True

    assert sorted(await asyncio.gather(*(use(number) for number in range(20)))) == [False] * 19 + [True]
    async with tenant_transaction(app, tenant) as tx:
        assert len(await list_agents(tx, AgentFilter(), 100, "")) == 1


async def test_of_two_tokens_for_one_name_at_once_one_is_kept_for_another_name(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        tokens = [await create_token(tx, "", {}, SOON, actor="operator") for _ in range(2)]

    async def use(token_id: str, agent: str) -> bool:
        try:
            async with tenant_transaction(app, tenant) as tx:
                await enrol_agent(tx, token_id, wanted(agent), master=1)
        except AgentNameTaken:
            return False
        return True

    outcomes = await asyncio.gather(*(use(token.row.token_id, "web-1") for token in tokens))
    assert sorted(outcomes) == [False, True]
    left = tokens[outcomes.index(False)].row.token_id
    assert await use(left, "web-2")


async def test_tokens_that_enrol_nobody(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        expired = await create_token(tx, "", {}, NOW - timedelta(seconds=1), actor="operator")
        revoked = await create_token(tx, "", {}, SOON, actor="operator")
        another = await create_token(tx, "", {}, SOON, actor="operator", agent="web-2")
        await revoke_token(tx, revoked.row.token_id, actor="operator")
        with pytest.raises(TokenNotFound):
            await revoke_token(tx, revoked.row.token_id, actor="operator")
    for token in (expired, revoked, another):
        with pytest.raises(TokenRefused):
            async with tenant_transaction(app, tenant) as tx:
                await enrol_agent(tx, token.row.token_id, wanted(), master=1)
    for text in ("", "tse_x", another.secret_text[:-1], another.secret_text[:-4] + "AAAA", "tse_" + "0" * 12 + "_x"):
        with pytest.raises(TokenRefused):
            await tenant_of_token(app, text)
    async with tenant_transaction(app, tenant) as tx:
        assert (await enrol_agent(tx, another.row.token_id, wanted("web-2"), master=1)).agent == "web-2"


async def test_names_and_labels_that_are_none(database: Database) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        for labels in ({"Role": "x"}, {"": "x"}, {"a b": "x"}, {"a": "x y"}, {"a": "x" * 64}, {"a\0": "x"}):
            with pytest.raises(ValueError, match="label"):
                await create_token(tx, "", labels, SOON, actor="operator")
        with pytest.raises(ValueError, match="32"):
            await create_token(tx, "", {f"l{n}": "" for n in range(33)}, SOON, actor="operator")
        with pytest.raises(ValueError, match="name of an agent"):
            await create_token(tx, "", {}, SOON, actor="operator", agent="Web 1")


async def test_a_revocation_takes_keys_certificates_and_open_jobs_along(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1")
        agent = await active_agent(tx, "web-1")
        for serial, ends in (("aa", SOON), ("bb", NOW - timedelta(seconds=1))):
            await record_certificate(tx, "web-1", CertificateRow(serial, NOW, ends, None), actor="test")
        waiting = await make_job(tx, "web-1", approval=True)
        queued = await make_job(tx, "web-1")
    async with tenant_transaction(app, tenant) as tx:
        assert await revoke_agent(tx, "web-1", actor="operator") == ["aa"]
        with pytest.raises(AgentNotFound):
            await revoke_agent(tx, "web-1", actor="operator")
        with pytest.raises(AgentNotFound):
            await make_job(tx, "web-1")
        with pytest.raises(AgentNotFound):
            await active_agent(tx, "web-1")
    async with tenant_transaction(app, tenant) as tx:
        for job in (waiting, queued):
            after = await get_job(tx, job.job_id)
            assert (after.state, after.reason) == ("cancelled", "agent_revoked")
        key = await get_signing_key(tx, agent.signing_key)
        assert key is not None
        assert key.revoked_at is not None
        assert {row.serial: row.revoked_at is not None for row in await list_certificates(tx, "web-1")} == {
            "aa": True,
            "bb": False,
        }
        await verify_audit(tx)
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1", {"again": "yes"})
        again = await active_agent(tx, "web-1")
    assert again.labels == {"again": "yes"}
    assert again.signing_key != agent.signing_key
    assert again.revoked_at is None


async def test_agents_are_listed_by_name_status_and_labels(database: Database) -> None:
    app, tenant, stranger = await database.app(), await database.tenant(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        for number in range(5):
            await enrol(tx, f"web-{number}", {"role": "web", "place": "a" if number < 3 else "b"})
        heard = [HeardHealth("web-2", NOW, "failing", "2.0", {"detail": "x"})]
        assert await write_health(tx, heard) == 1
    async with tenant_transaction(app, tenant) as tx:
        assert [row.agent for row in await list_agents(tx, AgentFilter(), 2, "")] == ["web-0", "web-1"]
        assert [row.agent for row in await list_agents(tx, AgentFilter(), 2, "web-3")] == ["web-4"]
        failing = await list_agents(tx, AgentFilter("failing"), 10, "")
        assert [(row.agent, row.version, row.health) for row in failing] == [("web-2", "2.0", {"detail": "x"})]
        there = await list_agents(tx, AgentFilter(labels={"role": "web", "place": "b"}), 10, "")
        assert [row.agent for row in there] == ["web-3", "web-4"]
        await label_agent(tx, "web-4", {"place": "c"}, actor="operator")
        assert [row.agent for row in await list_agents(tx, AgentFilter(labels={"place": "c"}), 10, "")] == ["web-4"]
        with pytest.raises(AgentNotFound):
            await label_agent(tx, "nobody", {}, actor="operator")
    async with tenant_transaction(app, stranger) as tx:
        assert await list_agents(tx, AgentFilter(), 10, "") == []
        assert await get_agent(tx, "web-1") is None
        assert await write_health(tx, [HeardHealth("web-1", NOW, "ok", "9", {})]) == 0
        with pytest.raises(AgentNotFound):
            await revoke_agent(tx, "web-1", actor="operator")


async def test_an_older_word_never_replaces_a_newer_one_nor_speaks_for_the_revoked(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1")
        await enrol(tx, "web-2")
        await revoke_agent(tx, "web-2", actor="operator")
        await write_health(tx, [HeardHealth("web-1", NOW, "ok", "2", {})])
        late = [
            HeardHealth(name, NOW - timedelta(seconds=1), "failing", "1", {}) for name in ("web-1", "web-2", "none")
        ]
        assert await write_health(tx, late) == 0
        assert (await active_agent(tx, "web-1")).status == "ok"


async def test_an_agent_cannot_be_changed_beside_the_columns_that_may(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1")
        await make_job(tx, "web-1")
    for statement in (
        "UPDATE agents SET agent = 'web-2'",
        "UPDATE jobs SET args = '{}'",
        "UPDATE jobs SET created_by = 'x'",
        "UPDATE jobs SET type = 'BLOCK_IP'",
        "DELETE FROM jobs",
        "DELETE FROM agents",
        "UPDATE agent_tokens SET digest = sha256('x')",
        "UPDATE agent_policies SET content = 'x'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(app, tenant) as tx:
                await tx.connection.execute(statement)


async def test_policies_have_versions_that_never_change(database: Database) -> None:
    app, tenant, stranger = await database.pool("trustsoc_app", 8), await database.tenant(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        first = await add_policy(tx, "base", "a: 1", actor="operator")
        assert await add_policy(tx, "base", "a: 1", actor="operator") == first
        second = await add_policy(tx, "base", "a: 2", actor="operator")
        back = await add_policy(tx, "base", "a: 1", actor="operator")
        assert [row.version for row in (first, second, back)] == [1, 2, 3]
        assert back.digest == first.digest
        assert (await get_policy(tx, "base"))[1] == "a: 1"
        assert (await get_policy(tx, "base", 2))[1] == "a: 2"
        with pytest.raises(PolicyNotFound):
            await get_policy(tx, "base", 4)
        for name, content in (("Base", "a"), ("base", ""), ("base", "a\0b"), ("base", "x" * (MOST_BYTES + 1))):
            with pytest.raises(ValueError, match=r"polic"):
                await add_policy(tx, name, content, actor="operator")
    async with tenant_transaction(app, stranger) as tx:
        assert await list_policies(tx) == []

    async def add(number: int) -> int:
        async with tenant_transaction(app, tenant) as tx:
            return (await add_policy(tx, "busy", f"n: {number}", actor="operator")).version

    assert sorted(await asyncio.gather(*(add(number) for number in range(8)))) == list(range(1, 9))


async def test_an_agent_reads_only_the_policy_of_a_job_that_it_was_handed(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1")
        await enrol(tx, "web-2")
        policy = await add_policy(tx, "base", "a: 1", actor="operator")
        await make_job(tx, "web-1", "UPDATE_CONFIG", args=f'{{"digest":"{policy.digest}"}}')
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(PolicyNotFound):
            await policy_for_agent(tx, policy.digest, "web-1")
    assert await lease(app, tenant, "web-1")
    async with tenant_transaction(app, tenant) as tx:
        assert await policy_for_agent(tx, policy.digest, "web-1") == "a: 1"
        with pytest.raises(PolicyNotFound):
            await policy_for_agent(tx, policy.digest, "web-2")


async def test_certificates_are_counted_by_the_job_that_asked_for_them(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1")
        job = await make_job(tx, "web-1", "CERT_ROTATE")
        row = CertificateRow("ab", NOW, SOON, None)
        await record_certificate(tx, "web-1", row, actor="agent:web-1", job=job.job_id)
        assert await certificates_for_job(tx, "web-1", job.job_id) == 1
        assert await certificates_for_job(tx, "web-2", job.job_id) == 0


async def test_a_key_may_have_the_scope_operate(database: Database) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        await create_key(tx, "operator", ["operate", "read"], actor="test")
        [key] = await list_keys(tx)
    assert key.scopes == ("operate", "read")
