"""What a job leaves: output appended once and bounded, files that count when they are whole, all under its lease."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from store.jobs import JobNotFound, job_evidence
from store.jobs_delivery import MOST_OUTPUT_BYTES, LeaseLost, add_output, keep_lease
from store.jobs_files import FileRefused, add_chunk, forget_files, read_file, tenants_with_old_files
from store.postgres import tenant_transaction
from tests.postgres.agents import chunk, end_lease, leased, with_agents
from tests.postgres.fixtures import Database


async def test_output_is_appended_once_bounded_and_under_the_lease(database: Database) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant)

    async def add(offset: int, data: str) -> tuple[int, bool]:
        async with tenant_transaction(app, tenant) as tx:
            return await add_output(tx, "web-1", job.job_id, job.lease, offset, data)

    assert await add(0, "one\n") == (4, False)
    assert await add(0, "one\n") == (4, False)
    assert await add(2, "e\ntwo\n") == (8, False)
    assert await add(9, "after a gap") == (8, False)
    assert await add(8, "ü\0") == (10, False)
    assert await add(10, "x" * MOST_OUTPUT_BYTES) == (MOST_OUTPUT_BYTES - 3, True)
    assert await add(MOST_OUTPUT_BYTES - 3, "more") == (MOST_OUTPUT_BYTES - 3, True)
    async with tenant_transaction(app, tenant) as tx:
        evidence = await job_evidence(tx, job.job_id)
        assert evidence.output.startswith("one\ntwo\nü\ufffdxxx")
        assert evidence.output_truncated
        with pytest.raises(LeaseLost):
            await add_output(tx, "web-1", job.job_id, uuid4(), 0, "x")
        with pytest.raises(JobNotFound):
            await add_output(tx, "web-2", job.job_id, job.lease, 0, "x")


async def test_a_file_comes_in_chunks_and_counts_when_it_is_whole(database: Database) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant, kind="COLLECT_FILE")
    whole = bytes(range(256)) * 40

    async def add(start: int, end: int, content: bytes = whole) -> tuple[int, bool]:
        async with tenant_transaction(app, tenant) as tx:
            return await add_chunk(tx, "web-1", chunk(job.job_id, job.lease, content, start, end))

    assert await add(0, 4000) == (4000, False)
    assert await add(0, 4000) == (4000, False)
    with pytest.raises(FileRefused, match="4000"):
        await add(5000, 6000)
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(JobNotFound):
            await read_file(tx, job.job_id, actor="operator")
    assert await add(4000, 8000) == (8000, False)
    assert await add(0, 5000, whole[::-1]) == (5000, False)  # another file: from its beginning
    assert await add(0, 4000) == (4000, False)
    assert await add(4000, 10240) == (10240, True)
    assert await add(0, 4000) == (10240, True)
    async with tenant_transaction(app, tenant) as tx:
        assert (await read_file(tx, job.job_id, actor="operator"))[1] == whole
        evidence = await job_evidence(tx, job.job_id)
        assert evidence.file_size == len(whole)
    stranger = await database.tenant()
    async with tenant_transaction(app, stranger) as tx:
        with pytest.raises(JobNotFound):
            await read_file(tx, job.job_id, actor="operator")
    later = datetime.now(UTC) + timedelta(days=1)
    assert await tenants_with_old_files(await database.writer(), later) == [tenant]
    async with tenant_transaction(app, tenant) as tx:
        assert await forget_files(tx, later) == 1
        with pytest.raises(JobNotFound):
            await read_file(tx, job.job_id, actor="operator")


async def test_files_that_are_refused(database: Database) -> None:
    app, tenant = await with_agents(database)
    ping = await leased(app, tenant)
    job = await leased(app, tenant, kind="COLLECT_FILE")
    good = chunk(job.job_id, job.lease, b"content")
    changes = {
        "another digest": ({"digest": b"d" * 32}, FileRefused),
        "too large": ({"size": 2**24 + 1}, FileRefused),
        "beyond its end": ({"size": 3}, FileRefused),
        "before its start": ({"offset": -1}, FileRefused),
        "another lease": ({"lease": uuid4()}, LeaseLost),
        "another type": ({"job": ping.job_id, "lease": ping.lease}, JobNotFound),
        "no job": ({"job": uuid4()}, JobNotFound),
    }
    for what, (change, error) in changes.items():
        values = {name: getattr(good, name) for name in good.__slots__} | change
        with pytest.raises(error):
            async with tenant_transaction(app, tenant) as tx:
                await add_chunk(tx, "web-1", type(good)(**values))
        async with tenant_transaction(app, tenant) as tx:
            assert await tx.connection.fetchval("SELECT count(*) FROM job_files") == 0, what
    async with tenant_transaction(app, tenant) as tx:
        empty = chunk(job.job_id, job.lease, b"")
        assert await add_chunk(tx, "web-1", empty) == (0, True)


async def test_a_lease_is_kept_for_the_right_type_only(database: Database) -> None:
    app, tenant = await with_agents(database)
    job = await leased(app, tenant, kind="CERT_ROTATE")
    async with tenant_transaction(app, tenant) as tx:
        await keep_lease(tx, "web-1", job.job_id, "CERT_ROTATE")
        with pytest.raises(JobNotFound):
            await keep_lease(tx, "web-1", job.job_id, "COLLECT_FILE")
        await end_lease(tx, job.job_id)
    async with tenant_transaction(app, tenant) as tx:
        with pytest.raises(LeaseLost):
            await keep_lease(tx, "web-1", job.job_id, "CERT_ROTATE")
