"""Whole requests: both encodings mask alike, records keep their places, and nothing that failed stays in clear."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.masking import Masker, MaskingKey, RequestKind, Undecodable, parse_policy
from detect.batch import Batch, BatchKind
from detect.otlp import decode
from detect.record import LogRecord

KEY = MaskingKey(b"k" * 32)
TRACE = "0102030405060708090a0b0c0d0e0f10"
KINDS: tuple[RequestKind, ...] = ("otlp_protobuf", "otlp_json")

TEXTS = st.sampled_from(["alice", "203.0.113.7", "x", "", "a@b.example", "user=bob", '{"user":"eve","n":1.0}'])
SCALARS = st.one_of(
    TEXTS.map(lambda text: {"stringValue": text}),
    st.booleans().map(lambda value: {"boolValue": value}),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: {"intValue": str(value)}),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda value: {"doubleValue": value}),
    st.binary(max_size=6).map(lambda raw: {"bytesValue": base64.b64encode(raw).decode()}),
    st.just({}),
)
KEYS = st.sampled_from(["user", "password", "src.ip", "version", "note", "user.name"])


def pairs(values: Any) -> Any:
    return st.lists(st.builds(lambda key, value: {"key": key, "value": value}, KEYS, values), max_size=3)


ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: {"arrayValue": {"values": items}})
        | pairs(inner).map(lambda items: {"kvlistValue": {"values": items}})
    ),
    max_leaves=6,
)
RECORDS = st.fixed_dictionaries(
    {"body": ANY, "attributes": pairs(ANY), "timeUnixNano": st.integers(1, 2**62).map(str)},
    optional={"severityText": TEXTS, "eventName": TEXTS, "severityNumber": st.integers(0, 24)},
)
REQUESTS = st.lists(RECORDS, max_size=4).map(lambda records: request(records))  # noqa: PLW0108  # defined below


def request(records: list[Any], resource: Any = ()) -> dict[str, Any]:
    described = {"attributes": list(resource) or [{"key": "host.name", "value": {"stringValue": "web-1"}}]}
    return {"resourceLogs": [{"resource": described, "scopeLogs": [{"scope": {"name": "s"}, "logRecords": records}]}]}


def encoded(content: Any, kind: RequestKind) -> bytes:
    if kind == "otlp_json":
        return orjson.dumps(content)
    # Ids are hex in OTLP/JSON and base64 in protobuf's own.
    content = orjson.loads(orjson.dumps(content).replace(TRACE.encode(), base64.b64encode(bytes.fromhex(TRACE))))
    return json_format.ParseDict(content, ExportLogsServiceRequest()).SerializeToString()


def decoded(body: bytes, kind: BatchKind) -> list[LogRecord]:
    return decode(Batch(1, 2**62, kind, body))


def line(text: str) -> dict[str, Any]:
    return {"timeUnixNano": "1700000000000000000", "severityNumber": 9, "body": {"stringValue": text}}


@given(REQUESTS)
def test_both_encodings_are_masked_alike(content: Any) -> None:
    one, two = Masker(KEY), Masker(KEY)
    records = decoded(one.transform(encoded(content, "otlp_protobuf"), "otlp_protobuf"), "otlp_protobuf")
    assert records == decoded(two.transform(encoded(content, "otlp_json"), "otlp_json"), "otlp_json")
    assert one.tally.counts() == two.tally.counts()


@given(REQUESTS, st.sampled_from(KINDS))
def test_every_record_keeps_its_place_time_and_severity(content: Any, kind: RequestKind) -> None:
    before = decoded(encoded(content, kind), kind)
    masker = Masker(KEY)
    after = decoded(masker.transform(encoded(content, kind), kind), kind)
    stable = [(one.ref, one.time_ns, one.stated_ns, one.severity_number, list(one.attributes)) for one in before]
    assert stable == [(one.ref, one.time_ns, one.stated_ns, one.severity_number, list(one.attributes)) for one in after]
    assert masker.tally.records == len(before)
    assert masker.tally.records_failed == 0


@given(REQUESTS, st.sampled_from(KINDS))
def test_the_same_request_is_masked_the_same_by_a_warm_and_a_fresh_masker(content: Any, kind: RequestKind) -> None:
    """The bytes are what a batch's digest is of: a forwarder that starts again must not make another batch of it."""
    body, warm = encoded(content, kind), Masker(KEY)
    first = warm.transform(body, kind)
    assert warm.transform(body, kind) == first == Masker(KEY).transform(body, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_holds_text_is_masked(kind: RequestKind) -> None:
    secret = "bob@corp.example"
    value = {"stringValue": secret}
    content = request(
        [
            {
                "body": {"kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {"values": [value]}}}]}},
                "attributes": [{"key": "k", "value": value}],
                "severityText": secret,
                "eventName": secret,
            },
            line(f"a {secret}"),
            {"body": {"bytesValue": base64.b64encode(secret.encode()).decode()}},
        ],
        resource=[{"key": "owner", "value": value}],
    )
    content["resourceLogs"][0]["scopeLogs"][0]["scope"] = {
        "name": secret,
        "attributes": [{"key": "k", "value": value}],
    }
    masker = Masker(KEY)
    found = masker.transform(encoded(content, kind), kind)
    raw = base64.b64encode(secret.encode())
    assert secret.encode() not in found and raw not in found
    token = masker.tokens.email(secret)
    assert token is not None
    assert decoded(found, kind)[1].body == f"a {token}"
    assert masker.tally.rules["mail-in-text"] == 9


@pytest.mark.parametrize("kind", KINDS)
def test_keys_stay(kind: RequestKind) -> None:
    content = request([{"attributes": [{"key": "bob@corp.example", "value": {"stringValue": "x"}}]}])
    [record] = decoded(Masker(KEY).transform(encoded(content, kind), kind), kind)
    assert record.attributes == {"bob@corp.example": "x"}


@pytest.mark.parametrize("kind", KINDS)
def test_binary_content_is_redacted_unless_the_policy_keeps_it(kind: RequestKind) -> None:
    raw = "alice".encode("utf-16")
    content = request([{"body": {"bytesValue": base64.b64encode(raw).decode()}}])
    [record] = decoded(Masker(KEY).transform(encoded(content, kind), kind), kind)
    assert record.body == b"[redacted:binary]"
    keeping = Masker(KEY, parse_policy("version: 1\nbinary: keep"))
    [kept] = decoded(keeping.transform(encoded(content, kind), kind), kind)
    assert kept.body == raw


def too_deep(depth: int = 66) -> dict[str, Any]:
    """A record that is fine but for a JSON text that nobody can judge."""
    return line('{"a":' * depth + '"alice"' + "}" * depth) | {
        "attributes": [{"key": "note", "value": {"stringValue": "alice was here"}}],
        "severityText": "alice",
        "traceId": TRACE,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_cannot_be_masked_is_stored_without_its_content(kind: RequestKind) -> None:
    masker = Masker(KEY)
    found = masker.transform(encoded(request([line("one"), too_deep(), line("three")]), kind), kind)
    assert b"alice" not in found
    one, failed, three = decoded(found, kind)
    assert (one.body, three.body) == ("one", "three")
    assert failed.body == "[not stored: this record could not be masked (Unmaskable)]"
    assert failed.attributes == {"trustsoc.masking": "failed"}
    assert failed.severity_number == 9
    assert failed.stated_ns == 1700000000000000000
    assert failed.trace_id == TRACE
    assert masker.tally.counts()["records_failed"] == 1
    assert masker.tally.counts()["records_clear"] == 0
    assert masker.tally.last_failure == "Unmaskable"


@pytest.mark.parametrize("kind", KINDS)
def test_open_mode_keeps_it_and_counts_it(kind: RequestKind) -> None:
    masker = Masker(KEY, parse_policy("version: 1\nfail: open"))
    body = encoded(request([too_deep()]), kind)
    assert decoded(masker.transform(body, kind), kind) == decoded(body, kind)
    assert masker.tally.counts()["records_clear"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_resource_that_cannot_be_masked_loses_its_attributes(kind: RequestKind) -> None:
    value = {"stringValue": '{"a":' * 66 + '"alice"' + "}" * 66}
    masker = Masker(KEY)
    found = masker.transform(encoded(request([line("one")], [{"key": "owner", "value": value}]), kind), kind)
    [record] = decoded(found, kind)
    assert record.resource == {}
    assert record.body == "one"
    assert masker.tally.records_failed == 1


def test_what_the_schema_does_not_know_is_left_out() -> None:
    known = ExportLogsServiceRequest()
    known.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "hello"
    unknown = b"\xfa\x07\x05alice"  # field 127, length-delimited
    masked = Masker(KEY).transform(known.SerializeToString() + unknown, "otlp_protobuf")
    assert b"alice" not in masked
    body = encoded(request([line("hello") | {"comment": "alice"}]), "otlp_json")
    assert b"alice" not in Masker(KEY).transform(body, "otlp_json")


def test_text_that_is_no_utf8_costs_no_record() -> None:
    known = encoded(request([line("caf? from 203.0.113.7"), line("two")]), "otlp_protobuf")
    broken = known.replace(b"caf?", b"caf\xe9")
    masker = Masker(KEY)
    one, two = decoded(masker.transform(broken, "otlp_protobuf"), "otlp_protobuf")
    assert one.body == f"caf� from {masker.tokens.addresses.token_text('203.0.113.7')}"
    assert two.body == "two"
    text = orjson.dumps(request([line("caf? from 203.0.113.7")])).replace(b"caf?", b"caf\xe9")
    [mended] = decoded(Masker(KEY).transform(text, "otlp_json"), "otlp_json")
    assert mended.body == one.body
    [escaped] = decoded(Masker(KEY).transform(text.replace(b"\xe9", b"\\ud800"), "otlp_json"), "otlp_json")
    assert escaped.body == one.body


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b'"x"', b"{", b'{"resourceLogs":1}', b'{"resourceLogs":[1]}',
     b'{"resourceLogs":[{"resource":"alice"}]}',
     b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"alice"}]}]}]}',
     b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"alice"}]}]}]}',
     b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":"alice"}]}]}]}', b"NaN"],
)  # fmt: skip
def test_what_is_no_json_request_is_refused(body: bytes) -> None:
    with pytest.raises(Undecodable):
        Masker(KEY).transform(body, "otlp_json")


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05a", b"hello world"])
def test_what_is_no_protobuf_request_is_refused(body: bytes) -> None:
    with pytest.raises(Undecodable):
        Masker(KEY).transform(body, "otlp_protobuf")


@given(st.binary(max_size=60), st.sampled_from(KINDS))
def test_any_bytes_are_masked_or_refused(body: bytes, kind: RequestKind) -> None:
    try:
        Masker(KEY).transform(body, kind)
    except Undecodable:
        return
