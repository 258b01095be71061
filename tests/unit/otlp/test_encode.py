"""A record written back as OTLP/JSON is read as the same record."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from detect.batch import Batch
from detect.otlp import MAX_DEPTH, decode
from detect.otlp.encode import json_request
from detect.record import LogRecord, RecordRef, record_digest

RECEIVED = 1_700_000_000 * 10**9

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.floats(),
    st.binary(max_size=20),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3),
    ),
    max_leaves=10,
)
attributes = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=4)
records = st.builds(
    LogRecord,
    ref=st.just(RecordRef(7, 0)),
    time_ns=st.just(0),
    stated_ns=st.integers(min_value=0, max_value=2**64 - 1),
    observed_ns=st.integers(min_value=0, max_value=2**64 - 1),
    received_ns=st.just(RECEIVED),
    severity_number=st.integers(min_value=0, max_value=24),
    severity_text=st.text(st.characters(codec="utf-8"), max_size=8),
    body=values,
    attributes=attributes,
    resource=attributes,
    scope=st.text(st.characters(codec="utf-8"), max_size=8),
    trace_id=st.binary(max_size=16).map(bytes.hex),
    span_id=st.binary(max_size=8).map(bytes.hex),
    flags=st.integers(min_value=0, max_value=2**32 - 1),
    event_name=st.text(st.characters(codec="utf-8"), max_size=8),
    dropped_attributes=st.integers(min_value=0, max_value=2**32 - 1),
)


def content(record: LogRecord) -> str:
    """Everything the sender said; repr, because NaN equals nothing."""
    fields = msgspec.structs.asdict(record)
    return repr({name: value for name, value in fields.items() if name not in {"ref", "time_ns", "time_mark"}})


@given(st.lists(records, min_size=1, max_size=3), st.sampled_from([0, 2]))
def test_what_is_written_is_read_again(written: list[LogRecord], indent: int) -> None:
    read = decode(Batch(7, RECEIVED, "otlp_json", json_request(written, indent)))
    assert [content(record) for record in read] == [content(record) for record in written]
    assert [record_digest(record) for record in read] == [record_digest(record) for record in written]


def test_the_deepest_value_that_is_taken_in_can_be_written_back() -> None:
    deep: Any = "bottom"
    for level in range(MAX_DEPTH):
        deep = {"k": deep} if level % 2 else [deep]
    record = LogRecord(RecordRef(7, 0), 0, 1, 1, RECEIVED, 0, "", deep, {}, {})
    [read] = decode(Batch(7, RECEIVED, "otlp_json", json_request([record])))
    assert read.body == deep
