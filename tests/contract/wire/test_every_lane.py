"""What holds for every door, format and compression: one table of the OTLP specification, run over all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.otlp_values import any_value, attribute
from store.journal import Overloaded
from store.postgres import StorageUnavailable
from tests.contract.wire.edge import INFLATED_LIMIT, RECEIVED_NS, SENT_LIMIT, TENANT, Edge
from tests.contract.wire.lanes import COMPRESSORS, LANES, Lane, request

OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
LARGEST_ANSWER = 4096


GOOD = request("one", "two")


def lanes(*encodings: str) -> pytest.MarkDecorator:
    """The lanes with these compressions only."""
    chosen = [lane for lane in LANES if lane.encoding in encodings]
    return pytest.mark.parametrize("lane", chosen, ids=lambda lane: lane.name)


async def test_success_is_empty_and_the_body_is_kept_as_it_came(edge: Edge, lane: Lane) -> None:
    packed = lane.pack(request("one" * 500, "two"))
    reply = await lane.send(edge, packed)
    assert reply.says(200)
    assert not reply.partial_success
    assert reply.size <= 2
    [row] = edge.journal.rows
    assert (row.tenant, row.agent, row.kind, row.encoding, row.records) == (
        TENANT,
        "agent-1",
        lane.kind,
        lane.encoding,
        2,
    )
    assert len(row.payload) < 500 or lane.encoding == "identity"
    assert [record.body for record in edge.stored()] == ["one" * 500, "two"]


@pytest.mark.parametrize("lines", [None, ()], ids=["nothing", "no records"])
async def test_an_empty_request_is_a_success_that_stores_nothing(edge: Edge, lane: Lane, lines: Any) -> None:
    packed = lane.pack(ExportLogsServiceRequest() if lines is None else request(*lines))
    reply = await lane.send(edge, packed)
    assert reply.says(200)
    assert not reply.partial_success
    assert edge.journal.rows == []


async def test_a_repeat_is_acknowledged_with_the_place_of_the_first(edge: Edge, lane: Lane) -> None:
    packed = lane.pack(GOOD)
    first, again = await lane.send(edge, packed), await lane.send(edge, packed)
    assert (first.headers["x-batch-seq"], first.headers["x-batch-duplicate"]) == ("1", "false")
    assert (again.headers["x-batch-seq"], again.headers["x-batch-duplicate"]) == ("1", "true")
    assert len(edge.journal.rows) == 1
    door = "otlp_grpc" if lane.name.startswith("grpc") else "otlp_http"
    stored = edge.metrics.registry.get_sample_value("trustsoc_ingest_door_records_total", {"door": door})
    assert stored == edge.journal.rows[0].records, "counted once, by its door"


async def test_an_idempotency_key_stands_for_one_body(edge: Edge, lane: Lane) -> None:
    assert (await lane.send(edge, lane.pack(GOOD), x_idempotency_key="batch-7")).says(200)
    again = await lane.send(edge, lane.pack(GOOD), x_idempotency_key="batch-7")
    assert again.headers["x-batch-duplicate"] == "true"
    other = await lane.send(edge, lane.pack(request("three")), x_idempotency_key="batch-7")
    assert other.says(400)
    assert "X-Idempotency-Key" in other.message
    assert edge.refusals("key_reused") == 1
    assert len(edge.journal.rows) == 1


@pytest.mark.parametrize(
    ("key", "names", "status", "reason", "message"),
    [
        ("", {}, 401, "unauthenticated", "no API key"),
        ("unknown", {}, 401, "unauthenticated", "unknown"),
        ("revoked", {}, 401, "unauthenticated", "revoked"),
        ("reader", {}, 403, "forbidden", "lacks the scope 'ingest'"),
        ("good", {"x_client_id": OTHER_TENANT}, 403, "forbidden", "another tenant"),
        ("good", {"x_idempotency_key": "k" * 121}, 400, "malformed", "X-Idempotency-Key"),
    ],
)
async def test_a_refused_sender_hears_why_once_and_for_all(
    edge: Edge, lane: Lane, key: str, names: dict[str, str], status: int, reason: str, message: str
) -> None:
    reply = await lane.send(edge, lane.pack(GOOD), key=key, **names)
    assert reply.says(status)
    assert message in reply.message
    assert reply.retry_after_s is None
    assert "RetryInfo" not in reply.details
    assert edge.refusals(reason) == 1
    await assert_nothing_stored_and_the_next_is_taken(edge, lane)


async def test_the_tenant_may_be_named_by_id_or_by_name(edge: Edge, lane: Lane) -> None:
    assert (await lane.send(edge, lane.pack(GOOD), x_client_id=str(TENANT))).says(200)
    assert (await lane.send(edge, lane.pack(GOOD), x_client_id="acme")).says(200)


async def test_what_is_no_request_is_400_with_bad_request(edge: Edge, lane: Lane) -> None:
    reply = await lane.send(edge, b'\x0a\xff\xff{"resourceLogs": 7}')
    assert reply.says(400)
    [violation] = reply.details["BadRequest"].field_violations
    assert violation.description == reply.message
    assert edge.refusals("malformed") == 1
    await assert_nothing_stored_and_the_next_is_taken(edge, lane)


async def test_a_body_over_the_limit_is_final(edge: Edge, lane: Lane) -> None:
    reply = await lane.send(edge, b"\x1f" * (SENT_LIMIT + 1), raw=True)
    assert reply.says(413)
    assert reply.retry_after_s is None
    assert "RetryInfo" not in reply.details
    assert edge.refusals("too_large") == 1
    await assert_nothing_stored_and_the_next_is_taken(edge, lane)


@lanes("identity")
async def test_a_body_at_the_limit_is_taken(edge: Edge, lane: Lane) -> None:
    packed = lane.pack(request("x" * (SENT_LIMIT - len(lane.pack(request(""))) - 40)))
    assert SENT_LIMIT - 60 < len(packed) <= SENT_LIMIT
    assert (await lane.send(edge, packed)).says(200)


@lanes("gzip", "deflate", "zstd")
async def test_a_bomb_stops_at_the_cap(edge: Edge, lane: Lane) -> None:
    bomb = COMPRESSORS[lane.encoding](bytes(20 * INFLATED_LIMIT))
    assert len(bomb) < SENT_LIMIT
    reply = await lane.send(edge, bomb, raw=True)
    assert reply.says(413)
    assert f"decompressed body is larger than {INFLATED_LIMIT} bytes" in reply.message
    assert reply.retry_after_s is None
    await assert_nothing_stored_and_the_next_is_taken(edge, lane)


@lanes("gzip", "deflate", "zstd")
async def test_a_truncated_body_is_not_taken_for_its_first_half(edge: Edge, lane: Lane) -> None:
    body = COMPRESSORS[lane.encoding](lane.pack(request("line " * 500)))
    for cut in (len(body) - 1, len(body) // 2, 4):
        reply = await lane.send(edge, body[:cut], raw=True)
        assert reply.says(400)
        assert "ends before its end" in reply.message
    await assert_nothing_stored_and_the_next_is_taken(edge, lane)


@lanes("gzip", "zstd")
async def test_members_and_frames_may_follow_one_another(edge: Edge, lane: Lane) -> None:
    packed, compress = lane.pack(GOOD), COMPRESSORS[lane.encoding]
    body = compress(packed[:5]) + compress(b"") + compress(packed[5:])
    assert (await lane.send(edge, body, raw=True)).says(200)
    assert [record.body for record in edge.stored()] == ["one", "two"]


@pytest.mark.parametrize(
    ("trouble", "seconds"),
    [(Overloaded(2.0), 2), (StorageUnavailable("disk full", 30.0), 30), (OSError("a defect"), 30)],
    ids=["overloaded", "storage", "defect"],
)
async def test_trouble_on_this_side_is_503_and_says_when_to_come_back(
    edge: Edge, lane: Lane, trouble: Exception, seconds: int
) -> None:
    edge.journal.trouble = trouble
    reply = await lane.send(edge, lane.pack(GOOD))
    assert reply.says(503)
    assert reply.retry_after_s == seconds
    assert reply.details["RetryInfo"].retry_delay.seconds == seconds
    edge.journal.trouble = None
    await assert_nothing_stored_and_the_next_is_taken(edge, lane)


async def test_a_defect_of_ours_costs_no_data(edge: Edge, lane: Lane) -> None:
    reply = await lane.send(edge, lane.pack(GOOD), key="unlucky")
    assert reply.says(503)
    assert "ZeroDivision" not in reply.message
    assert reply.retry_after_s
    assert edge.refusals("internal") == 1


async def test_a_rate_limit_is_429_and_says_when_to_come_back(edge: Edge, lane: Lane) -> None:
    reply = await lane.send(edge, lane.pack(GOOD), key="hurried")
    assert reply.says(429)
    assert reply.retry_after_s == 7
    assert reply.details["RetryInfo"].retry_delay.seconds == 7
    assert edge.refusals("rate_limited") == 1


@pytest.mark.parametrize("text", ["\x00" * 9000, '"\\' * 9000, "\N{FIRE}" * 9000, "%" * 9000])
async def test_no_answer_reaches_four_kilobytes(edge: Edge, lane: Lane, text: str) -> None:
    edge.journal.trouble = Overloaded(1.0)
    replies = [await lane.send(edge, lane.pack(request(text)))]
    edge.journal.trouble = None
    packed = b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "%s"}]}]}]}' % text.encode()
    replies.append(await lane.send(edge, packed))
    for reply in replies:
        assert not reply.says(200)
        assert reply.size < LARGEST_ANSWER


async def test_every_field_of_a_record_arrives(edge: Edge, lane: Lane) -> None:
    message = ExportLogsServiceRequest()
    resource_logs = message.resource_logs.add(schema_url="https://opentelemetry.io/schemas/1.30.0")
    resource_logs.resource.attributes.add(key="host.name").value.string_value = "web-1"
    scope_logs = resource_logs.scope_logs.add(schema_url="https://opentelemetry.io/schemas/1.30.0")
    scope_logs.scope.name = "sshd"
    record = scope_logs.log_records.add()
    record.time_unix_nano, record.observed_time_unix_nano = 2**63 - 1, 17
    record.severity_number, record.severity_text = 17, "ERROR"
    record.body.string_value = "text"
    record.trace_id, record.span_id, record.flags = bytes(range(16)), b"\xff" * 8, 2**32 - 1
    record.event_name, record.dropped_attributes_count = "login", 3
    assert (await lane.send(edge, lane.pack(message))).says(200)
    [stored] = edge.stored()
    assert (stored.stated_ns, stored.observed_ns) == (2**63 - 1, 17)
    assert (stored.severity_number, stored.severity_text, stored.body) == (17, "ERROR", "text")
    assert (stored.trace_id, stored.span_id, stored.flags) == (bytes(range(16)).hex(), "ff" * 8, 2**32 - 1)
    assert (stored.event_name, stored.dropped_attributes) == ("login", 3)
    assert (stored.resource, stored.scope) == ({"host.name": "web-1"}, "sshd")


def every_kind() -> dict[str, Any]:
    return {
        "text": "caf\u00e9 \N{FIRE} \x00",
        "empty text": "",
        "true": True,
        "false": False,
        "largest": 2**63 - 1,
        "smallest": -(2**63),
        "zero": 0,
        "double": 1.5e300,
        "minus zero": -0.0,
        "infinity": math.inf,
        "bytes": b"\x00\xff\xfe",
        "no bytes": b"",
        "nothing": None,
        "array": ["a", 1, True, None, [2.5, []], {"k": "v"}],
        "kvlist": {"a": {"b": {"c": [1]}}, "": "empty key"},
    }


async def test_all_kinds_of_values_arrive_as_attributes_and_as_bodies(edge: Edge, lane: Lane) -> None:
    message = request(*("placeholder" for _ in every_kind()))
    records = message.resource_logs[0].scope_logs[0].log_records
    for record, (name, value) in zip(records, every_kind().items(), strict=True):
        record.body.CopyFrom(any_value(value))
        record.attributes.append(attribute(name, value))
    assert (await lane.send(edge, lane.pack(message))).says(200)
    stored = edge.stored()
    assert [record.body for record in stored] == list(every_kind().values())
    assert [record.attributes for record in stored] == [{name: value} for name, value in every_kind().items()]
    assert [type(record.body) for record in stored] == [type(value) for value in every_kind().values()]


def nested_protobuf(depth: int) -> bytes:
    """A request whose one body is a text within so many arrays, written by hand: the library refuses to."""
    value = b"\x0a\x04core"
    for field in [*(b"\x0a\x2a" * depth), *b"\x2a\x12\x12\x0a"]:
        value = bytes([field]) + _VarintBytes(len(value)) + value
    return value


def nested_json(depth: int) -> bytes:
    value = b'{"arrayValue":{"values":[' * depth + b'{"stringValue":"core"}' + b"]}}" * depth
    return b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + value + b"}]}]}]}"


async def test_a_value_may_nest_but_not_for_ever(edge: Edge, lane: Lane) -> None:
    nested = nested_json if lane.kind == "otlp_json" else nested_protobuf
    for depth in (65, 5000):
        reply = await lane.send(edge, nested(depth))
        assert reply.says(400)
        assert "deep" in reply.message
    assert (await lane.send(edge, nested(40))).says(200)
    body: Any = edge.stored()[0].body
    for _ in range(40):
        [body] = body
    assert body == "core"


async def test_fields_of_later_versions_are_ignored(edge: Edge, lane: Lane) -> None:
    packed = lane.pack(GOOD)
    if lane.kind == "otlp_json":
        packed = packed.replace(b'{"body"', b'{"newField": {"x": [1]}, "body"')[:-1] + b', "later": null}'
    else:
        packed += b"\xfa\x01\x03new"  # field 31, three bytes
    assert (await lane.send(edge, packed)).says(200)
    assert [record.body for record in edge.stored()] == ["one", "two"]


@pytest.mark.parametrize(
    ("stated", "observed", "expected", "mark"),
    [
        (0, RECEIVED_NS - 5, RECEIVED_NS - 5, ""),
        (0, 0, RECEIVED_NS, "unset"),
        (7, RECEIVED_NS, 7, ""),
        (2**64 - 1, 5, RECEIVED_NS, "future"),
    ],
)
async def test_odd_times_are_no_reason_to_refuse_a_record(
    edge: Edge, lane: Lane, stated: int, observed: int, expected: int, mark: str
) -> None:
    message = request("odd")
    record = message.resource_logs[0].scope_logs[0].log_records[0]
    record.time_unix_nano, record.observed_time_unix_nano = stated, observed
    reply = await lane.send(edge, lane.pack(message))
    assert reply.says(200)
    assert not reply.partial_success
    [stored] = edge.stored()
    assert (stored.time_ns, stored.time_mark, stored.stated_ns) == (expected, mark, stated)


async def test_no_record_of_a_readable_batch_is_rejected(edge: Edge, lane: Lane) -> None:
    """partial_success is for records that can never be accepted. Of a batch that can be read, there are none."""
    message = request("", "x" * 100_000, "\x00\x1b[31m")
    records = message.resource_logs[0].scope_logs[0].log_records
    records.add()
    odd = records.add(severity_number=2**31 - 1, trace_id=b"\x01", span_id=bytes(8), time_unix_nano=1)
    for number in range(200):
        odd.attributes.add(key="same").value.int_value = number
    reply = await lane.send(edge, lane.pack(message))
    assert reply.says(200)
    assert not reply.partial_success
    assert len(edge.stored()) == edge.journal.rows[0].records == 5
    assert edge.stored()[4].attributes == {"same": 199}


async def assert_nothing_stored_and_the_next_is_taken(edge: Edge, lane: Lane) -> None:
    assert edge.journal.rows == []
    assert (await lane.send(edge, lane.pack(GOOD))).says(200)
    assert [record.body for record in edge.stored()] == ["one", "two"]
