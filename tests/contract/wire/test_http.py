"""What only HTTP has: media types, encodings by name, lengths that lie, bodies that break off, methods, paths."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from google.rpc.status_pb2 import Status

from serve.ingest.body import accepts_gzip
from store.journal import Overloaded
from tests.contract.wire.edge import SENT_LIMIT, Edge
from tests.contract.wire.lanes import post
from tests.contract.wire.test_every_lane import GOOD

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
BODY = GOOD.SerializeToString()
KEY = {"authorization": "Bearer good"}


async def ask(edge: Edge, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=edge.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize(
    ("content_type", "answered"),
    [
        ("application/x-protobuf", PROTOBUF),
        ("Application/X-Protobuf ; proto=logs", PROTOBUF),
        ("application/json", JSON),
        ("application/json;charset=UTF-8", JSON),
        ('APPLICATION/JSON; charset="utf-8"; odd', JSON),
    ],
)
async def test_media_types_may_have_parameters(edge: Edge, content_type: str, answered: str) -> None:
    body = b'{"resourceLogs":[]}' if answered == JSON else BODY
    answer = await post(edge, body, KEY | {"content-type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (200, answered)
    refused = await post(edge, body, {"content-type": content_type})
    assert (refused.status_code, refused.headers["content-type"]) == (401, answered)
    assert refused.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/protobuf", "application/jsonp", "json"])
async def test_other_media_types_are_415(edge: Edge, content_type: str) -> None:
    answer = await post(edge, BODY, KEY | {"content-type": content_type})
    assert answer.status_code == 415
    assert PROTOBUF in Status.FromString(answer.content).message
    assert edge.refusals("unsupported_media") == 1
    assert edge.journal.rows == []


@pytest.mark.parametrize(
    ("name", "encoded", "kept"),
    [
        ("gzip", gzip.compress(BODY), "gzip"),
        ("GZIP", gzip.compress(BODY), "gzip"),
        ("x-gzip", gzip.compress(BODY), "gzip"),
        ("identity, gzip", gzip.compress(BODY), "gzip"),
        ("deflate", zlib.compress(BODY), "deflate"),
        ("zlib", zlib.compress(BODY), "deflate"),
        ("deflate", zlib.compress(BODY, wbits=-15), "deflate"),
        ("identity", BODY, "identity"),
        ("", BODY, "identity"),
        ("gzip", gzip.compress(BODY) + bytes(512), "gzip"),
        ("gzip", b"", "nothing"),
    ],
)
async def test_encodings_go_by_these_names(edge: Edge, name: str, encoded: bytes, kept: str) -> None:
    answer = await post(edge, encoded, KEY | {"content-type": PROTOBUF, "content-encoding": name})
    assert answer.status_code == 200
    assert [row.encoding for row in edge.journal.rows] == ([] if kept == "nothing" else [kept])
    assert [row.payload for row in edge.journal.rows] == ([] if kept == "nothing" else [encoded])


async def test_a_retry_that_is_compressed_anew_is_the_same_batch(edge: Edge) -> None:
    """Exporters compress again for every attempt, and a gzip header holds the time at which that was."""
    attempts = [
        ("gzip", gzip.compress(BODY, mtime=1)),
        ("gzip", gzip.compress(BODY, mtime=2)),
        ("gzip", gzip.compress(BODY, compresslevel=1, mtime=3)),
        ("deflate", zlib.compress(BODY)),
        ("", BODY),
    ]
    answers = [
        await post(edge, body, KEY | {"content-type": PROTOBUF, "content-encoding": encoding} | stated)
        for stated in ({}, {"x-idempotency-key": "batch-1"})
        for encoding, body in attempts
    ]
    assert [answer.status_code for answer in answers] == [200] * 10
    assert [answer.headers["x-batch-duplicate"] for answer in answers] == ["false", *["true"] * 4] * 2
    assert [row.encoding for row in edge.journal.rows] == ["gzip", "gzip"]


@pytest.mark.parametrize("name", ["br", "snappy", "lz4", "gzip, gzip", "gzip, zstd", "aes128gcm"])
async def test_other_encodings_are_415_and_the_answer_names_those_that_work(edge: Edge, name: str) -> None:
    answer = await post(edge, BODY, KEY | {"content-type": PROTOBUF, "content-encoding": name})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, zstd, deflate"
    assert edge.journal.rows == []


async def test_deflate_has_one_end(edge: Edge) -> None:
    headers = KEY | {"content-type": PROTOBUF, "content-encoding": "deflate"}
    assert (await post(edge, zlib.compress(BODY) + b"more", headers)).status_code == 400


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("gzip", True),
        ("GZip;q=0.5, identity", True),
        ("x-gzip", True),
        ("br, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("br, zstd", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
    ],
)
async def test_answers_are_compressed_only_for_those_who_can_read_it(edge: Edge, header: str, allowed: bool) -> None:
    assert accepts_gzip(header) is allowed
    headers = KEY | {"content-type": JSON, "accept-encoding": header}
    body = b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "%s"}]}]}]}' % (b"x" * 400)
    transport = httpx.ASGITransport(app=edge.application)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://edge") as client,
        client.stream("POST", "/v1/logs", content=body, headers=headers) as answer,
    ):
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.status_code == 400
    assert answer.headers.get("content-encoding") == ("gzip" if allowed else None)
    plain = gzip.decompress(raw) if allowed else raw
    assert json.loads(plain)["code"] == 3
    assert int(answer.headers["content-length"]) == len(raw)


async def test_small_answers_are_never_compressed(edge: Edge) -> None:
    headers = KEY | {"content-type": PROTOBUF, "accept-encoding": "gzip"}
    answer = await post(edge, BODY, headers)
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    edge.journal.trouble = Overloaded(1.0)
    answer = await post(edge, BODY + BODY, headers)
    assert answer.status_code == 503
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_only_post_brings_records(edge: Edge, method: str) -> None:
    answer = await ask(edge, method, "/v1/logs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == JSON
    if method != "HEAD":
        assert "by POST" in answer.json()["message"]
    assert edge.refusals("wrong_method") == 1


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/metrics"])
async def test_other_signals_are_told_that_only_logs_are_taken(edge: Edge, path: str) -> None:
    answer = await ask(edge, "POST", path, content=BODY, headers=KEY | {"content-type": PROTOBUF})
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROTOBUF)
    assert "logs only" in Status.FromString(answer.content).message
    assert edge.refusals("not_found") == 1


async def test_a_body_in_chunks_is_one_body(edge: Edge) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in BODY:
            yield bytes([byte])

    answer = await ask(edge, "POST", "/v1/logs", content=chunks(), headers=KEY | {"content-type": PROTOBUF})
    assert answer.status_code == 200
    assert edge.journal.rows[0].payload == BODY


async def exchange(edge: Edge, headers: dict[str, str], messages: list[dict[str, Any]]) -> tuple[int, bytes, int]:
    """One request as the server hands it over: status, body, and how many of the messages were asked for."""
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return messages[asked - 1] if asked <= len(messages) else {"type": "http.disconnect"}

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/logs",
        "raw_path": b"/v1/logs",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 4318),
    }
    await edge.application(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return next(message["status"] for message in sent if "status" in message), body, asked


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}
SENT = KEY | {"content-type": PROTOBUF}


@pytest.mark.parametrize("cut", [0, 2, len(BODY) - 1, len(BODY)])
async def test_a_sender_that_goes_away_in_mid_body_leaves_nothing(edge: Edge, cut: int) -> None:
    status, _, _ = await exchange(edge, SENT, [part(BODY[:cut]), GONE])
    assert status == 503
    assert edge.refusals("broken_off") == 1
    assert edge.journal.rows == []


async def test_a_body_shorter_than_declared_is_not_taken_for_whole(edge: Edge) -> None:
    """A prefix of a protobuf request can be a request: half a body must never be stored as if it were all."""
    two = BODY + BODY
    headers = SENT | {"content-length": str(len(two))}
    status, body, _ = await exchange(edge, headers, [part(BODY, more=False)])
    assert status == 503
    assert "broke off" in Status.FromString(body).message
    assert edge.journal.rows == []


async def test_a_body_longer_than_declared_is_refused(edge: Edge) -> None:
    status, body, _ = await exchange(edge, SENT | {"content-length": "3"}, [part(BODY, more=False)])
    assert status == 400
    assert "Content-Length says 3" in Status.FromString(body).message
    assert edge.journal.rows == []


@pytest.mark.parametrize(("length", "status"), [("-1", 400), ("ten", 400), ("1e3", 400), ("9" * 30, 413)])
async def test_a_declared_length_is_judged_before_anything_is_read(edge: Edge, length: str, status: int) -> None:
    answered, _, asked = await exchange(edge, SENT | {"content-length": length}, [part(BODY, more=False)])
    assert (answered, asked) == (status, 0)


async def test_a_sender_that_may_not_send_is_not_listened_to(edge: Edge) -> None:
    status, _, asked = await exchange(edge, SENT | {"authorization": "Bearer wrong"}, [part(BODY, more=False)])
    assert (status, asked) == (401, 0)


async def test_an_endless_body_stops_at_the_limit(edge: Edge) -> None:
    status, _, asked = await exchange(edge, SENT, [part(bytes(SENT_LIMIT // 4))] * 100)
    assert (status, asked) == (413, 5)


async def test_json_errors_are_json(edge: Edge) -> None:
    answer = await post(edge, b'{"resourceLogs": 7}', KEY | {"content-type": JSON})
    shown = answer.json()
    assert shown["code"] == 3
    [detail] = shown["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert detail["fieldViolations"] == [{"description": shown["message"]}]
