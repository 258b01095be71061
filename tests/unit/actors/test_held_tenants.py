"""Memory of a shard actor: the longest idle tenant goes first; one that fails is left alone, longer each time."""

from __future__ import annotations

from uuid import UUID

from actors.held_tenants import HeldTenants
from actors.judge import TenantJudge, TurnLimits
from actors.rules import RuleLibrary
from detect.record import TenantId

TENANTS = [TenantId(UUID(int=number)) for number in range(5)]


async def no_pack(_: str) -> bytes | None:
    return None


def held(most: int) -> HeldTenants:
    library, limits = RuleLibrary(no_pack), TurnLimits(1, 1, 1)
    return HeldTenants(most, lambda tenant: TenantJudge(tenant, None, library, limits))  # type: ignore[arg-type]  # no turn is taken


def test_the_longest_idle_tenants_are_the_surplus() -> None:
    memory = held(3)
    for tenant in TENANTS:
        memory.get(tenant)
    first = memory.get(TENANTS[0])
    assert memory.surplus() == [TENANTS[1], TENANTS[2]]
    for tenant in memory.surplus():
        memory.drop(tenant)
    assert memory.surplus() == []
    assert memory.get(TENANTS[0]) is first


def test_a_round_begins_with_those_that_are_in_memory() -> None:
    memory = held(3)
    memory.get(TENANTS[3])
    assert memory.in_turn(TENANTS, 0.0) == [TENANTS[3], TENANTS[0], TENANTS[1], TENANTS[2], TENANTS[4]]


def test_a_tenant_that_fails_is_left_alone_twice_as_long_each_time_up_to_a_minute() -> None:
    memory = held(3)
    waits = [memory.leave_alone(TENANTS[0], 0.0) for _ in range(8)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert TENANTS[0] not in memory.in_turn(TENANTS, 59.9)
    assert TENANTS[0] in memory.in_turn(TENANTS, 60.0)
    memory.went_well(TENANTS[0])
    assert memory.leave_alone(TENANTS[0], 100.0) == 1.0


def test_what_no_retry_will_mend_soon_waits_the_longest_at_once() -> None:
    memory = held(3)
    assert memory.leave_alone(TENANTS[0], 0.0, long=True) == 60.0
    assert memory.parked == 1
