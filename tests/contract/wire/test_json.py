"""OTLP/JSON is a dialect of its own: what is read, what is ignored, and what a mistake is called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detect.record import LogRecord
from tests.contract.wire.edge import Edge
from tests.contract.wire.lanes import post

HEADERS = {"content-type": "application/json", "authorization": "Bearer good"}


def body_of(record: dict[str, Any]) -> bytes:
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode()


async def stored(edge: Edge, record: dict[str, Any]) -> LogRecord:
    answer = await post(edge, body_of(record), HEADERS)
    assert (answer.status_code, answer.content) == (200, b"{}")
    [found] = edge.stored()
    return found


@pytest.mark.parametrize("trace", ["5b8efff798038103d269b633813fc60c", "5B8EFFF798038103D269B633813FC60C"])
async def test_ids_are_hex_in_any_case(edge: Edge, trace: str) -> None:
    record = await stored(edge, {"traceId": trace, "spanId": "EEE19B7EC3C1B174"})
    assert (record.trace_id, record.span_id) == ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174")


@pytest.mark.parametrize("number", [1544712660300000000, "1544712660300000000"])
async def test_64_bit_integers_are_numbers_or_strings(edge: Edge, number: int | str) -> None:
    record = await stored(
        edge,
        {"timeUnixNano": number, "observedTimeUnixNano": number, "body": {"intValue": number}, "flags": "1"},
    )
    assert (record.stated_ns, record.observed_ns, record.body, record.flags) == (*[1544712660300000000] * 3, 1)


async def test_enums_are_integers(edge: Edge) -> None:
    assert (await stored(edge, {"severityNumber": 17, "severityText": "ERROR"})).severity_number == 17


async def test_names_are_lower_camel_case_only(edge: Edge) -> None:
    """The original field names, which proto JSON would take as well, are unknown fields here and so ignored."""
    record = await stored(
        edge,
        {
            "time_unix_nano": "1",
            "severity_number": 9,
            "TimeUnixNano": "2",
            "body": {"string_value": "snake", "StringValue": "Pascal"},
            "event_name": "no",
            "attributes": [{"key": "k", "value": {"int_value": 1}}],
        },
    )
    assert (record.stated_ns, record.severity_number, record.body, record.event_name) == (0, 0, None, "")
    assert record.attributes == {"k": None}


async def test_bytes_are_base64(edge: Edge) -> None:
    assert (await stored(edge, {"body": {"bytesValue": "AP/+"}})).body == b"\x00\xff\xfe"


async def test_null_is_the_same_as_absent(edge: Edge) -> None:
    names = ("timeUnixNano", "severityNumber", "severityText", "body", "attributes", "traceId", "flags", "eventName")
    record = await stored(edge, dict.fromkeys(names))
    assert (record.stated_ns, record.severity_text, record.body, record.attributes) == (0, "", None, {})


@pytest.mark.parametrize("line", [b"\xff\xfe broken", rb"\ud800 alone"])
async def test_text_that_is_no_text_costs_no_neighbour(edge: Edge, line: bytes) -> None:
    body = body_of({"body": {"stringValue": "?"}}).replace(b"?", line)
    assert (await post(edge, body, HEADERS)).status_code == 200
    assert "\N{REPLACEMENT CHARACTER}" in str(edge.stored()[0].body)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"traceId": "not hex"}, "traceId"),
        ({"spanId": "abc"}, "spanId"),
        ({"timeUnixNano": "2026-11-22"}, "timeUnixNano"),
        ({"timeUnixNano": -1}, "timeUnixNano"),
        ({"timeUnixNano": 2**64}, "timeUnixNano"),
        ({"flags": 2**32}, "flags"),
        ({"body": {"intValue": 2**63}}, "body.intValue"),
        ({"body": {"bytesValue": "*"}}, "body.bytesValue"),
        ({"attributes": [{"key": "k", "value": {"intValue": "1.5"}}]}, "attributes[0].value.intValue"),
    ],
)
async def test_a_value_that_its_field_cannot_hold_is_named(edge: Edge, record: dict[str, Any], field: str) -> None:
    answer = await post(edge, body_of(record), HEADERS)
    assert answer.status_code == 400
    [violation] = answer.json()["details"][0]["fieldViolations"]
    assert violation["field"] == f"resourceLogs[0].scopeLogs[0].logRecords[0].{field}"
    assert edge.journal.rows == []


@pytest.mark.parametrize("body", [b"", b"   ", b"nonsense", b"[]", b"7", b'{"resourceLogs":[', b'{"resourceLogs":{}}'])
async def test_what_is_no_json_object_is_400(edge: Edge, body: bytes) -> None:
    answer = await post(edge, body, HEADERS)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert edge.journal.rows == []
