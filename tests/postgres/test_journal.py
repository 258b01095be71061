"""The journal: gapless, exactly once, group commit, bounded."""

from __future__ import annotations

import asyncio
import gzip
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from detect.record import TenantId
from store.journal import (
    CONTROL_AGENT,
    Appended,
    IdempotencyConflict,
    JournalEntry,
    JournalLimits,
    JournalRow,
    JournalWriter,
    Overloaded,
    UnknownTenant,
    append_control,
    behind,
    heads,
    read_journal,
)
from store.postgres import StorageUnavailable, system_transaction, tenant_transaction
from tests.postgres.fixtures import Database

NOW = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)


def entry(
    tenant: TenantId, key: str, *, payload: bytes = b"body", digest: bytes | None = None, **other: Any
) -> JournalEntry:
    values = {"agent": "web-1", "kind": "otlp_protobuf", "encoding": "identity", "records": 3, "received": NOW} | other
    return JournalEntry(
        tenant=tenant,
        idempotency_key=key.encode(),
        digest=digest or payload[:32].ljust(32, b"\0"),
        payload=payload,
        **values,
    )


async def read_all(database: Database, tenant: TenantId) -> list[JournalRow]:
    async with tenant_transaction(await database.app(), tenant) as tx:
        return await read_journal(tx, 0, 10_000, 2**40)


async def test_a_batch_comes_back_as_it_was_stored(database: Database) -> None:
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer())
    body = gzip.compress(b"the request body")
    assert await writer.append(entry(tenant, "k", payload=body, encoding="gzip")) == Appended(1, False)
    [row] = await read_all(database, tenant)
    assert (row.seq, row.agent, row.kind, row.encoding, row.records, row.payload) == (
        1, "web-1", "otlp_protobuf", "gzip", 3, body,
    )  # fmt: skip
    assert row.received == NOW
    assert row.received_ns == 1772600767_891234_000
    assert row.batch().payload == b"the request body"


async def test_concurrent_appends_of_two_tenants_and_two_writers_leave_no_gap_and_no_duplicate(
    database: Database,
) -> None:
    tenants = [await database.tenant(), await database.tenant()]
    pool = await database.writer()
    writers = [JournalWriter(pool, JournalLimits(group_rows=7)), JournalWriter(pool, JournalLimits(group_rows=5))]
    # 64 different batches a tenant, each sent three times over two writers, all at once.
    sends = [
        (tenant, number, writers[(number + repeat) % 2].append(entry(tenant, f"key-{number}", payload=b"%d" % number)))
        for repeat in range(3)
        for number in range(64)
        for tenant in tenants
    ]
    answers = await asyncio.gather(*(send for _, _, send in sends))
    for tenant in tenants:
        rows = await read_all(database, tenant)
        assert [row.seq for row in rows] == list(range(1, 65))
        stored = {row.idempotency_key: row.seq for row in rows}
        mine = [(number, answer) for (owner, number, _), answer in zip(sends, answers, strict=True) if owner == tenant]
        assert all(stored[f"key-{number}".encode()] == answer.seq for number, answer in mine)
        assert sum(not answer.duplicate for _, answer in mine) == 64
    async with system_transaction(pool) as tx:
        assert await heads(tx) == dict.fromkeys(tenants, 64)
        assert await behind(tx) == dict.fromkeys(tenants, (0, 64))


async def test_a_key_may_not_be_used_for_other_content(database: Database) -> None:
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer())
    await writer.append(entry(tenant, "k", payload=b"one"))
    with pytest.raises(IdempotencyConflict):
        await writer.append(entry(tenant, "k", payload=b"two"))
    # Within one group too, and without harm to the others in it.
    first, second, third = await asyncio.gather(
        writer.append(entry(tenant, "n", payload=b"one")),
        writer.append(entry(tenant, "n", payload=b"two")),
        writer.append(entry(tenant, "m", payload=b"one")),
        return_exceptions=True,
    )
    assert first == Appended(2, False)
    assert isinstance(second, IdempotencyConflict)
    assert third == Appended(3, False)


async def test_the_same_key_of_another_agent_or_tenant_is_another_key(database: Database) -> None:
    one, two = await database.tenant(), await database.tenant()
    writer = JournalWriter(await database.writer())
    answers = await asyncio.gather(
        writer.append(entry(one, "k")), writer.append(entry(one, "k", agent="web-2")), writer.append(entry(two, "k"))
    )
    assert answers == [Appended(1, False), Appended(2, False), Appended(1, False)]


