"""What happens to agents and jobs at the same time: no two wait for each other, nothing slips through, sweeps end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from store import jobs_rollouts
from store.agents import count_agents, revoke_agent
from store.audit import verify_audit
from store.jobs import JobConflict, get_job
from store.jobs_delivery import agent_standing, ask_standing, lease_jobs, record_signed, sweep_jobs
from store.jobs_rollouts import NewRollout, cancel_rollout, create_rollout
from store.postgres import tenant_transaction
from tests.postgres.agents import enrol, lease, make_job, with_agents
from tests.postgres.fixtures import Database


async def waits_for_a_lock(watching: asyncpg.Connection) -> None:
    """Returns when some session of this database waits for what another holds."""
    question = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while await watching.fetchrow(question) is None:
            await asyncio.sleep(0.01)


async def test_a_revocation_and_a_delivery_never_wait_for_each_other_in_a_circle(database: Database) -> None:
    """Who holds a job asks for the audit chain next; a revocation that asked in the other order would meet it."""
    app, tenant = await with_agents(database)
    async with tenant_transaction(app, tenant) as tx:
        job = await make_job(tx, "web-1")

    async def revoke() -> None:
        async with tenant_transaction(app, tenant) as tx:
            await revoke_agent(tx, "web-1", actor="operator")

    async with tenant_transaction(app, tenant) as tx:
        [given] = await lease_jobs(tx, "web-1", 1)
        revoking = asyncio.create_task(revoke())
        await waits_for_a_lock(await database.superuser())
        await record_signed(tx, given, "job-1", "{}", b"s" * 64, "00" * 32)
    await revoking
    async with tenant_transaction(app, tenant) as tx:
        assert (await get_job(tx, job.job_id)).state == "cancelled"
        await verify_audit(tx)


async def test_a_job_that_was_made_while_its_agent_was_revoked_is_not_the_next_ones_of_that_name(
    database: Database,
) -> None:
    app, tenant = await with_agents(database)
    async with tenant_transaction(app, tenant) as making:
        job = await make_job(making, "web-1")  # it saw an active agent, and commits after the revocation

        async def revoke() -> None:
            async with tenant_transaction(app, tenant) as tx:
                await tx.connection.execute("UPDATE agents SET state = 'revoked', revoked_by = 'x', revoked_at = now()")
                await tx.connection.execute("UPDATE signing_keys SET revoked_at = now()")

        await revoke()
    async with tenant_transaction(app, tenant) as tx:
        assert (await get_job(tx, job.job_id)).state == "queued"
        await enrol(tx, "web-1")
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        after = await get_job(tx, job.job_id)
        assert (after.state, after.reason) == ("cancelled", "agent_revoked")
        await verify_audit(tx)


async def test_a_sweep_does_so_much_at_once_and_leaves_what_somebody_is_at(database: Database) -> None:
    app, tenant = await with_agents(database)
    async with tenant_transaction(app, tenant) as tx:
        made = [(await make_job(tx, "web-1", key=f"k{number}")).job_id for number in range(5)]
        past = "UPDATE jobs SET not_before = now() - interval '2 h', expires_at = now()"
        await tx.connection.execute(past)
    async with tenant_transaction(app, tenant) as holding:
        await holding.connection.fetch("SELECT FROM jobs WHERE job_id = $1 FOR UPDATE", made[0])
        swept = []
        for _ in range(3):
            async with tenant_transaction(app, tenant) as tx:
                swept.append(await sweep_jobs(tx, 3))
        assert swept == [3, 1, 0]
    async with tenant_transaction(app, tenant) as tx:
        assert await sweep_jobs(tx, 3) == 1
        await verify_audit(tx)


async def test_a_tenant_has_so_many_rollouts_open(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_rollouts, "MOST_OPEN", 2)
    app, tenant = await with_agents(database)

    async def begin(*, approval: bool) -> UUID:
        async with tenant_transaction(app, tenant) as tx:
            new = NewRollout("PING", "{}", {})
            made = await create_rollout(tx, new, actor="operator", approval=approval, now=datetime.now(UTC))
        return made.rollout_id

    await begin(approval=False)
    waiting = await begin(approval=True)
    with pytest.raises(JobConflict, match="open already"):
        await begin(approval=False)
    async with tenant_transaction(app, tenant) as tx:
        await cancel_rollout(tx, waiting, actor="operator")
    await begin(approval=False)


async def test_how_an_agent_stands_is_one_question_within_its_tenant_that_leaves_nothing_behind(
    database: Database,
) -> None:
    app, tenant = await database.pool("trustsoc_app", 1), await database.tenant()
    stranger = await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await enrol(tx, "web-1")
        job = await make_job(tx, "web-1")
        expected = await agent_standing(tx, "web-1")
    assert expected is not None
    assert (expected.active, expected.next_at) == (True, job.not_before)
    assert await ask_standing(app, tenant, "web-1") == expected
    assert await ask_standing(app, tenant, "web-2") is None
    assert await ask_standing(app, stranger, "web-1") is None
    # The pool has one connection: it is of no tenant now.
    assert await app.fetchval("SELECT count(*) FROM agents") == 0
    assert await app.fetchval("SELECT coalesce(current_setting('app.tenant_id', true), '')") == ""


async def test_agents_and_open_jobs_are_counted_over_all_tenants(database: Database) -> None:
    app, tenant = await with_agents(database, "web-1", "web-2", "web-3")
    other = await database.tenant()
    async with tenant_transaction(app, other) as tx:
        await enrol(tx, "web-1")
        await make_job(tx, "web-1", approval=True)
    async with tenant_transaction(app, tenant) as tx:
        await make_job(tx, "web-1")
        await revoke_agent(tx, "web-3", actor="operator")
        heard = "UPDATE agents SET status = 'ok', last_seen = now() - make_interval(mins => $2) WHERE agent = $1"
        await tx.connection.execute(heard, "web-1", 1)
        await tx.connection.execute(heard, "web-2", 3)
    agents, jobs = await count_agents(await database.writer(), datetime.now(UTC))
    assert agents == {"ok": 1, "silent": 1, "unknown": 1}
    assert jobs == {"queued": 1, "awaiting_approval": 1}
