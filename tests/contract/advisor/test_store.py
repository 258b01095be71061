"""What the advisor relies on in a store; the same for the one in memory and the one in Postgres."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from advise.brief import brief_from_detail
from detect.record import TenantId
from serve.advisor_store import AdvisoryStore, PostgresAdvisoryStore
from serve.views import incident_view
from store.advisories import LEASE
from store.detections import write_output
from store.postgres import system_transaction, tenant_transaction
from store.search import get_incident
from store.shards import claim
from tests.contract.advisor.memory import MemoryAdvisoryStore
from tests.postgres.fixtures import Database
from tests.postgres.outputs import RECEIVED, full_output, incident_id
from tests.unit.advise.incidents import ssh_incident

NOW = datetime.now(UTC) + timedelta(hours=1)
_SHARD = 5


@dataclass
class Bench:
    """A store, a tenant with one queued incident, and a way to raise the incident's revision."""

    store: AdvisoryStore
    tenant: TenantId
    incident: UUID
    change: Callable[[int], Awaitable[None]]


async def _memory() -> Bench:
    store = MemoryAdvisoryStore(NOW)
    tenant, incident = TenantId(uuid4()), ssh_incident()

    async def change(revision: int) -> None:
        await store.put(tenant, incident | {"revision": revision})

    return Bench(store, tenant, UUID(incident["incident_id"]), change)


async def _postgres(database: Database) -> Bench:
    tenant = await database.tenant()
    await database.make_day(RECEIVED.date())
    async with system_transaction(await database.writer()) as tx:
        epoch = (await claim(tx, "a", [_SHARD]))[_SHARD]

    async def change(revision: int) -> None:
        await write_output(
            await database.detector(),
            tenant,
            shard=_SHARD,
            epoch=epoch,
            outputs=[full_output(tenant, revision, revision)],
            received={revision: RECEIVED},
            snapshot=None,
        )

    store = PostgresAdvisoryStore(await database.app(), await database.writer())
    return Bench(store, tenant, incident_id(tenant), change)


async def save(bench: Bench, revision: int, **body: Any) -> int:
    return await bench.store.save(
        bench.tenant, bench.incident, revision, generator="template", fallback_reason="llm_off", body=body
    )


class StoreContract:
    """Holds for every store; `bench` is the subclass's."""

    async def test_work_is_leased_to_one_worker_and_comes_back_when_the_lease_ends(self, bench: Bench) -> None:
        (work,) = await bench.store.due(NOW, 10)
        assert (work.tenant, work.incident_id, work.revision, work.attempts) == (bench.tenant, bench.incident, 1, 1)
        assert await bench.store.due(NOW, 10) == []
        (again,) = await bench.store.due(NOW + LEASE, 10)
        assert again.attempts == 2

    async def test_finished_work_is_gone_unless_a_newer_revision_waits(self, bench: Bench) -> None:
        await bench.change(2)
        assert not await bench.store.finish(bench.tenant, bench.incident, 1)
        assert [work.revision for work in await bench.store.due(NOW, 10)] == [2]
        assert await bench.store.finish(bench.tenant, bench.incident, 2)
        assert await bench.store.due(NOW + 2 * LEASE, 10) == []

    async def test_postponed_work_comes_back_at_its_time(self, bench: Bench) -> None:
        until = NOW + timedelta(minutes=10)
        assert await bench.store.postpone(bench.tenant, bench.incident, 1, until=until, error="pending")
        assert await bench.store.due(until - timedelta(seconds=1), 10) == []
        assert len(await bench.store.due(until, 10)) == 1

    async def test_a_newer_revision_does_not_wait_for_the_old_one_s_time(self, bench: Bench) -> None:
        await bench.store.postpone(bench.tenant, bench.incident, 1, until=NOW + timedelta(days=9), error="pending")
        await bench.change(2)
        assert not await bench.store.postpone(bench.tenant, bench.incident, 1, until=NOW + timedelta(days=9), error="x")
        assert [work.attempts for work in await bench.store.due(NOW, 10)] == [1]

    async def test_versions_are_kept_and_the_newest_is_given(self, bench: Bench) -> None:
        assert await bench.store.latest(bench.tenant, bench.incident) is None
        assert [await save(bench, 1, text="one"), await save(bench, 1, text="zwei ü")] == [1, 2]
        newest = await bench.store.latest(bench.tenant, bench.incident)
        assert newest is not None
        assert (newest.version, newest.body, newest.fallback_reason) == (2, {"text": "zwei ü"}, "llm_off")

    async def test_the_detail_makes_a_brief_with_its_records(self, bench: Bench) -> None:
        detail = await bench.store.detail(bench.tenant, bench.incident)
        assert detail is not None
        brief = brief_from_detail(detail)
        assert brief.incident_id == str(bench.incident) and brief.revision == 1
        assert brief.evidence and all(len(item.digest) == 64 and item.time for item in brief.evidence.values())
        assert all(event.evidence for event in brief.events)

    async def test_an_unknown_incident_is_none(self, bench: Bench) -> None:
        assert await bench.store.detail(bench.tenant, uuid4()) is None
        assert await bench.store.latest(bench.tenant, uuid4()) is None

    async def test_another_tenant_sees_nothing(self, bench: Bench) -> None:
        stranger = TenantId(uuid4())
        await save(bench, 1, text="ours")
        assert await bench.store.detail(stranger, bench.incident) is None
        assert await bench.store.latest(stranger, bench.incident) is None
        assert not await bench.store.finish(stranger, bench.incident, 1)


class TestMemoryStore(StoreContract):
    @pytest_asyncio.fixture
    async def bench(self) -> Bench:
        made = await _memory()
        await made.change(1)
        return made


@pytest.mark.postgres
class TestPostgresStore(StoreContract):
    @pytest_asyncio.fixture
    async def bench(self, database: Database) -> Bench:
        made = await _postgres(database)
        await made.change(1)
        return made

    async def test_the_detail_is_what_the_api_answers(self, bench: Bench, database: Database) -> None:
        async with tenant_transaction(await database.app(), bench.tenant) as tx:
            row = await get_incident(tx, bench.incident)
        assert row is not None
        detail = await bench.store.detail(bench.tenant, bench.incident)
        assert detail == incident_view(row)
