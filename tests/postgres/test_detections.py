"""What a detector judged is stored whole, once, and only by the holder of the shard."""

# ruff: noqa: S608 # table names cannot be parameters, and these are the constants below

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.batch import BatchOutput, Poison, Rollup
from detect.record import Entity, TenantId, canonical_json
from store.detections import Fenced, MarkMismatch, Snapshot, load_state, write_output
from store.postgres import detector_transaction, system_transaction, tenant_transaction
from store.rule_catalogs import rule_hits
from store.search import EventFilter, get_event, search_events
from store.shards import claim
from store.values import iso_time, timestamp
from tests.postgres.fixtures import Database
from tests.postgres.outputs import (
    RECEIVED,
    TIME_NS,
    event,
    fold,
    full_output,
    incident_id,
    log_record,
    normalized,
    output,
)

SHARD = 5
TABLES = (
    "raw_logs", "events", "incidents", "incident_events", "advisory_queue", "dead_letters", "feature_rollup_1m",
    "detector_marks", "detector_snapshots", "event_folds",
)  # fmt: skip


async def claim_shard(database: Database, actor: str = "a") -> int:
    async with system_transaction(await database.writer()) as tx:
        return (await claim(tx, actor, [SHARD]))[SHARD]


async def write(
    database: Database, tenant: TenantId, epoch: int, *outputs: BatchOutput, snapshot: Snapshot | None = None
) -> int:
    return await write_output(
        await database.detector(),
        tenant,
        shard=SHARD,
        epoch=epoch,
        outputs=outputs,
        received={item.seq: RECEIVED for item in outputs},
        snapshot=snapshot,
    )


async def stored(database: Database, tenant: TenantId) -> dict[str, list[str]]:
    """All rows of the tenant, without the times at which they were written."""
    superuser = await database.superuser()
    rows = {}
    for table in TABLES:
        found = await superuser.fetch(
            f"SELECT row_to_json(t)::text AS row FROM {table} AS t WHERE tenant_id = $1", tenant
        )
        rows[table] = sorted(row["row"] for row in found)
    return rows


