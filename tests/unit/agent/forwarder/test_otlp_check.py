"""The forwarder takes whatever the server takes, with as many records: what it refuses nobody could have stored."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any, get_args

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from agent.forwarder import otlp_check
from agent.forwarder.batch import Batch, BodyEncoding, UnreadableBatch
from agent.forwarder.inflate import BrokenBody, OversizedBody, inflate
from agent.forwarder.otlp_check import Undecodable, count_records
from detect.inflate import BrokenBody as ServerBroken
from detect.inflate import OversizedBody as ServerOversized
from detect.inflate import inflate as server_inflate
from detect.otlp import UndecodableBatch
from detect.otlp import count_records as server_count
from tests.unit.agent.forwarder.conftest import request

LIMIT = 1 << 20

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=9)
any_values = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "stringValue": st.text(max_size=9) | scalars,
            "boolValue": st.booleans() | scalars,
            "intValue": st.integers(-(2**64), 2**64) | st.integers(-99, 99).map(str) | scalars,
            "doubleValue": st.floats(allow_nan=False) | st.sampled_from(["NaN", "-Infinity", "x"]),
            "bytesValue": st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode()) | st.text(max_size=5),
        },
    ),
    lambda inner: (
        st.fixed_dictionaries({"arrayValue": st.fixed_dictionaries({"values": st.lists(inner, max_size=3)})})
        | st.fixed_dictionaries(
            {
                "kvlistValue": st.fixed_dictionaries(
                    {
                        "values": st.lists(
                            st.fixed_dictionaries({"key": st.text(max_size=3), "value": inner}), max_size=3
                        )
                    }
                )
            }
        )
    ),
    max_leaves=6,
)
pair = st.fixed_dictionaries({"key": st.text(max_size=5) | scalars, "value": any_values | scalars})
pairs = st.lists(pair, max_size=3)
severities = st.sampled_from(["SEVERITY_NUMBER_WARN2", "SEVERITY_NUMBER_X"])
records = st.fixed_dictionaries(
    {},
    optional={
        "timeUnixNano": st.integers(-1, 2**64) | st.integers(0, 2**64).map(str) | scalars,
        "severityNumber": st.integers(-1, 25)
        | st.sampled_from(["SEVERITY_NUMBER_WARN2", "SEVERITY_NUMBER_X"])
        | scalars,
        "severityText": st.text(max_size=5) | scalars,
        "body": any_values | scalars,
        "attributes": pairs | scalars,
        "traceId": st.sampled_from(["5b8eFF", "xyz", "5b8"]) | scalars,
        "flags": st.integers(0, 2**33) | scalars,
        "eventName": scalars,
        "unknown": scalars,
    },
)
scopes = st.lists(st.fixed_dictionaries({"logRecords": st.lists(records, max_size=3)}), max_size=2)
resources = st.fixed_dictionaries({"attributes": pairs}) | scalars
groups = st.lists(st.fixed_dictionaries({"scopeLogs": scopes}, optional={"resource": resources}), max_size=2)
requests = st.fixed_dictionaries({"resourceLogs": groups | scalars})


def takes_no_less(kind: Any, body: bytes) -> None:
    try:
        expected = server_count("otlp_json" if kind == "json" else "otlp_protobuf", body)
    except UndecodableBatch:
        return
    assert count_records(kind, body) == expected


@given(requests)
def test_json_that_the_server_reads_is_taken(stated: Any) -> None:
    takes_no_less("json", json.dumps(stated).encode())


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,resouceLg0', max_size=60).map(str.encode))
def test_any_json_like_bytes_are_judged_alike(body: bytes) -> None:
    takes_no_less("json", body)


@given(st.binary(max_size=80), st.integers(0, 200), st.binary(max_size=3))
def test_any_protobuf_like_bytes_are_judged_alike(noise: bytes, place: int, change: bytes) -> None:
    takes_no_less("protobuf", noise)
    good = request("one", "two", "three")
    takes_no_less("protobuf", good[:place] + change + good[place + len(change) :])


@given(st.binary(max_size=80), st.integers(0, 400), st.binary(max_size=3), st.integers(0, 60))
@example(b"\xc1\x80\x80\x80\x10" + b"\0" * 4, 0, b"", 0)  # a tag of more than 32 bits, and one of more than five bytes
@example(b"\xc1\x80\x80\x80\x80\x00" + b"\0" * 8, 0, b"", 0)
def test_parsing_in_pieces_takes_what_parsing_the_whole_does(
    noise: bytes, place: int, change: bytes, piece: int
) -> None:
    """Both ways: what is refused as a whole is refused in pieces of any size."""
    good = request("one", "two" * 9, "three") * 2
    for body in (good, noise + good, good[:place] + change + good[place + len(change) :]):
        expected = judged(body, 1 << 20)
        assert judged(body, piece) == expected


def judged(body: bytes, piece: int) -> int | None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(otlp_check, "_PIECE", piece)
        try:
            return count_records("protobuf", body)
        except Undecodable:
            return None


@pytest.mark.parametrize("depth", [1, 40, 63, 64, 65, 200])
def test_nesting_is_allowed_as_deep_as_the_server_reads(depth: int) -> None:
    value = b'{"stringValue":"x"}'
    for _ in range(depth):
        value = b'{"arrayValue":{"values":[' + value + b"]}}"
    body = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + value + b"}]}]}]}"
    if depth > 64:
        with pytest.raises(Undecodable, match="nest deeper"):
            count_records("json", body)
    takes_no_less("json", body)


def encoded(encoding: BodyEncoding, body: bytes) -> bytes:
    match encoding:
        case "identity":
            return body
        case "gzip":
            return gzip.compress(body)
        case "deflate":
            return zlib.compress(body)
        case "zstd":
            return zstandard.compress(body)


@given(
    st.binary(max_size=3000),
    st.sampled_from(get_args(BodyEncoding)),
    st.integers(0, 3000),
    st.integers(0, 99),
    st.binary(max_size=2),
)
def test_inflating_agrees_with_the_server(
    body: bytes, encoding: BodyEncoding, limit: int, place: int, change: bytes
) -> None:
    good = encoded(encoding, body)
    for sent in (good, good + good, good[:place] + change + good[place + len(change) :], good[:place]):
        try:
            expected: Any = server_inflate(sent, encoding, limit)
        except ServerOversized:
            expected = OversizedBody
        except ServerBroken:
            expected = BrokenBody
        if isinstance(expected, bytes):
            assert inflate(sent, encoding, limit) == expected
        else:
            with pytest.raises((OversizedBody, BrokenBody)):
                inflate(sent, encoding, limit)


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32), st.integers(0, 2**63))
def test_a_batch_survives_the_spool_s_form(body: bytes, digest: bytes, arrived: int) -> None:
    for encoding in get_args(BodyEncoding):
        batch = Batch("json", encoding, digest, arrived, body)
        assert Batch.unpack(batch.pack()) == batch


@given(st.binary(max_size=60))
def test_what_is_no_batch_is_named_so(payload: bytes) -> None:
    try:
        batch = Batch.unpack(payload)
    except UnreadableBatch:
        return
    assert batch.pack()[:3] == payload[:3]
