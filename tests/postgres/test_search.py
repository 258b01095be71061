"""The questions of analysts: filters, pages, escapes, and the index behind each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from detect.batch import BatchOutput
from detect.record import Entity, RecordRef, TenantId, record_digest
from store.detections import write_output
from store.paging import InvalidCursor, Page
from store.postgres import TenantTransaction, system_transaction, tenant_transaction
from store.search import (
    EventFilter,
    IncidentFilter,
    InvalidFilter,
    LogFilter,
    ScanBounds,
    SearchTimedOut,
    count_status,
    get_event,
    get_incident,
    get_record,
    search_events,
    search_incidents,
    search_logs,
)
from store.shards import claim
from tests.postgres.fixtures import Database
from tests.postgres.outputs import (
    RECEIVED,
    TIME_NS,
    event,
    full_output,
    incident,
    incident_id,
    log_record,
    normalized,
    output,
)

EVER = LogFilter(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


async def fill(database: Database, *outputs: Any, tenant: TenantId | None = None) -> TenantId:
    tenant = tenant or await database.tenant()
    async with system_transaction(await database.writer()) as tx:
        epoch = (await claim(tx, "a", [1]))[1]
    made = [item(tenant) if callable(item) else item for item in outputs]
    received = {item.seq: RECEIVED for item in made}
    await write_output(await database.detector(), tenant, shard=1, epoch=epoch, outputs=made, received=received)
    return tenant


async def pages(search: Any, tx: TenantTransaction, wanted: object, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page: Page = await search(tx, wanted, limit, cursor)
        assert len(page.items) <= limit
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def test_pages_join_to_the_whole_newest_first(database: Database) -> None:
    tenant = await fill(database, *(lambda t, n=n: full_output(t, n, n) for n in range(1, 5)))
    async with tenant_transaction(await database.app(), tenant) as tx:
        for search, wanted in ((search_events, EventFilter()), (search_logs, EVER)):
            whole = (await search(tx, wanted, 100)).items
            assert len(whole) == 12
            assert [row["time"] for row in whole] == sorted((row["time"] for row in whole), reverse=True)
            for limit in (1, 5, 12):
                assert await pages(search, tx, wanted, limit) == whole
        assert len((await search_incidents(tx, IncidentFilter(), 1)).items) == 1


async def test_rows_are_ready_for_json(database: Database) -> None:
    tenant = await fill(database, lambda t: full_output(t, 1))
    async with tenant_transaction(await database.app(), tenant) as tx:
        row = (await search_events(tx, EventFilter(), 1)).items[0]
        assert row["time"] == "2026-03-04T04:55:02.000000Z"
        assert row["techniques"] == ["T1110.001"]
        assert row["evidence"][0]["ref"] == "1-2"
        assert row["entities"][0] == {"kind": "ip", "value": "198.51.100.7", "role": "source"}
        assert row["attributes"] == {"host.name": "web-1"}
        alone = await get_event(tx, row["event_id"])
        assert alone == row | {"first_repeat": None, "repeat_records": [], "repeat_evidence": []}
        assert await get_event(tx, uuid4()) is None
        whole = await get_incident(tx, incident_id(tenant))
        assert whole is not None
        assert [member["event"]["position"] for member in whole["timeline"]] == [0, 1, 2]
        assert {member["reason"] for member in whole["timeline"]} == {"same source address"}
        assert await get_incident(tx, uuid4()) is None
        counts = await count_status(tx)
        assert counts["judged"] == 1
        assert counts["events"] == 3
        assert counts["incidents"] == {"open": 1, "acknowledged": 0, "closed": 0}


async def test_events_are_found_by_each_filter(database: Database) -> None:
    def make(tenant: TenantId) -> BatchOutput:
        low = normalized(log_record(1, 0), entities=(Entity("user", "alice"),))
        high = normalized(log_record(1, 1), entities=(Entity("user", "bob"), Entity("ip", "2001:db8::1")))
        events = (event(tenant, low, "r-low", severity="low"), event(tenant, high, "r-high", severity="critical"))
        return output(1, records=(low, high), events=events, incidents=(incident(tenant, events[1:]),))

    tenant = await fill(database, make)
    start = datetime.fromtimestamp(TIME_NS / 1e9, UTC)
    async with tenant_transaction(await database.app(), tenant) as tx:

        async def rules(**filters: Any) -> list[str]:
            return [row["rule_id"] for row in (await search_events(tx, EventFilter(**filters), 10)).items]

        assert await rules() == ["r-high", "r-low"]
        assert await rules(severity_at_least="medium") == ["r-high"]
        assert await rules(rule_id="r-low") == ["r-low"]
        assert await rules(entity="user:alice") == ["r-low"]
        assert await rules(entity="ip:2001:db8::1") == ["r-high"]
        assert await rules(incident_id=incident_id(tenant)) == ["r-high"]
        assert await rules(start=start + timedelta(seconds=101)) == ["r-high"]
        assert await rules(end=start + timedelta(seconds=101)) == ["r-low"]
        for wrong in ("alice", "user:", "nonsense:x", ":x"):
            with pytest.raises(InvalidFilter):
                await rules(entity=wrong)
        assert len((await search_incidents(tx, IncidentFilter(state="open"), 5)).items) == 1
        assert (await search_incidents(tx, IncidentFilter(state="closed"), 5)).items == []
        assert (await search_incidents(tx, IncidentFilter(severity_at_least="critical"), 5)).items == []


@pytest.mark.parametrize(
    "term",
    ['say "hi"', "100%", "a_b", "C:\\Windows\\System32", "tab\there", "ÄÖÜ", "\N{GRINNING FACE}", "line\nbreak", "/"],
)
async def test_text_is_found_literally(database: Database, term: str) -> None:
    hay = normalized(log_record(1, 0, f"before {term} after"))
    decoy = normalized(log_record(1, 1, "before 100x aXb C:.Windows.System32 after"))
    tenant = await fill(database, output(1, records=(hay, decoy)))
    async with tenant_transaction(await database.app(), tenant) as tx:
        found = await search_logs(tx, LogFilter(EVER.start, EVER.end, text=term.swapcase()), 10)
        assert [row["ref"] for row in found.items] == ["1-0"]


async def test_logs_are_found_by_entity_and_time_only_within_the_range(database: Database) -> None:
    rows = (normalized(log_record(1, 0), entities=(Entity("host", "web-1"),)), normalized(log_record(1, 1)))
    tenant = await fill(database, output(1, records=rows))
    async with tenant_transaction(await database.app(), tenant) as tx:
        found = await search_logs(tx, LogFilter(EVER.start, EVER.end, entity="host:web-1"), 10)
        assert [row["ref"] for row in found.items] == ["1-0"]
        assert (await search_logs(tx, LogFilter.last(EVER.end), 10)).items == []
        now = datetime.fromtimestamp(TIME_NS / 1e9, UTC) + timedelta(hours=1)
        assert len((await search_logs(tx, LogFilter.last(now), 10)).items) == 2
        with pytest.raises(InvalidFilter):
            await search_logs(tx, LogFilter(EVER.start.replace(tzinfo=None), EVER.end), 10)


async def test_a_record_has_the_digest_that_evidence_quotes(database: Database) -> None:
    record = log_record(1, 0, {"text": "a\0b \ud800", "raw": b"\xff"})
    tenant = await fill(database, output(1, records=(normalized(record),)))
    async with tenant_transaction(await database.app(), tenant) as tx:
        row = await get_record(tx, RecordRef(1, 0))
        assert row is not None
        assert row["digest"] == record_digest(record)
        for ref in (RecordRef(1, 9), RecordRef(2**70, 0), RecordRef(1, 2**40)):
            assert await get_record(tx, ref) is None


@pytest.mark.parametrize("cursor", ["", "!", "e30", "W10", "x" * 300, "bnVsbA", "WyJldmVudHMiLDEsMl0"])
async def test_a_cursor_that_we_did_not_give_is_refused(database: Database, cursor: str) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        for search, wanted in (
            (search_events, EventFilter()),
            (search_incidents, IncidentFilter()),
            (search_logs, EVER),
        ):
            with pytest.raises(InvalidCursor):
                await search(tx, wanted, 10, cursor)


async def test_a_search_reads_so_many_records_and_says_where_it_stopped(database: Database) -> None:
    """Whatever is looked for: the page may be empty, and its cursor goes on where the reading ended."""
    bodies = ["needle" if position % 40 == 0 else "hay" for position in range(100)]
    tenant = await fill(
        database,
        output(1, records=tuple(normalized(log_record(1, place, body)) for place, body in enumerate(bodies))),
    )
    wanted = LogFilter(EVER.start, EVER.end, text="needle")
    async with tenant_transaction(await database.app(), tenant) as tx:
        found, empty_pages, stops, cursor = [], 0, [], None
        while True:
            page = await search_logs(tx, wanted, 10, cursor, bounds=ScanBounds(rows=15))
            found += [row["position"] for row in page.items]
            empty_pages += not page.items
            cursor = page.next_cursor
            if cursor is None:
                break
            assert page.searched_to is not None
            stops.append(page.searched_to)
        assert found == [80, 40, 0]
        assert stops == sorted(stops, reverse=True)
        assert len(stops) == 6, "100 records, 15 at a time"
        assert empty_pages == 4
        # A page that is full before the bound is met goes on after its last row, and has nothing to say.
        everything = await search_logs(tx, EVER, 10, None, bounds=ScanBounds(rows=15))
        assert everything.searched_to is None
        assert len(everything.items) == 10
        # The record at which the bound was met belongs to the page when it matches.
        edge = await search_logs(tx, wanted, 10, None, bounds=ScanBounds(rows=20))
        assert [row["position"] for row in edge.items] == [80]
        assert not {"matches", "place"} & set(edge.items[0])


async def test_a_search_of_logs_has_a_longest_range(database: Database) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        with pytest.raises(InvalidFilter, match="92 days"):
            await search_logs(tx, LogFilter(EVER.start, EVER.start + timedelta(days=93)), 10)


async def test_a_search_that_runs_out_of_time_tries_less_before_it_gives_up(database: Database) -> None:
    tenant = await fill(database, lambda t: full_output(t, 1))
    superuser = await database.superuser()
    async with tenant_transaction(await database.app(), tenant) as tx:
        # The table is locked, so that every try runs into its timeout, which is the case of a disk that hangs.
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE raw_logs IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(SearchTimedOut):
                await search_logs(tx, EVER, 10, bounds=ScanBounds(milliseconds=50))
        assert len((await search_logs(tx, EVER, 10)).items) == 3, "the transaction goes on"