async def test_everything_of_an_output_is_stored_with_the_mark(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    first = full_output(tenant, 1)
    assert await write(database, tenant, epoch, first, snapshot=Snapshot(1, 3, b"state")) == 1
    async with detector_transaction(await database.detector(), tenant) as tx:
        state = await load_state(tx)
        assert (state.mark, state.snapshot) == (1, Snapshot(1, 3, b"state"))
        counts = {table: await tx.connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
        text = await tx.connection.fetchval("SELECT record::text FROM raw_logs WHERE position = 2")
    assert counts == dict.fromkeys(TABLES, 1) | {"raw_logs": 3, "events": 3, "incident_events": 3}
    assert text.encode() == canonical_json(first.records[2].record), "the stored text is the hashed text"


async def test_repeats_of_an_event_add_up_over_batches_and_are_shown_with_it(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    records = [normalized(log_record(seq, position)) for seq in (1, 2, 3) for position in (0, 1)]
    first, other = event(tenant, records[0]), event(tenant, records[0], "r-2")
    outputs = (
        output(1, events=(first, other), folds=(fold(first, 1, (records[1],)),)),
        output(2, folds=(fold(first, 3, (records[2], records[3])),)),
    )
    await write(database, tenant, epoch, *outputs)
    last = msgspec.structs.replace(fold(first, 5, (records[4], records[5])), first_ns=records[1].record.time_ns)
    await write(database, tenant, epoch, output(3, folds=(last,)))
    async with tenant_transaction(await database.app(), tenant) as tx:
        shown = {row["rule_id"]: row for row in (await search_events(tx, EventFilter(), 10)).items}
        whole = await get_event(tx, first.id)
        hits = await rule_hits(tx, ["r-1", "r-2"], datetime(2026, 1, 1, tzinfo=UTC))
    end = iso_time(timestamp(records[5].record.time_ns))
    assert (shown["r-1"]["repeats"], shown["r-1"]["last_repeat"]) == (5, end)
    assert (shown["r-2"]["repeats"], shown["r-2"]["last_repeat"]) == (0, None)
    assert whole is not None
    assert whole["first_repeat"] == iso_time(timestamp(records[1].record.time_ns))
    assert whole["repeat_records"] == [str(item.record.ref) for item in records[1:]]
    assert [item["ref"] for item in whole["repeat_evidence"]] == whole["repeat_records"]
    assert (hits["r-1"].hits, hits["r-2"].hits) == (6, 1)
    assert hits["r-1"].last_hit == timestamp(records[5].record.time_ns)


async def test_the_same_output_again_changes_nothing(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    await write(database, tenant, epoch, full_output(tenant, 1), snapshot=Snapshot(1, 1, b"s"))
    before = await stored(database, tenant)
    with pytest.raises(MarkMismatch) as caught:
        await write(database, tenant, epoch, full_output(tenant, 1))
    assert (caught.value.mark, caught.value.first) == (1, 1)
    assert await stored(database, tenant) == before


async def test_two_writers_of_the_same_output_store_it_once(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    await database.make_day(RECEIVED.date())
    answers = await asyncio.gather(
        *(write(database, tenant, epoch, full_output(tenant, 1)) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["MarkMismatch"] * 3 + ["int"]


async def test_no_batch_may_be_left_out(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    with pytest.raises(MarkMismatch):
        await write(database, tenant, epoch, output(2))
    with pytest.raises(ValueError, match="consecutive"):
        await write(database, tenant, epoch, output(1), output(3))
    with pytest.raises(ValueError, match="snapshot"):
        await write(database, tenant, epoch, output(1), output(2), snapshot=Snapshot(1, 1, b""))
    assert await write(database, tenant, epoch, output(1), output(2)) == 2


async def test_a_writer_that_was_replaced_stores_nothing(database: Database) -> None:
    tenant = await database.tenant()
    old = await claim_shard(database, "a")
    new = await claim_shard(database, "b")
    assert new == old + 1
    before = await stored(database, tenant)
    with pytest.raises(Fenced) as caught:
        await write(database, tenant, old, full_output(tenant, 1))
    assert (caught.value.shard, caught.value.epoch, caught.value.current) == (SHARD, old, new)
    assert await stored(database, tenant) == before
    assert await write(database, tenant, new, full_output(tenant, 1)) == 1


async def test_a_failure_in_the_middle_leaves_nothing_behind(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    await database.make_day(RECEIVED.date())
    before = await stored(database, tenant)
    broken = output(1, records=(normalized(log_record(1, 0)), normalized(log_record(1, 0))))
    with pytest.raises(asyncpg.UniqueViolationError):
        await write(database, tenant, epoch, broken)
    assert await stored(database, tenant) == before


async def test_a_newer_revision_wins_and_what_a_person_set_stays(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    await write(database, tenant, epoch, full_output(tenant, 1, revision=1))
    async with tenant_transaction(await database.app(), tenant) as tx:
        await tx.connection.execute("UPDATE incidents SET state = 'acknowledged'")
        await tx.connection.execute("UPDATE advisory_queue SET attempts = 4, last_error = 'x'")
    # Both revisions in one write, the older one last: order of arrival must not matter.
    await write(database, tenant, epoch, full_output(tenant, 2, revision=3), full_output(tenant, 3, revision=2))
    async with tenant_transaction(await database.app(), tenant) as tx:
        row = await tx.connection.fetchrow("SELECT revision, state, updated_seq FROM incidents")
        assert tuple(row) == (3, "acknowledged", 2)
        assert await tx.connection.fetchval("SELECT count(*) FROM incident_events") == 9
        waiting = await tx.connection.fetchrow("SELECT incident_id, revision, attempts, last_error FROM advisory_queue")
        assert tuple(waiting) == (incident_id(tenant), 3, 0, None)


async def test_the_last_word_on_a_window_replaces_the_earlier(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    windows = [Rollup("5m", "ip", "198.51.100.7", TIME_NS, {"count": count}) for count in (1.0, 2.0, 3.0)]
    await write(database, tenant, epoch, output(1, rollups=(windows[0],)), output(2, rollups=(windows[1],)))
    await write(database, tenant, epoch, output(3, rollups=(windows[2],)))
    superuser = await database.superuser()
    assert await superuser.fetchval("SELECT features ->> 'count' FROM feature_rollup_5m") == "3.0"
    assert await superuser.fetchval("SELECT count(*) FROM feature_rollup_1m") == 0


async def test_a_day_without_partition_gets_one(database: Database) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    old = datetime(2019, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    await write_output(
        await database.detector(), tenant, shard=SHARD, epoch=epoch, outputs=[full_output(tenant, 1)], received={1: old}
    )
    superuser = await database.superuser()
    assert await superuser.fetchval("SELECT count(*) FROM raw_logs_20191231") == 3


hostile_text = st.text(st.characters(exclude_categories=()), max_size=300) | st.sampled_from(
    ["\0", "\ud800", "a\0b\udfff", "\N{GRINNING FACE}" * 3000, "x" * 200_000, "ü" * 9000, "\x1f", "\\u0000"]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=hostile_text, time_ns=st.integers(-(2**64), 2**64), number=st.integers(-(2**31), 2**31 - 1))
async def test_no_text_or_time_of_a_sender_can_fail_a_write(
    database: Database, text: str, time_ns: int, number: int
) -> None:
    tenant = await database.tenant()
    epoch = await claim_shard(database)
    entities = (Entity("user", text), Entity("url", text))
    record = log_record(
        1,
        0,
        {"k": [text, text.encode(errors="replace")]},
        time_ns=time_ns,
        severity_number=number,
        attributes={text: text},
    )
    item = normalized(record, message=text, entities=entities)
    said = event(tenant, item, title=text, matched={"v": text, "b": b"\xff"}, score=float("nan"))
    rollup = Rollup("1h", "user", text, time_ns, {"count": float("inf")})
    poison = Poison(1, 0, "decode", text, text)
    await write(
        database, tenant, epoch, output(1, records=(item,), events=(said,), rollups=(rollup,), poison=(poison,))
    )
    superuser = await database.superuser()
    row = await superuser.fetchrow("SELECT message, record::text AS record FROM raw_logs WHERE tenant_id = $1", tenant)
    assert len(row["message"].encode()) <= 8192
    assert row["record"].encode() == canonical_json(record)
    # What was stored can be searched: no JSON operator chokes on it.
    await superuser.fetch(
        "SELECT json_array_elements(entities) ->> 'value', matched::jsonb, attributes::jsonb FROM events"
    )


async def test_the_detector_role_is_nobody_outside_its_transactions(database: Database) -> None:
    pool = await database.detector()
    for statement in ("SELECT * FROM events", "SELECT * FROM journal", "SELECT * FROM shard_map"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch(statement)
    tenant = await database.tenant()
    async with detector_transaction(pool, tenant) as tx:
        assert await tx.connection.fetchval("SELECT current_user") == "trustsoc_app"
    assert await pool.fetchval("SELECT current_user || coalesce(current_setting('app.tenant_id', true), '')") == (
        "trustsoc_detector"
    )
    assert isinstance(tenant, UUID)
