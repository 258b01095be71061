"""A job has one holder at a time, comes back when its lease ends, ends once, and begins only with its approval."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from detect.record import TenantId
from store.agents import tenants_with_due_jobs
from store.audit import verify_audit
from store.jobs import (
    NEEDS_APPROVAL,
    JobConflict,
    JobFilter,
    JobNotFound,
    JobRow,
    SelfApproval,
    approval_types,
    approve_job,
    cancel_job,
    get_job,
    job_evidence,
    search_jobs,
    set_approval_types,
)
from store.jobs_delivery import (
    LeasedJob,
    LeaseLost,
    agent_standing,
    lease_jobs,
    record_signed,
    sweep_jobs,
    take_outcome,
)
from store.postgres import Pool, tenant_transaction
from tests.postgres.agents import end_lease, lease, leased, make_job, outcome, with_agents
from tests.postgres.fixtures import Database


async def state_of(app: Pool, tenant: TenantId, job: JobRow | LeasedJob) -> tuple[str, str]:
    async with tenant_transaction(app, tenant) as tx:
        row = await get_job(tx, job.job_id)
    return row.state, row.reason


async def test_twenty_pulls_at_once_never_get_one_job_twice(database: Database) -> None:
    app, tenant = await with_agents(database)
    async with tenant_transaction(app, tenant) as tx:
        made = [(await make_job(tx, "web-1")).job_id for _ in range(50)]
    pulled = await asyncio.gather(*(lease(app, tenant, "web-1", 3) for _ in range(20)))
    got = [job.job_id for jobs in pulled for job in jobs]
    assert len(got) == len(set(got))
    while more := await lease(app, tenant, "web-1"):
        got += [job.job_id for job in more]
    assert sorted(got) == sorted(made)
    assert {job.attempt for jobs in pulled for job in jobs} == {1}


async def test_an_agent_gets_its_own_jobs_the_oldest_first(database: Database) -> None:
    app, tenant = await with_agents(database, "web-1", "web-2")
    stranger = await database.tenant()
    for number in range(3):
        async with tenant_transaction(app, tenant) as tx:
            await make_job(tx, "web-1", key=f"job-{number}")
    assert await lease(app, tenant, "web-2") == []
    assert await lease(app, stranger, "web-1") == []
    assert [job.idempotency_key for job in await lease(app, tenant, "web-1", 2)] == ["job-0", "job-1"]
    assert [job.idempotency_key for job in await lease(app, tenant, "web-1", 2)] == ["job-2"]


async def test_the_same_idempotency_key_is_the_same_job_or_a_conflict(database: Database) -> None:
    app, tenant = await with_agents(database, "web-1", "web-2")

    async def make() -> JobRow:
        async with tenant_transaction(app, tenant) as tx:
            return await make_job(tx, "web-1", key="once")

    made = await asyncio.gather(*(make() for _ in range(10)))
    assert len({job.job_id for job in made}) == 1
    async with tenant_transaction(app, tenant) as tx:
        assert (await make_job(tx, "web-2", key="once")).job_id != made[0].job_id
        with pytest.raises(JobConflict, match="idempotency"):
            await make_job(tx, "web-1", args='{"echo":"x"}', key="once")


async def test_a_job_comes_back_when_its_lease_ends_until_its_attempts_are_used_up(database: Database) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant, attempts=2)
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        assert await sweep_jobs(tx) == 0
        await end_lease(tx, job.job_id)
    [again] = await lease(app, tenant, "web-1")
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    assert again.lease != job.lease
    async with tenant_transaction(app, tenant) as tx:
        await end_lease(tx, job.job_id)
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        assert await sweep_jobs(tx) == 1
    assert await state_of(app, tenant, job) == ("failed", "lease_lost")
    async with tenant_transaction(app, tenant) as tx:
        await verify_audit(tx)


async def test_the_sweep_gives_back_and_expires_and_says_whose(database: Database) -> None:
    app, tenant = await with_agents(database)
    writer, idle = await database.writer(), await database.tenant()
    lost = await leased(app, tenant)
    async with tenant_transaction(app, tenant) as tx:
        late = await make_job(tx, "web-1")
        waits = await make_job(tx, "web-1", approval=True)
    assert await tenants_with_due_jobs(writer, datetime.now(UTC)) == []
    async with tenant_transaction(app, tenant) as tx:
        await end_lease(tx, lost.job_id)
        past = "UPDATE jobs SET not_before = now() - interval '2 h', expires_at = now() WHERE job_id = ANY ($1::uuid[])"
        await tx.connection.execute(past, [late.job_id, waits.job_id])
    assert await tenants_with_due_jobs(writer, datetime.now(UTC)) == [tenant]
    assert idle != tenant
    assert [job.job_id for job in await lease(app, tenant, "web-1")] == [lost.job_id]
    async with tenant_transaction(app, tenant) as tx:
        await end_lease(tx, lost.job_id)
        assert await sweep_jobs(tx) == 3
        assert await sweep_jobs(tx) == 0
    assert await state_of(app, tenant, lost) == ("queued", "lease_lost")
    assert await state_of(app, tenant, late) == ("expired", "expired")
    assert await state_of(app, tenant, waits) == ("expired", "expired")


async def test_what_was_handed_out_and_never_answered_is_lost_not_expired(database: Database) -> None:
    """Nobody knows whether it ran: to call it expired would say that it did not."""
    app, tenant = await with_agents(database)
    job = await leased(app, tenant)
    async with tenant_transaction(app, tenant) as tx:
        await end_lease(tx, job.job_id)
        await sweep_jobs(tx)
        past = "UPDATE jobs SET not_before = now() - interval '2 h', expires_at = now()"
        await tx.connection.execute(past)
        await sweep_jobs(tx)
    assert await state_of(app, tenant, job) == ("failed", "lease_lost")


async def test_a_job_is_not_handed_out_before_its_time(database: Database) -> None:
    app, tenant = await with_agents(database)
    begins = datetime.now(UTC) + timedelta(hours=1)
    async with tenant_transaction(app, tenant) as tx:
        await make_job(tx, "web-1", begins=begins)
        standing = await agent_standing(tx, "web-1")
    assert standing is not None
    assert (standing.active, standing.next_at) == (True, begins)
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(ValueError, match="expire"):
            await make_job(tx, "web-1", begins=datetime.now(UTC) - timedelta(hours=2))
        assert await agent_standing(tx, "nobody") is None


async def test_running_needs_the_lease_and_keeps_it(database: Database) -> None:
    app, tenant = await with_agents(database, "web-1", "web-2")
    job = await leased(app, tenant)
    async with tenant_transaction(app, tenant) as tx:
        await tx.connection.execute("UPDATE jobs SET lease_until = now() + interval '1 s'")
        assert await take_outcome(tx, "web-1", outcome(job, "running")) == "running"
        row = await get_job(tx, job.job_id)
        assert row.lease_until is not None
        assert row.lease_until > datetime.now(UTC) + timedelta(seconds=50)
        with pytest.raises(LeaseLost):
            await take_outcome(tx, "web-1", outcome(job, "running", lease=uuid4()))
        with pytest.raises(JobNotFound):
            await take_outcome(tx, "web-2", outcome(job, "running"))
        await end_lease(tx, job.job_id)
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(LeaseLost):
            await take_outcome(tx, "web-1", outcome(job, "running"))


async def test_the_first_final_word_counts_and_a_repeat_changes_nothing(database: Database) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant)
    async with tenant_transaction(app, tenant) as tx:
        await record_signed(tx, job, "job-1", "{envelope}", b"e" * 64, "00" * 32)
        said = outcome(job, output="all of it", signed='{"v":1}', reason="fine")
        assert await take_outcome(tx, "web-1", said) == "succeeded"
    async with tenant_transaction(app, tenant) as tx:
        before, evidence = await get_job(tx, job.job_id), await job_evidence(tx, job.job_id)
        head = await verify_audit(tx)
        for later in (said, outcome(job, "failed", reason="other", output="else"), outcome(job, "running")):
            assert await take_outcome(tx, "web-1", later) == "succeeded"
        assert await get_job(tx, job.job_id) == before
        assert await job_evidence(tx, job.job_id) == evidence
        assert await verify_audit(tx) == head
    assert (evidence.envelope, evidence.result, evidence.output) == ("{envelope}", '{"v":1}', "all of it")
    assert (before.lease, before.reason) == (None, "fine")
    assert await lease(app, tenant, "web-1") == []


@pytest.mark.parametrize("swept", [False, True])
async def test_a_final_word_after_the_lease_still_counts_when_there_is_none(database: Database, swept: bool) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant, attempts=1)
    async with tenant_transaction(app, tenant) as tx:
        await end_lease(tx, job.job_id)
        if swept:
            await sweep_jobs(tx)
        assert await take_outcome(tx, "web-1", outcome(job, "rejected", reason="host_policy")) == "rejected"
    assert await state_of(app, tenant, job) == ("rejected", "host_policy")


async def test_a_word_about_what_was_never_handed_out_is_refused(database: Database) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant)
    async with tenant_transaction(app, tenant) as tx:
        other = await make_job(tx, "web-1")
        waits = await make_job(tx, "web-1", approval=True)
        for made in (other, waits):
            with pytest.raises(LeaseLost):
                await take_outcome(tx, "web-1", outcome(job, job=made.job_id))
        for attempt in (0, 2):
            with pytest.raises(LeaseLost):
                await take_outcome(tx, "web-1", outcome(job, attempt=attempt))
        with pytest.raises(JobNotFound):
            await take_outcome(tx, "web-1", outcome(job, job=uuid4()))
    assert (await state_of(app, tenant, waits))[0] == "awaiting_approval"


async def test_a_job_that_waits_for_approval_is_given_to_nobody_until_another_key_approves(database: Database) -> None:
    app, tenant = await with_agents(database)
    async with tenant_transaction(app, tenant) as tx:
        job = await make_job(tx, "web-1", "BLOCK_IP", approval=True)
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(SelfApproval):
            await approve_job(tx, job.job_id, actor="operator")
    assert await lease(app, tenant, "web-1") == []
    stranger = await database.tenant()
    async with tenant_transaction(app, stranger) as tx:
        with pytest.raises(JobNotFound):
            await approve_job(tx, job.job_id, actor="second")
    async with tenant_transaction(app, tenant) as tx:
        approved = await approve_job(tx, job.job_id, actor="second")
        assert (approved.state, approved.approved_by) == ("queued", "second")
        with pytest.raises(JobConflict):
            await approve_job(tx, job.job_id, actor="third")
    assert len(await lease(app, tenant, "web-1")) == 1


async def test_a_job_can_be_cancelled_while_no_agent_has_it(database: Database) -> None:
    app, tenant = await with_agents(database)
    now = datetime.now(UTC)
    async with tenant_transaction(app, tenant) as tx:
        job = await make_job(tx, "web-1")
        assert (await cancel_job(tx, job.job_id, actor="operator", now=now)).state == "cancelled"
        with pytest.raises(JobConflict, match="already"):
            await cancel_job(tx, job.job_id, actor="operator", now=now)
    held = await leased(app, tenant)
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(JobConflict, match="called back"):
            await cancel_job(tx, held.job_id, actor="operator", now=datetime.now(UTC))
        later = datetime.now(UTC) + timedelta(minutes=2)
        assert (await cancel_job(tx, held.job_id, actor="operator", now=later)).state == "cancelled"
    assert await lease(app, tenant, "web-1") == []
    async with tenant_transaction(app, tenant) as tx:
        # The agent did it all the same: what is true is kept.
        assert await take_outcome(tx, "web-1", outcome(held)) == "succeeded"


async def test_the_tenant_has_a_list_of_types_that_wait(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        assert await approval_types(tx) == (NEEDS_APPROVAL, False)
        await set_approval_types(tx, ["PING", "PING"], actor="admin")
        assert await approval_types(tx) == (("PING",), True)
        await set_approval_types(tx, [], actor="admin")
        assert await approval_types(tx) == ((), True)
        await set_approval_types(tx, None, actor="admin")
        assert await approval_types(tx) == (NEEDS_APPROVAL, False)
        assert (await verify_audit(tx)).position == 4


async def test_jobs_are_searched_and_paged(database: Database) -> None:
    app, tenant = await with_agents(database, "web-1", "web-2")
    for number in range(5):
        async with tenant_transaction(app, tenant) as tx:
            await make_job(tx, f"web-{1 + number % 2}", "PING" if number < 4 else "CERT_ROTATE", key=f"k{number}")
    async with tenant_transaction(app, tenant) as tx:
        first = await search_jobs(tx, JobFilter(), 3, None)
        second = await search_jobs(tx, JobFilter(), 3, first.next_cursor)
        keys = [item["job"].idempotency_key for item in first.items + second.items]
        assert keys == ["k4", "k3", "k2", "k1", "k0"]
        assert second.next_cursor is None
        for wanted, count in ((JobFilter(agent="web-2"), 2), (JobFilter(type="PING"), 4), (JobFilter("leased"), 0)):
            assert len((await search_jobs(tx, wanted, 10, None)).items) == count


async def test_a_due_job_is_heard_of_at_its_commit(database: Database) -> None:
    app, tenant = await with_agents(database)
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database.dsn("trustsoc_app"))
    try:
        await connection.add_listener("trustsoc_jobs", lambda *said: heard.put_nowait(said[3]))
        async with tenant_transaction(app, tenant) as tx:
            waits = await make_job(tx, "web-1", approval=True)
        async with tenant_transaction(app, tenant) as tx:
            await make_job(tx, "web-1")
            await connection.execute("SELECT 1")
            assert heard.empty()
        assert await asyncio.wait_for(heard.get(), 10) == f"{tenant} web-1"
        async with tenant_transaction(app, tenant) as tx:
            await approve_job(tx, waits.job_id, actor="second")
        assert await asyncio.wait_for(heard.get(), 10) == f"{tenant} web-1"
        assert heard.empty()
    finally:
        await connection.close()


async def test_what_leases_is_found_by_its_index(database: Database) -> None:
    app, tenant = await with_agents(database)
    superuser = await database.superuser()
    await superuser.execute(
        "INSERT INTO jobs (tenant_id, job_id, agent, type, args, dry_run, idempotency_key, state, created_by, "
        "issued_at, not_before, expires_at, max_attempts) "
        "SELECT $1, gen_random_uuid(), 'web-1', 'PING', '{}', false, 'k' || n, "
        "CASE WHEN n % 1000 = 0 THEN 'queued' ELSE 'succeeded' END, 'op', now(), now(), now() + interval '1 h', 3 "
        "FROM generate_series(1, 20000) AS n",
        tenant,
    )
    await superuser.execute("ANALYZE jobs")
    async with tenant_transaction(app, tenant) as tx:
        for query in (
            "SELECT job_id FROM jobs WHERE agent = 'web-1' AND state IN ('queued', 'leased', 'running') AND NOT held",
            "UPDATE jobs SET reason = '' WHERE state IN ('leased', 'running') AND lease_until <= now()",
        ):
            plan = " ".join(row[0] for row in await tx.connection.fetch(f"EXPLAIN {query}"))
            assert "jobs_open_by" in plan, plan
        assert len(await lease_jobs(tx, "web-1", 16)) == 16
