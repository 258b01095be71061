"""The bytes of COPY are what the driver would make of the same values, whatever a sender puts into a record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.batch import BatchOutput
from detect.record import Entity, LogRecord, Logsource, NormalizedRecord, RecordRef, TenantId, canonical_json
from store.detection_rows import entity_label, logsource_label
from store.postgres import detector_transaction
from store.queries import sql
from store.raw_log_copy import RAW_LOG_COLUMNS, copy_stream
from store.values import text, timestamp
from tests.postgres.fixtures import Database
from tests.postgres.outputs import RECEIVED, output

_ODD_TEXT = st.text(st.characters(codec=None), max_size=40) | st.sampled_from(
    ["", "\0", "\ud800", "x" * 9000, "ä" * 600]
)
_TIMES = st.integers(-(2**70), 2**70) | st.integers(1_700_000_000_000_000_000, 1_800_000_000_000_000_000)
_ENTITIES = st.lists(
    st.builds(Entity, st.sampled_from(["ip", "user", "host"]), _ODD_TEXT, st.sampled_from(["", "source"])), max_size=4
)


@st.composite
def _records(draw: st.DrawFn) -> list[NormalizedRecord]:
    made = []
    for position in range(draw(st.integers(0, 4))):
        time_ns = draw(_TIMES)
        record = LogRecord(
            ref=RecordRef(1, position), time_ns=time_ns, stated_ns=time_ns, observed_ns=0, received_ns=0,
            severity_number=draw(st.integers(-5, 2**31)), severity_text="", body=draw(_ODD_TEXT),
            attributes={"a": draw(_ODD_TEXT)}, resource={}, time_mark=draw(st.sampled_from(["", "late", "future"])),
        )  # fmt: skip
        logsource = Logsource(draw(_ODD_TEXT), "", "sshd")
        made.append(NormalizedRecord(record, logsource, {}, tuple(draw(_ENTITIES)), draw(_ODD_TEXT)))
    return made


def expected(tenant: TenantId, item: NormalizedRecord) -> tuple[Any, ...]:
    record = item.record
    return (
        tenant,
        record.ref.seq,
        record.ref.position,
        RECEIVED,
        timestamp(record.time_ns),
        record.time_mark,
        min(max(record.severity_number, 0), 24),
        logsource_label(item.logsource),
        list(dict.fromkeys(entity_label(entity) for entity in item.entities)),
        text(item.message),
        canonical_json(record).decode(),
    )


async def stored(database: Database, tenant: TenantId, made: BatchOutput) -> list[tuple[Any, ...]]:
    """What the table holds of the tenant after COPY."""
    async with detector_transaction(await database.detector(), tenant) as tx:
        await tx.connection.execute(sql("become_writer"))
        stream = copy_stream(tenant, [made], {made.seq: RECEIVED})
        status = await tx.connection.copy_to_table("raw_logs", source=stream, columns=RAW_LOG_COLUMNS, format="binary")
        assert status == f"COPY {len(made.records)}"
        await tx.connection.execute(sql("become_app"))
        rows = await tx.connection.fetch("SELECT * FROM raw_logs ORDER BY position")
        return [tuple(row) for row in rows]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=_records())
async def test_every_record_is_stored_as_the_driver_would(database: Database, records: list[NormalizedRecord]) -> None:
    await database.make_day(RECEIVED.date())
    tenant = await database.tenant()
    made = output(1, records=tuple(records))
    assert await stored(database, tenant, made) == [expected(tenant, item) for item in records]


async def test_many_records_go_in_pieces(database: Database) -> None:
    record = LogRecord(
        ref=RecordRef(1, 0), time_ns=0, stated_ns=0, observed_ns=0, received_ns=0, severity_number=0, severity_text="",
        body="x" * 5000, attributes={}, resource={},
    )  # fmt: skip
    item = NormalizedRecord(record, Logsource(), {}, (), "m")
    made = output(1, records=(item,) * 300)
    pieces = [part async for part in copy_stream(await database.tenant(), [made], {1: datetime.now(UTC)})]
    assert len(pieces) == 7
    assert all(len(piece) < 300_000 for piece in pieces), "however much there is, little is held"
