"""Attributes read from their bytes are what the schema proper reads, whatever a sender writes."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from bench.otlp_values import any_value, attribute
from detect.batch import Batch
from detect.otlp import UndecodableBatch, decode, raw_values
from detect.otlp.protobuf_request import proper_records
from detect.otlp.raw_values import OddValue, PairReader
from detect.record import LogRecord

RECEIVED = 1_795_338_000 * 10**9
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["x" * 127, "x" * 128, "é" * 100, "x" * 20_000, 127, 128, -1, 2**63 - 1])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def batch(body: Any, attributes: list[tuple[str, Any]]) -> Batch:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(attribute(key, value) for key, value in attributes)
    record = group.scope_logs.add().log_records.add()
    record.body.CopyFrom(any_value(body))
    record.attributes.extend(attribute(key, value) for key, value in attributes)
    return Batch(1, RECEIVED, "otlp_protobuf", request.SerializeToString())


def same(left: Any, right: Any) -> bool:
    """Equal with types, and NaN equal to itself."""
    return repr(_records_alone(left)) == repr(_records_alone(right))


def _records_alone(value: Any) -> Any:
    """Records without what they were read from, which is no part of them."""
    if isinstance(value, LogRecord):
        return msgspec.structs.replace(value, sent="")
    return [_records_alone(item) for item in value] if isinstance(value, list) else value


@given(values, st.lists(st.tuples(st.text(max_size=4) | st.sampled_from(["k" * 127, "k" * 128]), values), max_size=4))
@example("", [("", ""), ("a", None), ("a", "twice")])
@example({"nested": {"deeper": [1, {"x": None}]}}, [])
def test_every_value_is_read_alike(body: Any, attributes: list[tuple[str, Any]]) -> None:
    given_batch = batch(body, attributes)
    for _ in range(2):
        assert same(decode(given_batch), proper_records(given_batch, 0))


@given(values, st.data())
def test_damaged_requests_are_read_or_refused_alike(body: Any, data: st.DataObject) -> None:
    payload = bytearray(batch(body, [("key", "value"), ("é", "ü")]).payload)
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    damaged = Batch(1, RECEIVED, "otlp_protobuf", bytes(payload))
    try:
        expected = proper_records(damaged, 0)
    except UndecodableBatch:
        with pytest.raises(UndecodableBatch):
            decode(damaged, 0)
        return
    assert same(decode(damaged, 0), expected)


@given(st.binary(max_size=24))
@example(b"\x0a\x01k\x12\x03\x0a\x01v")
@example(b"\x0a\x01k\x12\x04\x0a\x82\x00vv")
@example(b"\x12\x03\x0a\x01v\x0a\x01k")
@example(b"\x0a\x01k\x12\x03\x0a\x01v\x12\x03\x0a\x01w")
@example(b"\x0a\x01k\x12\x02\x18\x05")
@example(b"\x0a\x01k\x12\x02\x10\x02")
@example(b"\x0a\x01k\x12\x0b\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x01k\x12\x09\x21" + struct.pack("<d", 1.5))
def test_bytes_are_read_as_the_schema_reads_them_or_left_to_it(raw: bytes) -> None:
    try:
        key, value = PairReader().read(raw, 0)
    except (OddValue, UnicodeDecodeError):
        return
    pair = KeyValue.FromString(raw)
    assert pair.key == key
    if not isinstance(value, list | dict):
        assert same(any_value(value).SerializeToString(), pair.value.SerializeToString())


@given(st.data())
def test_a_head_that_is_known_says_nothing_of_what_is_written_otherwise(data: st.DataObject) -> None:
    reader = PairReader()
    known = [attribute(key, value).SerializeToString() for key in ("k", "key") for value in ("text", "", 5, -1, 300)]
    for raw in known:
        reader[raw]
    raw = bytearray(data.draw(st.sampled_from(known)))
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(raw)[: data.draw(st.integers(0, len(raw)))] + data.draw(st.binary(max_size=2))
    try:
        expected = PairReader().read(changed, 0)
    except (OddValue, UnicodeDecodeError) as error:
        with pytest.raises(type(error)):
            reader[changed]
        return
    assert same(list(reader[changed]), list(expected))


@pytest.mark.parametrize("size", [*range(120, 132), *range(248, 262), *range(16_370, 16_390)])
@pytest.mark.parametrize("key", ["", "k", "k" * 126, "k" * 127, "k" * 128], ids=len)
def test_texts_of_every_length_are_read_whatever_the_length_of_their_lengths(key: str, size: int) -> None:
    raw = attribute(key, "x" * size).SerializeToString()
    try:
        assert PairReader()[raw] == (key, "x" * size)
    except OddValue:
        assert not key or len(key) > 127


def test_a_long_text_with_any_of_its_first_bytes_changed_is_read_as_the_schema_reads_it_or_left_to_it() -> None:
    whole = attribute("key", "x" * 300).SerializeToString()
    for place in range(16):
        for byte in range(256):
            raw = whole[:place] + bytes([byte]) + whole[place + 1 :]
            try:
                key, value = PairReader()[raw]
            except (OddValue, UnicodeDecodeError):
                continue
            pair = KeyValue.FromString(raw)
            pair.DiscardUnknownFields()
            assert pair.key == key
            assert pair.value == any_value(value)


def test_an_array_that_is_cut_short_in_a_length_is_refused_as_such() -> None:
    payload = batch([b"*"], []).payload
    damaged = payload.replace(b"\x2a\x05\x0a\x03\x3a\x01*", b"\x2a\x05\x0a\x03\x2a\x01\x80")
    assert damaged != payload
    with pytest.raises(UndecodableBatch):
        decode(Batch(1, RECEIVED, "otlp_protobuf", damaged), 0)


def test_who_changes_a_list_changes_nobody_elses() -> None:
    given_batch = batch({"a": [1]}, [("b", {"c": []})])
    for _ in range(3):
        one = decode(given_batch)[0]
        assert one.body == {"a": [1]} and one.attributes == {"b": {"c": []}}
        assert isinstance(one.body, dict) and isinstance(one.attributes["b"], dict)
        one.body["a"].append(2)
        one.attributes["b"]["c"].append(3)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_values, "MAX_REMEMBERED", 10)
    reader = PairReader()
    for number in range(100):
        raw = attribute("k", number).SerializeToString()
        assert reader[raw] == reader[raw] == ("k", number)
        assert len(reader) <= 10
    long = attribute("k", "x" * 300).SerializeToString()
    assert reader[long] == ("k", "x" * 300)
    assert long not in reader
    monkeypatch.setattr(raw_values, "MAX_REMEMBERED_LISTS", 3)
    for number in range(20):
        raw = attribute(f"k{number}", [number]).SerializeToString()
        assert reader[raw] == reader[raw] == (f"k{number}", [number])
        assert len(reader._lists) <= 3 and len(reader._keys) <= 10
