"""What a request becomes: every record with all its parts, the same from protobuf and from JSON."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from detect.batch import Batch
from detect.otlp import MAX_DEPTH, UndecodableBatch, count_records, decode
from detect.record import LogRecord, RecordRef, canonical_json

RECEIVED = 1_764_547_200_000_000_000
SECOND = 10**9


def json_batch(*records: dict[str, Any], resource: list[Any] | None = None) -> Batch:
    request = {
        "resourceLogs": [
            {
                "resource": {"attributes": resource or []},
                "scopeLogs": [{"scope": {"name": "app"}, "logRecords": list(records)}],
            }
        ]
    }
    return Batch(seq=7, received_ns=RECEIVED, kind="otlp_json", payload=json.dumps(request).encode())


def only(batch: Batch) -> LogRecord:
    records = decode(batch)
    assert len(records) == count_records(batch.kind, batch.payload) == 1
    return records[0]


def protobuf_request() -> tuple[ExportLogsServiceRequest, Any]:
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    host = resource_logs.resource.attributes.add(key="host.name")
    host.value.string_value = "web01"
    scope_logs = resource_logs.scope_logs.add()
    scope_logs.scope.name = "app"
    return request, scope_logs.log_records.add()


def protobuf_batch(request: ExportLogsServiceRequest) -> Batch:
    return Batch(seq=7, received_ns=RECEIVED, kind="otlp_protobuf", payload=request.SerializeToString())


def test_json_and_protobuf_give_the_same_record() -> None:
    request, record = protobuf_request()
    record.time_unix_nano = RECEIVED - SECOND
    record.observed_time_unix_nano = RECEIVED
    record.severity_number = 9
    record.severity_text = "INFO"
    record.trace_id = bytes.fromhex("5b8efff798038103d269b633813fc60c")
    record.span_id = bytes.fromhex("eee19b7ec3c1b174")
    record.flags = 1
    record.event_name = "login"
    record.dropped_attributes_count = 2
    record.body.string_value = "hello"
    for key, value in {
        "empty text": AnyValue(string_value=""),
        "whole": AnyValue(int_value=-(2**63)),
        "real": AnyValue(double_value=1.5),
        "yes": AnyValue(bool_value=True),
        "raw": AnyValue(bytes_value=b"\x00\xff"),
        "nothing": AnyValue(),
    }.items():
        record.attributes.add(key=key).value.CopyFrom(value)
    nested = record.attributes.add(key="nested").value.kvlist_value
    nested.values.add(key="list").value.array_value.values.add().int_value = 3
    as_json = json_batch(
        {
            "timeUnixNano": str(RECEIVED - SECOND),
            "observedTimeUnixNano": RECEIVED,
            "severityNumber": "SEVERITY_NUMBER_INFO",
            "severityText": "INFO",
            "traceId": "5B8EFFF798038103D269B633813FC60C",
            "spanId": "eee19b7ec3c1b174",
            "flags": 1,
            "eventName": "login",
            "droppedAttributesCount": 2,
            "body": {"stringValue": "hello"},
            "attributes": [
                {"key": "empty text", "value": {"stringValue": ""}},
                {"key": "whole", "value": {"intValue": str(-(2**63))}},
                {"key": "real", "value": {"doubleValue": 1.5}},
                {"key": "yes", "value": {"boolValue": True}},
                {"key": "raw", "value": {"bytesValue": base64.b64encode(b"\x00\xff").decode()}},
                {"key": "nothing", "value": {}},
                {
                    "key": "nested",
                    "value": {
                        "kvlistValue": {
                            "values": [{"key": "list", "value": {"arrayValue": {"values": [{"intValue": "3"}]}}}]
                        }
                    },
                },
            ],
            "unknownField": [1, {"deep": None}],
        },
        resource=[{"key": "host.name", "value": {"stringValue": "web01"}}],
    )
    record_from_json = only(as_json)
    assert record_from_json == only(protobuf_batch(request))
    assert record_from_json.ref == RecordRef(7, 0)
    assert record_from_json.attributes["nested"] == {"list": [3]}
    assert record_from_json.attributes["nothing"] is None


def test_records_are_numbered_through_all_resources_and_scopes() -> None:
    request = ExportLogsServiceRequest()
    for _ in range(2):
        resource_logs = request.resource_logs.add()
        for _ in range(2):
            resource_logs.scope_logs.add().log_records.add()
    records = decode(protobuf_batch(request))
    assert [str(record.ref) for record in records] == ["7-0", "7-1", "7-2", "7-3"]


@pytest.mark.parametrize(("kind", "payload"), [("otlp_protobuf", b""), ("otlp_json", b"{}"), ("control", b"{}")])
def test_a_request_without_records_is_valid_and_holds_none(kind: Any, payload: bytes) -> None:
    assert count_records(kind, payload) == 0
    assert decode(Batch(seq=1, received_ns=RECEIVED, kind=kind, payload=payload)) == []


@pytest.mark.parametrize(
    ("stated", "observed", "time", "mark"),
    [
        (RECEIVED - 5, 0, RECEIVED - 5, ""),
        (0, RECEIVED - 9, RECEIVED - 9, ""),
        (0, 0, RECEIVED, "unset"),
        (RECEIVED + 300 * SECOND, 0, RECEIVED + 300 * SECOND, ""),
        (RECEIVED + 300 * SECOND + 1, 0, RECEIVED, "future"),
        (2**64 - 1, 3, RECEIVED, "future"),
    ],
)
def test_the_event_time_is_stated_then_observed_then_received_and_never_in_the_future(
    stated: int, observed: int, time: int, mark: str
) -> None:
    record = only(json_batch({"timeUnixNano": stated, "observedTimeUnixNano": observed}))
    assert (record.time_ns, record.time_mark, record.stated_ns) == (time, mark, stated)


def test_the_last_of_duplicate_attribute_keys_wins() -> None:
    pairs = [{"key": "a", "value": {"intValue": 1}}, {"key": "a", "value": {"stringValue": "two"}}]
    assert only(json_batch({"attributes": pairs})).attributes == {"a": "two"}


def test_snake_case_names_are_not_accepted() -> None:
    record = only(json_batch({"time_unix_nano": 5, "severity_number": 3, "body": {"string_value": "x"}}))
    assert (record.stated_ns, record.severity_number, record.body) == (0, 0, None)


@pytest.mark.parametrize(("text", "expected"), [("NaN", math.isnan), ("-Infinity", math.isinf), ("2.5", None)])
def test_doubles_may_be_text_and_not_finite_and_still_have_canonical_json(text: str, expected: Any) -> None:
    record = only(json_batch({"body": {"doubleValue": text}}))
    assert isinstance(record.body, float)
    assert expected is None or expected(record.body)
    assert json.loads(canonical_json(record))["body"] == (None if expected else 2.5)


def test_a_lone_surrogate_is_mended_and_the_other_records_survive() -> None:
    payload = json_batch({"body": {"stringValue": "SURROGATE"}}, {"body": {"stringValue": "second"}}).payload
    payload = payload.replace(b"SURROGATE", rb"a\ud800b \ud83d\ude00 \\ud800 \udc00 \u0000")
    records = decode(Batch(seq=7, received_ns=RECEIVED, kind="otlp_json", payload=payload))
    assert records[0].body == "a\ufffdb \U0001f600 \\ud800 \ufffd \x00"
    assert records[1].body == "second"


def test_json_bytes_that_are_not_utf8_are_mended() -> None:
    payload = b"\xef\xbb\xbf" + json_batch({"body": {"stringValue": "BROKEN"}}).payload.replace(b"BROKEN", b"a\xffb")
    assert only(Batch(seq=7, received_ns=RECEIVED, kind="otlp_json", payload=payload)).body == "a\ufffdb"


def test_protobuf_text_that_is_not_utf8_is_mended_and_the_other_records_survive() -> None:
    request, record = protobuf_request()
    record.body.string_value = "broken ~~ line"
    record.attributes.add(key="k~~").value.string_value = "v~~"
    request.resource_logs[0].scope_logs[0].log_records.add().body.string_value = "fine"
    payload = request.SerializeToString().replace(b"~~", b"\xff\xfe")
    batch = Batch(seq=7, received_ns=RECEIVED, kind="otlp_protobuf", payload=payload)
    first, second = decode(batch)
    assert count_records("otlp_protobuf", payload) == 2
    assert (first.body, first.attributes) == ("broken \ufffd\ufffd line", {"k\ufffd\ufffd": "v\ufffd\ufffd"})
    assert second.body == "fine"


def test_a_line_of_one_mebibyte_with_nul_is_kept_whole() -> None:
    line = "x" * 2**20 + "\x00"
    request, record = protobuf_request()
    record.body.string_value = line
    assert only(protobuf_batch(request)).body == line
    assert only(json_batch({"body": {"stringValue": line}})).body == line


def nested_json(levels: int) -> bytes:
    value = '{"stringValue":"x"}'
    for _ in range(levels):
        value = f'{{"arrayValue":{{"values":[{value}]}}}}'
    return f'{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{value}}}]}}]}}]}}'.encode()


def nested_protobuf(levels: int) -> bytes:
    """Written by hand, because the library refuses to write what it would not read."""

    def field(tag: int, payload: bytes) -> bytes:
        size, length = len(payload), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([tag]) + length + bytes([size]) + payload

    value = field(0x0A, b"x")
    for _ in range(levels):
        value = field(0x2A, field(0x0A, value))
    return field(0x0A, field(0x12, field(0x12, field(0x2A, value))))


def test_values_may_nest_up_to_the_limit() -> None:
    assert count_records("otlp_json", nested_json(MAX_DEPTH)) == 1
    assert count_records("otlp_protobuf", nested_protobuf(48)) == 1


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 200, 5000])
def test_deeper_json_is_refused_with_a_clear_error(levels: int) -> None:
    with pytest.raises(UndecodableBatch, match="nest deeper than 64 levels"):
        count_records("otlp_json", nested_json(levels))


@pytest.mark.parametrize("levels", [49, MAX_DEPTH, 5000])
def test_deeper_protobuf_is_refused_by_the_count_and_by_the_decoder(levels: int) -> None:
    payload = nested_protobuf(levels)
    with pytest.raises(UndecodableBatch, match="nests too deeply"):
        count_records("otlp_protobuf", payload)
    with pytest.raises(UndecodableBatch, match="nests too deeply"):
        decode(Batch(seq=1, received_ns=RECEIVED, kind="otlp_protobuf", payload=payload))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"timeUnixNano": -1}, r"resourceLogs\[0\].scopeLogs\[0\].logRecords\[0\].timeUnixNano: -1 is outside"),
        ({"timeUnixNano": str(2**64)}, "timeUnixNano: 18446744073709551616 is outside"),
        ({"timeUnixNano": "soon"}, "timeUnixNano: 'soon' is not a decimal integer"),
        ({"timeUnixNano": []}, r"Expected `int \| str \| null`, got `array` - at `\$.resourceLogs"),
        ({"body": {"intValue": 2**63}}, "body.intValue: 9223372036854775808 is outside"),
        ({"body": {"intValue": "9" * 5000}}, "is not a decimal integer"),
        ({"attributes": [{"key": "a", "value": {"bytesValue": "?"}}]}, r"attributes\[0\].value.bytesValue: .* base64"),
        ({"traceId": "xyz"}, "traceId: 'xyz' is not hexadecimal"),
        ({"severityNumber": "LOUD"}, "severityNumber: 'LOUD'"),
        ({"flags": -1}, "flags: -1 is outside"),
    ],
)
def test_a_value_that_its_field_cannot_hold_is_named_with_its_place(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UndecodableBatch, match=message):
        count_records("otlp_json", json_batch(record).payload)


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"[]", b'{"resourceLogs":[', b'{"resourceLogs":{}}', b"\xff\xfe\x00"]
)
def test_what_is_no_json_request_is_refused(payload: bytes) -> None:
    with pytest.raises(UndecodableBatch, match="not valid OTLP/JSON"):
        count_records("otlp_json", payload)


@pytest.mark.parametrize("payload", [b"hello", b"\x0a\xff\xff\xff\xff\x0f", b'{"resourceLogs":[]}'])
def test_what_is_no_protobuf_request_is_refused(payload: bytes) -> None:
    with pytest.raises(UndecodableBatch, match="not an ExportLogsServiceRequest"):
        count_records("otlp_protobuf", payload)


@given(payload=st.binary(max_size=300), kind=st.sampled_from(["otlp_protobuf", "otlp_json"]))
def test_any_bytes_are_either_counted_and_decoded_alike_or_refused(payload: bytes, kind: Any) -> None:
    batch = Batch(seq=1, received_ns=RECEIVED, kind=kind, payload=payload)
    try:
        expected = count_records(kind, payload)
    except UndecodableBatch:
        with pytest.raises(UndecodableBatch):
            decode(batch)
    else:
        records = decode(batch)
        assert len(records) == expected
        assert all(canonical_json(record) for record in records)
