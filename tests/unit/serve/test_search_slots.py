"""Searches wait for a slot of their tenant; too many are told to come back, and counted."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from detect.record import TenantId
from serve.errors import WireError
from serve.search_slots import SearchSlots

ONE, OTHER = TenantId(UUID(int=1)), TenantId(UUID(int=2))


class Searches:
    """Searches that run until they are told to end."""

    def __init__(self, slots: SearchSlots) -> None:
        self.slots = slots
        self.running: list[TenantId] = []
        self.end = asyncio.Event()

    async def run(self, tenant: TenantId) -> None:
        async with self.slots.slot(tenant):
            self.running.append(tenant)
            await self.end.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_tenant_has_so_many_and_leaves_room_for_the_others() -> None:
    refusals: list[int] = []
    searches = Searches(SearchSlots(lambda: refusals.append(1), total=3, per_tenant=2, waiting=1, wait_s=30))
    tasks = [asyncio.create_task(searches.run(ONE)) for _ in range(3)]
    await settled()
    assert searches.running == [ONE, ONE], "the third waits"
    with pytest.raises(WireError) as refused:
        await searches.run(ONE)
    assert (refused.value.status, refused.value.retry_after_s, refused.value.reason) == (429, 1, "searches_busy")
    assert refusals == [1]
    tasks.append(asyncio.create_task(searches.run(OTHER)))
    await settled()
    assert searches.running == [ONE, ONE, OTHER]
    searches.end.set()
    await asyncio.gather(*tasks)
    assert len(searches.running) == 4
    await searches.run(ONE)


async def test_who_waits_too_long_is_told_to_come_back() -> None:
    refusals: list[int] = []
    searches = Searches(SearchSlots(lambda: refusals.append(1), total=1, per_tenant=1, wait_s=0.01))
    first = asyncio.create_task(searches.run(ONE))
    await settled()
    for tenant in (ONE, OTHER):
        with pytest.raises(WireError):
            await searches.run(tenant)
    assert refusals == [1, 1]
    searches.end.set()
    await first
    await searches.run(OTHER)


async def test_a_search_that_is_given_up_frees_its_slot() -> None:
    searches = Searches(SearchSlots(lambda: None, total=1, per_tenant=1))
    first = asyncio.create_task(searches.run(ONE))
    waiting = asyncio.create_task(searches.run(ONE))
    await settled()
    for task in (waiting, first):
        task.cancel()
    await asyncio.gather(first, waiting, return_exceptions=True)
    searches.end.set()
    await searches.run(ONE)
