"""Any bytes at the door: the laws of bench/fuzz/laws.py, from noise and from damaged real requests.

`python -m bench.fuzz otlp_protobuf` looks longer, guided by coverage.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.fuzz.laws import detector_law, inflate_law, otlp_law

EXAMPLES = 150


def key_value(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"key": st.text(max_size=4), "value": value})


any_value: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"stringValue": st.text()}),
        st.fixed_dictionaries({"intValue": st.one_of(st.integers(), st.integers().map(str), st.text(max_size=4))}),
        st.fixed_dictionaries({"doubleValue": st.one_of(st.floats(), st.sampled_from(["NaN", "Infinity", "x"]))}),
        st.fixed_dictionaries({"boolValue": st.one_of(st.booleans(), st.none(), st.text(max_size=4))}),
        st.fixed_dictionaries({"bytesValue": st.text(max_size=8)}),
        st.just({}),
        st.none(),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"arrayValue": st.fixed_dictionaries({"values": st.lists(inner, max_size=3)})}),
        st.fixed_dictionaries(
            {"kvlistValue": st.fixed_dictionaries({"values": st.lists(key_value(inner), max_size=3)})}
        ),
    ),
    max_leaves=6,
)
noise = st.one_of(st.none(), st.integers(), st.text(max_size=8), st.booleans(), st.lists(st.integers(), max_size=2))
log_record = st.dictionaries(
    st.sampled_from(["timeUnixNano", "observedTimeUnixNano", "severityNumber", "traceId", "spanId", "flags", "body"]),
    st.one_of(noise, any_value),
    max_size=4,
).flatmap(lambda base: any_value.map(lambda body: {"body": body} | base))


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=400))
def test_any_bytes_as_protobuf(payload: bytes) -> None:
    otlp_law("otlp_protobuf", payload)
    detector_law("otlp_protobuf", payload)


@settings(max_examples=EXAMPLES)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_as_json(payload: bytes) -> None:
    otlp_law("otlp_json", payload)


@settings(max_examples=EXAMPLES)
@given(st.lists(log_record, max_size=4), noise)
def test_requests_of_the_right_shape_with_anything_inside(records: list[Any], resource: Any) -> None:
    request = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}
    payload = json.dumps(request).encode("utf-8", "surrogatepass")
    otlp_law("otlp_json", payload)
    detector_law("otlp_json", payload)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_real_requests_with_damage(data: st.DataObject) -> None:
    request = ExportLogsServiceRequest()
    for number in range(3):
        record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=number)
        record.body.string_value = f"Failed password for root from 203.0.113.{number} port 22 ssh2"
    damaged = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    payload = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    otlp_law("otlp_protobuf", payload)
    detector_law("otlp_protobuf", payload)


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=300), st.integers(0, 20), st.integers(0, 255))
def test_any_bytes_and_damaged_gzip_inflate_within_the_limit(body: bytes, place: int, value: int) -> None:
    inflate_law(body)
    damaged = bytearray(gzip.compress(body))
    damaged[place % len(damaged)] = value
    inflate_law(bytes(damaged))
