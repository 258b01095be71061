"""Rollouts: waves in order, each behind its gate, stopped by themselves when jobs fail or agents fall ill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from detect.record import TenantId
from store.agents import HealthStatus, HeardHealth, revoke_agent, write_health
from store.audit import verify_audit
from store.jobs import JobConflict, SelfApproval, approve_job
from store.jobs_delivery import agent_standing, sweep_jobs, take_outcome
from store.jobs_rollouts import (
    NewRollout,
    NoAgents,
    RolloutNotFound,
    RolloutRow,
    advance_rollout,
    approve_rollout,
    cancel_rollout,
    create_rollout,
    get_rollout,
    list_rollouts,
    open_rollouts,
    wave_of,
)
from store.postgres import Pool, tenant_transaction
from tests.postgres.agents import enrol, lease, outcome
from tests.postgres.fixtures import Database

AGENTS = tuple(f"web-{number:02}" for number in range(10))


class Fleet:
    """Ten agents of a tenant and one rollout over them."""

    def __init__(self, app: Pool, tenant: TenantId) -> None:
        self.app, self.tenant = app, tenant

    async def start(self, *, approval: bool = False, **options: object) -> UUID:
        new = NewRollout("PING", "{}", {"role": "web"}, **{"gate_s": 0} | options)  # type: ignore[arg-type]
        async with tenant_transaction(self.app, self.tenant) as tx:
            made = await create_rollout(tx, new, actor="operator", approval=approval, now=datetime.now(UTC))
        return made.rollout_id

    async def due(self) -> list[str]:
        """The agents that would be given the job now; they are given it and stay silent."""
        return [agent for agent in AGENTS if await lease(self.app, self.tenant, agent)]

    async def work(self, *failing: str, state: str = "failed") -> list[str]:
        """Every agent does what it is given, and these fail at it; returns who was given something."""
        busy = []
        for agent in AGENTS:
            for job in await lease(self.app, self.tenant, agent):
                busy.append(agent)
                async with tenant_transaction(self.app, self.tenant) as tx:
                    await take_outcome(tx, agent, outcome(job, state if agent in failing else "succeeded"))
        return busy

    async def hear(self, status: HealthStatus = "ok", *agents: str, **health: object) -> None:
        async with tenant_transaction(self.app, self.tenant) as tx:
            heard = [HeardHealth(agent, datetime.now(UTC), status, "1", health) for agent in agents or AGENTS]
            await write_health(tx, heard)

    async def advance(self, rollout: UUID, later_s: float = 0) -> RolloutRow:
        async with tenant_transaction(self.app, self.tenant) as tx:
            await advance_rollout(tx, rollout, now=datetime.now(UTC) + timedelta(seconds=later_s))
            return await get_rollout(tx, rollout)

    async def back_date(self, seconds: int) -> None:
        """As if every job had ended so many seconds earlier."""
        async with tenant_transaction(self.app, self.tenant) as tx:
            await tx.connection.execute("UPDATE jobs SET ended_at = ended_at - make_interval(secs => $1)", seconds)


@pytest.fixture
async def fleet(database: Database) -> Fleet:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        for agent in AGENTS:
            await enrol(tx, agent, {"role": "web"})
        await enrol(tx, "db-1", {"role": "db"})
    return Fleet(app, tenant)


def test_waves_are_shares_that_hold_everybody_once() -> None:
    assert [wave_of(place, 10, [10, 50, 100]) for place in range(10)] == [1, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert [wave_of(place, 3, [10, 50, 100]) for place in range(3)] == [1, 2, 3]
    assert [wave_of(place, 1, [1, 100]) for place in range(1)] == [1]
    with pytest.raises(ValueError, match="100"):
        wave_of(1, 2, [50])


async def test_waves_go_out_one_after_the_other_and_reach_everybody_once(fleet: Fleet) -> None:
    rollout = await fleet.start()
    waves = []
    for _ in range(3):
        waves.append(await fleet.work())
        assert await fleet.work() == []
        state = await fleet.advance(rollout)
    assert [len(wave) for wave in waves] == [1, 4, 5]
    assert sorted(agent for wave in waves for agent in wave) == sorted(AGENTS)
    assert (state.state, state.failures) == ("succeeded", 0)
    assert state.counts == {1: {"succeeded": 1}, 2: {"succeeded": 4}, 3: {"succeeded": 5}}
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        assert await open_rollouts(tx) == []
        await verify_audit(tx)


async def test_a_wave_waits_for_its_last_job(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100])
    assert len(await fleet.due()) == 5
    state = await fleet.advance(rollout, later_s=10_000)
    assert (state.state, state.wave) == ("running", 1)


async def test_a_rollout_stops_by_itself_when_too_many_jobs_fail(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100], most_failures=1)
    first = await fleet.work(*AGENTS)
    state = await fleet.advance(rollout)
    assert len(first) == 5
    assert (state.state, state.failures, state.counts[2]) == ("stopped", 5, {"cancelled": 5})
    assert "5 jobs failed" in state.detail
    assert await fleet.work() == []
    assert (await fleet.advance(rollout)).state == "stopped"


async def test_it_stops_at_once_and_does_not_wait_for_the_rest_of_the_wave(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100])
    for agent in AGENTS:
        if jobs := await lease(fleet.app, fleet.tenant, agent):
            async with tenant_transaction(fleet.app, fleet.tenant) as tx:
                await take_outcome(tx, agent, outcome(jobs[0], "rejected"))
            break
    assert (await fleet.advance(rollout)).state == "stopped"


async def test_failures_that_are_allowed_do_not_stop_it_but_add_up(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100], most_failures=1)
    given = await fleet.due()
    assert len(given) == 5
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        await tx.connection.execute("UPDATE jobs SET lease_until = now() WHERE lease IS NOT NULL")
    await fleet.work(given[0])
    state = await fleet.advance(rollout)
    assert (state.state, state.wave, state.failures) == ("running", 2, 1)
    second = await fleet.due()
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        await tx.connection.execute("UPDATE jobs SET lease_until = now() WHERE lease IS NOT NULL")
    await fleet.work(second[0])
    assert (await fleet.advance(rollout)).state == "stopped"


async def test_the_gate_waits_and_then_opens_for_agents_that_are_well(fleet: Fleet) -> None:
    rollout = await fleet.start(gate_s=60)
    await fleet.work()
    assert (await fleet.advance(rollout)).wave == 1
    await fleet.hear("ok")
    assert (await fleet.advance(rollout, later_s=59)).wave == 1
    assert (await fleet.advance(rollout, later_s=61)).wave == 2


@pytest.mark.parametrize("how", ["failing", "bad configuration", "silent"])
async def test_an_agent_that_falls_ill_after_its_job_stops_the_rollout(fleet: Fleet, how: str) -> None:
    rollout = await fleet.start(gate_s=60)
    [first] = await fleet.work()
    if how == "failing":
        await fleet.hear("failing", first)
    elif how == "bad configuration":
        await fleet.hear("ok", first, config={"state": "failed"})
    else:
        await fleet.back_date(61)
    state = await fleet.advance(rollout)
    assert (state.state, state.failures) == ("stopped", 1)
    assert "ill or silent" in state.detail


async def test_an_expired_job_is_a_failure(fleet: Fleet) -> None:
    rollout = await fleet.start()
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        past = "UPDATE jobs SET not_before = now() - interval '2 h', expires_at = now() WHERE NOT held"
        await tx.connection.execute(past)
        assert await sweep_jobs(tx) == 1
    assert (await fleet.advance(rollout)).state == "stopped"


async def test_a_wave_lives_from_its_release_on(fleet: Fleet) -> None:
    """A job that is held does not age: the last wave may go out days after the first."""
    rollout = await fleet.start(lifetime_s=3600)
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        past = "UPDATE jobs SET not_before = now() - interval '2 h', expires_at = now() - interval '1 h' WHERE held"
        await tx.connection.execute(past)
        assert await sweep_jobs(tx) == 0
    await fleet.work()
    assert (await fleet.advance(rollout)).wave == 2
    assert len(await fleet.work()) == 4


async def test_nothing_goes_out_before_another_key_approves(fleet: Fleet) -> None:
    rollout = await fleet.start(approval=True)
    assert (await fleet.advance(rollout)).state == "awaiting_approval"
    assert await fleet.due() == []
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        [job] = await tx.connection.fetch("SELECT job_id FROM jobs LIMIT 1")
        with pytest.raises(JobConflict, match="rollout"):
            await approve_job(tx, job["job_id"], actor="second")
        with pytest.raises(SelfApproval):
            await approve_rollout(tx, rollout, actor="operator", now=datetime.now(UTC))
        state = await approve_rollout(tx, rollout, actor="second", now=datetime.now(UTC))
    assert (state.state, state.wave, state.approved_by) == ("running", 1, "second")
    assert len(await fleet.due()) == 1


async def test_a_rollout_that_nobody_approves_in_time_is_over(fleet: Fleet) -> None:
    rollout = await fleet.start(approval=True, lifetime_s=60)
    state = await fleet.advance(rollout, later_s=61)
    assert (state.state, state.counts) == ("cancelled", {1: {"cancelled": 1}, 2: {"cancelled": 4}, 3: {"cancelled": 5}})


async def test_a_cancelled_rollout_gives_out_nothing_more(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100])
    given = await lease(fleet.app, fleet.tenant, (await fleet.due())[0])
    assert given == []
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        state = await cancel_rollout(tx, rollout, actor="operator")
        with pytest.raises(JobConflict):
            await cancel_rollout(tx, rollout, actor="operator")
    assert state.counts == {1: {"leased": 5}, 2: {"cancelled": 5}}
    assert await fleet.due() == []


async def test_a_stopped_rollout_does_not_hand_out_again_what_was_lost(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100])
    given = await fleet.due()
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        await cancel_rollout(tx, rollout, actor="operator")
        await tx.connection.execute("UPDATE jobs SET lease_until = now() WHERE lease IS NOT NULL")
        standing = await agent_standing(tx, given[0])
    assert standing is not None
    assert standing.next_at is None
    assert await fleet.due() == []
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        assert await sweep_jobs(tx) == 5
    assert await fleet.due() == []


async def test_of_a_revoked_agent_nothing_more_is_expected(fleet: Fleet) -> None:
    rollout = await fleet.start(waves=[50, 100])
    given = await fleet.due()
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        for agent in given:
            await revoke_agent(tx, agent, actor="operator")
    state = await fleet.advance(rollout)
    assert (state.state, state.wave) == ("running", 2)


async def test_rollouts_of_nobody_and_waves_that_are_none(fleet: Fleet, database: Database) -> None:
    with pytest.raises(NoAgents):
        async with tenant_transaction(fleet.app, fleet.tenant) as tx:
            new = NewRollout("PING", "{}", {"role": "nobody"})
            await create_rollout(tx, new, actor="operator", approval=False, now=datetime.now(UTC))
    for waves in ([], [50], [50, 50, 100], [0, 100], [60, 50, 100]):
        with pytest.raises(ValueError, match="percent"):
            await fleet.start(waves=waves)
    rollout = await fleet.start()
    stranger = await database.tenant()
    async with tenant_transaction(fleet.app, stranger) as tx:
        assert (await list_rollouts(tx, 10, None)).items == []
        for step in (get_rollout(tx, rollout), cancel_rollout(tx, rollout, actor="x")):
            with pytest.raises(RolloutNotFound):
                await step
    async with tenant_transaction(fleet.app, fleet.tenant) as tx:
        page = await list_rollouts(tx, 10, None)
    assert [item["rollout"].rollout_id for item in page.items] == [rollout]