async def test_one_bad_entry_does_not_fail_its_group(database: Database) -> None:
    tenant = await database.tenant()
    stranger = TenantId(type(tenant)(int=1))
    writer = JournalWriter(await database.writer())
    answers = await asyncio.gather(
        writer.append(entry(tenant, "a")),
        writer.append(entry(stranger, "b")),
        writer.append(entry(tenant, "c", kind="nonsense")),  # refused by the table's own check
        writer.append(entry(tenant, "d")),
        return_exceptions=True,
    )
    assert answers[0] == Appended(1, False)
    assert isinstance(answers[1], UnknownTenant)
    assert type(answers[2]).__name__ == "CheckViolationError"
    assert answers[3] == Appended(2, False)


async def test_what_waits_is_bounded_in_rows_and_bytes(database: Database) -> None:
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer(), JournalLimits(waiting_rows=2, waiting_bytes=10, retry_after_s=4.0))
    answers = await asyncio.gather(*(writer.append(entry(tenant, f"k{n}")) for n in range(5)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 3
    assert refused[0].retry_after_s == 4.0
    assert [row.seq for row in await read_all(database, tenant)] == [1, 2]
    large = await asyncio.gather(
        *(writer.append(entry(tenant, f"l{n}", payload=b"12345678")) for n in range(2)), return_exceptions=True
    )
    assert isinstance(large[1], Overloaded)
    assert not isinstance(large[0], Exception), "one batch alone is never too large to wait"


async def test_a_sender_that_goes_away_leaves_the_others_alone(database: Database) -> None:
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer())
    tasks = [asyncio.create_task(writer.append(entry(tenant, f"k{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert {answer.seq for answer in (done[0], done[2])} <= {1, 2, 3}
    await writer.close()
    assert writer.waiting == 0


async def test_a_lost_server_is_trouble_that_may_pass(database: Database) -> None:
    tenant = await database.tenant()
    pool = await database.writer()
    writer = JournalWriter(pool)
    superuser = await database.superuser()
    async with superuser.transaction():
        await superuser.execute("LOCK TABLE journal_heads IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(writer.append(entry(tenant, "k")))
        blocked = "SELECT pid FROM pg_stat_activity WHERE usename = 'trustsoc_writer' AND wait_event_type = 'Lock'"
        while (pid := await superuser.fetchval(blocked)) is None:
            await superuser.execute("SELECT pg_stat_clear_snapshot()")
        await superuser.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StorageUnavailable) as caught:
            await waiting
    assert caught.value.retry_after_s > 0
    assert await writer.append(entry(tenant, "k")) == Appended(1, False), "the pool finds a new connection by itself"


async def test_control_rows_share_the_order_but_not_the_names_of_senders(database: Database) -> None:
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer())
    await writer.append(entry(tenant, "k"))
    appended = await append_control(
        writer, tenant, b'{"type":"tick"}', idempotency_key=b"k", digest=b"d" * 32, received=NOW
    )
    assert appended == Appended(2, False)
    assert [(row.kind, row.agent) for row in await read_all(database, tenant)] == [
        ("otlp_protobuf", "web-1"),
        ("control", CONTROL_AGENT),
    ]


async def test_reading_is_bounded_but_always_moves_on(database: Database) -> None:
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer())
    for number in range(5):
        await writer.append(entry(tenant, f"k{number}", payload=b"x" * 100))
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert [row.seq for row in await read_journal(tx, 0, 2, 10**9)] == [1, 2]
        assert [row.seq for row in await read_journal(tx, 2, 10, 150)] == [3, 4]
        assert [row.seq for row in await read_journal(tx, 2, 10, 1)] == [3]
        assert await read_journal(tx, 5, 10, 10**9) == []


@pytest.mark.parametrize(
    "wrong",
    [{"agent": "a\0b"}, {"agent": "x" * 300}, {"agent": ""}, {"agent": "\ud800"}, {"received": datetime(2026, 1, 1)}],  # noqa: DTZ001 # the missing time zone is the point
)
async def test_an_entry_that_the_journal_cannot_hold_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(ValueError):
        entry(TenantId(uuid4()), "k", **wrong)
