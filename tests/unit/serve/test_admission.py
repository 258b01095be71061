"""The gate: who is let in, who is told to come back and when, and that nothing is paid for what was not stored."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest

from actors.metrics import Metrics
from detect.record import TenantId
from serve.errors import WireError
from serve.ingest.admission import Admission, AdmissionLimits
from serve.ingest.head_room import HeadRoom, HeadRoomLimits
from serve.ingest.intake import Sender
from store.backlog import Backlog
from store.journal import Overloaded
from store.quotas import Quota, QuotaOverride

NOISY = TenantId(UUID(int=1))
QUIET = TenantId(UUID(int=2))
MIB = 2**20


class Gate:
    """An admission with its surroundings in hand: the time, the quotas, the figures."""

    def __init__(self, *, quota: Quota | None = None, room: HeadRoomLimits | None = None, **at_once: int) -> None:
        self.now = 1000.0
        self.metrics = Metrics()
        self.room = HeadRoom(room or HeadRoomLimits(), quota or Quota())
        self.journal_wait = 0.0
        self.pauses: list[float] = []
        self.admission = Admission(
            AdmissionLimits(**at_once),
            self.room,
            self.metrics,
            lambda: self.now,
            lambda *_: self.journal_wait,
            self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def send(
        self, tenant: TenantId = NOISY, agent: str = "a", records: int = 10, size: int = 1000, *, declared: bool = True
    ) -> WireError | None:
        sender = Sender(tenant, agent)
        try:
            async with self.admission.request(sender, size if declared else None) as ticket:
                ticket.arrived(size)
                self.admission.charge(sender, records, size, ticket)
        except WireError as error:
            return error
        return None

    def value(self, name: str, **labels: str) -> float:
        self.admission.measure()
        return self.metrics.registry.get_sample_value(f"trustsoc_{name}", labels) or 0.0


def refused(error: WireError | None) -> tuple[int, str, int | None]:
    assert error is not None, "it was let in"
    return error.status, error.reason, error.retry_after_s


async def test_nothing_is_refused_without_limits() -> None:
    gate = Gate()
    assert [await gate.send(records=10**6, size=MIB) for _ in range(500)] == [None] * 500


async def test_over_the_quota_of_records_is_429_and_says_when() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=5))
    assert await gate.send(records=50) is None
    assert refused(await gate.send()) == (429, "tenant_rate", 1)
    gate.now += 1
    assert await gate.send(records=200) is None, "a batch larger than the burst passes when there is anything"
    assert refused(await gate.send(records=1)) == (429, "tenant_rate", 19)
    gate.now += 19.1
    assert await gate.send(records=1) is None


async def test_bytes_are_charged_before_the_body_is_read() -> None:
    gate = Gate(quota=Quota(bytes_per_s=1000, burst_s=1))
    sender = Sender(NOISY, "a")
    async with AsyncExitStack() as under_way:
        await under_way.enter_async_context(gate.admission.request(sender, 5000))
        assert refused(await gate.send()) == (429, "tenant_rate", 4)
    assert refused(await gate.send()) == (429, "tenant_rate", 4), "what was sent was sent"


async def test_a_body_of_unknown_length_is_charged_when_it_is_here() -> None:
    gate = Gate(quota=Quota(bytes_per_s=1000, burst_s=1))
    assert await gate.send(size=3000, declared=False) is None
    assert refused(await gate.send(declared=False)) == (429, "tenant_rate", 2)


async def test_records_are_foreseen_so_that_a_crowd_is_not_decoded_in_vain() -> None:
    gate = Gate(quota=Quota(records_per_s=100, burst_s=1))
    assert await gate.send(records=10, size=1000) is None
    async with AsyncExitStack() as under_way:
        # Each of 2,000 bytes, so about 20 records: five of them use up what is left.
        answers: list[str] = []
        for number in range(10):
            try:
                await under_way.enter_async_context(gate.admission.request(Sender(NOISY, f"agent-{number}"), 2000))
                answers.append("in")
            except WireError as error:
                answers.append(error.reason)
    assert answers == ["in"] * 5 + ["tenant_rate"] * 5
    assert await gate.send(records=10, size=1000) is None, "what was foreseen and did not come costs nothing"


async def test_one_agent_over_its_quota_leaves_the_others_of_its_tenant_alone() -> None:
    gate = Gate(quota=Quota(agent_records_per_s=10, burst_s=1))
    assert await gate.send(agent="loud", records=110) is None
    assert refused(await gate.send(agent="loud")) == (429, "agent_rate", 10)
    assert await gate.send(agent="calm") is None


async def test_a_tenant_over_its_quota_leaves_other_tenants_alone() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1))
    await gate.send(NOISY, records=10_000)
    assert {refused(await gate.send(NOISY))[0] for _ in range(100)} == {429}
    assert await gate.send(QUIET) is None


async def test_each_replica_grants_its_part_of_a_quota() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1), replicas=4)
    assert await gate.send(records=3) is None
    gate.now += 0.1
    assert refused(await gate.send(records=1)) == (429, "tenant_rate", 1)
    gate.now += 1
    assert await gate.send(records=1) is None


async def test_an_override_is_in_force_at_once_and_its_removal_too() -> None:
    gate = Gate(quota=Quota(records_per_s=1000, burst_s=1))
    gate.room.observe_quotas({NOISY: QuotaOverride(records_per_s=1)})
    await gate.send(NOISY, records=101)
    assert refused(await gate.send(NOISY)) == (429, "tenant_rate", 100)
    gate.room.observe_quotas({NOISY: QuotaOverride(records_per_s=1)})
    assert refused(await gate.send(NOISY)) == (429, "tenant_rate", 100)
    gate.room.observe_quotas({NOISY: QuotaOverride(records_per_s=0)})
    assert await gate.send(NOISY) is None
    gate.room.observe_quotas({})
    assert gate.room.quota(NOISY) == Quota(records_per_s=1000, burst_s=1)


async def test_one_tenant_cannot_hold_all_places() -> None:
    gate = Gate(requests=10)
    async with AsyncExitStack() as under_way:
        for _ in range(6):
            await under_way.enter_async_context(gate.admission.request(Sender(NOISY, "a"), 10))
        assert refused(await gate.send(NOISY)) == (503, "tenant_busy", 1)
        for _ in range(4):
            assert await gate.send(QUIET) is None
        for tenant in (3, 4, 5, 6):
            await under_way.enter_async_context(gate.admission.request(Sender(TenantId(UUID(int=tenant)), "a"), 10))
        assert refused(await gate.send(QUIET)) == (503, "busy", 1)
        assert gate.value("admission_requests") == 10
    assert gate.value("admission_requests") == 0
    assert await gate.send(QUIET) is None


async def test_bodies_in_memory_are_bounded_and_shared_too() -> None:
    gate = Gate(bytes=100, unknown_bytes=40)
    async with AsyncExitStack() as under_way:
        ticket = await under_way.enter_async_context(gate.admission.request(Sender(NOISY, "a"), None))
        assert gate.value("admission_bytes") == 40
        ticket.arrived(60)
        assert refused(await gate.send(NOISY, size=1)) == (503, "tenant_busy", 1)
        assert refused(await gate.send(QUIET, size=41)) == (503, "busy", 1)
        assert await gate.send(QUIET, size=40) is None
    assert await gate.send(NOISY, size=100_000) is None, "one alone is never too large"


async def test_a_sender_that_does_not_wait_is_answered_late() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1))
    assert await gate.send(records=60) is None
    assert refused(await gate.send())[2] == 5
    assert gate.pauses == [], "the first refusal is told at once"
    gate.now += 4
    assert refused(await gate.send())[2] == 1
    assert gate.pauses == [0.5]
    gate.now += 1.1
    assert await gate.send() is None
    assert await gate.send(QUIET) is None
    assert gate.pauses == [0.5]


async def test_late_answers_are_bounded() -> None:
    gate = Gate(quota=Quota(records_per_s=0.01, burst_s=1))
    release = asyncio.Event()

    async def pause(seconds: float) -> None:
        gate.pauses.append(seconds)
        await release.wait()

    gate.admission._pause = pause
    await gate.send()
    await gate.send()
    waiting = [asyncio.create_task(gate.send()) for _ in range(100)]
    answered, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert len(gate.pauses) == 33, "the share of one tenant"
    release.set()
    assert {refused(answer)[0] for answer in await asyncio.gather(*waiting)} == {429}
    assert answered


async def test_a_place_is_given_back_whatever_happens_inside() -> None:
    gate = Gate(requests=1)
    with pytest.raises(RuntimeError):
        async with gate.admission.request(Sender(NOISY, "a"), 10):
            raise RuntimeError
    assert await gate.send() is None


async def test_a_batch_that_could_not_be_stored_costs_nothing() -> None:
    gate = Gate(quota=Quota(records_per_s=10, bytes_per_s=1000, burst_s=1))
    sender = Sender(NOISY, "a")
    for _ in range(5):
        with pytest.raises(Overloaded):
            async with gate.admission.request(sender, 900) as ticket:
                with gate.admission.charged(sender, 9, 900, ticket):
                    raise Overloaded(1.0)
    assert await gate.send(records=9, size=900) is None
    assert gate.admission.usage(NOISY).records == 9


def test_a_door_without_tickets_is_judged_when_it_stores() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1))
    sender = Sender(NOISY, "a")
    gate.admission.charge(sender, 110, 10, None)
    with pytest.raises(WireError) as caught:
        gate.admission.charge(sender, 1, 10, None)
    assert refused(caught.value) == (429, "tenant_rate", 10)


async def test_a_full_journal_is_503_before_the_body_is_read() -> None:
    gate = Gate()
    gate.journal_wait = 7.2
    assert refused(await gate.send()) == (503, "journal_full", 8)


async def test_a_nearly_full_disk_is_503_before_postgres_fails() -> None:
    gate = Gate(room=HeadRoomLimits(disk_reserve_bytes=100))
    gate.room.observe_disk(100)
    assert await gate.send() is None
    gate.room.observe_disk(99)
    assert refused(await gate.send()) == (503, "disk_reserve", 30)
    gate.room.observe_disk(None)
    assert await gate.send() is None, "a disk that cannot be asked does not stop the intake"


async def test_a_backlog_over_the_tenants_limit_is_503_for_as_long_as_judging_the_excess_takes() -> None:
    gate = Gate(quota=Quota(max_backlog=1000))
    gate.room.observe_backlogs({NOISY: Backlog(mark=0, batches=100, records=10_000, bytes=1)}, now=0)
    assert refused(await gate.send()) == (503, "backlog", 5), "no rate was measured yet"
    gate.room.observe_backlogs({NOISY: Backlog(mark=20, batches=60, records=6000, bytes=1)}, now=2)
    assert refused(await gate.send()) == (503, "backlog", 5), "2,000 records in 2 s: 5,000 too many take 5 s"
    gate.room.observe_backlogs({NOISY: Backlog(mark=60, batches=10, records=1000, bytes=1)}, now=4)
    assert await gate.send() is None


async def test_the_backlog_of_all_is_shared_like_everything_else() -> None:
    gate = Gate(room=HeadRoomLimits(backlog_bytes=100))
    gate.room.observe_backlogs({NOISY: Backlog(0, 1, 1, 60), QUIET: Backlog(0, 1, 1, 5)}, now=0)
    assert refused(await gate.send(NOISY))[:2] == (503, "backlog")
    assert await gate.send(QUIET) is None
    gate.room.observe_backlogs({NOISY: Backlog(0, 1, 1, 100)}, now=1)
    assert refused(await gate.send(QUIET))[:2] == (503, "backlog")


async def test_decisions_and_tenants_are_counted_with_few_labels() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1))
    for number in range(150):
        await gate.send(TenantId(UUID(int=number + 1)), records=100)
    await gate.send(NOISY)
    assert gate.value("admission_decisions_total", decision="admitted") == 150
    assert gate.value("admission_decisions_total", decision="tenant_rate") == 1
    assert gate.value("tenant_refused_requests_total", tenant=str(NOISY)) == 1
    assert gate.value("tenant_records_total", tenant=str(NOISY)) == 100
    assert gate.value("tenant_records_total", tenant="other") == 5000
    assert gate.metrics.render().count(b"trustsoc_tenant_records_total{") == 101


async def test_a_tenant_can_be_told_what_it_used() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1))
    await gate.send(records=30, size=500)
    await gate.send()
    usage = gate.admission.usage(NOISY)
    assert (usage.records, usage.bytes, usage.refused_requests, usage.requests_in_flight) == (30, 500, 1, 0)
    assert usage.retry_after_s == pytest.approx(2)


@pytest.mark.parametrize(
    "wrong",
    [{"records_per_s": -1}, {"weight": 0}, {"burst_s": 0}, {"records_per_s": float("nan")}, {"other": 1}],
)
def test_a_quota_that_cannot_hold_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        QuotaOverride.model_validate(wrong)


async def test_judging_is_cheap_for_the_refused() -> None:
    gate = Gate(quota=Quota(records_per_s=10, burst_s=1))
    await gate.send(records=10_000)
    with cProfile.Profile() as profile:
        assert refused(await gate.send())[0] == 429
    # Function calls, not time: a refusal must stay a few comparisons.
    assert pstats.Stats(profile).total_calls < 120  # type: ignore[attr-defined]  # typeshed lacks it
