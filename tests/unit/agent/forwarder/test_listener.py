"""OTLP/HTTP as local senders meet it: 200 means on disk, and what will pass is never answered as if it would not."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import httpx
import pytest
import zstandard
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from agent.forwarder.batch import Batch
from agent.forwarder.config import read_config
from agent.forwarder.process import Forwarder
from agent.spool_segment import SegmentFile
from tests.unit.agent.forwarder.conftest import GZIPPED, PROTOBUF, TOKEN, Host, gzipped, lines_of, request, running
from tests.unit.agent.forwarder.server import TinyServer, serving

JSON = PROTOBUF | {"Content-Type": "application/json; charset=utf-8"}
JSON_BODY = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"one"}},{"body":null}]}]}]}'
AWAY = 1  # a port that nobody listens on: what is taken stays in the spool


def spooled(forwarder: Forwarder) -> list[Batch]:
    """What is on disk, read as another life would."""
    forwarder.spool.flush()
    segments = sorted(forwarder.spool.folder.glob("*.seg"))
    found = []
    for path in segments:
        file = SegmentFile(path)
        found += [file.payload(frame) for frame in file.frames(file.size)]
        file.close()
    return [Batch.unpack(payload) for payload in found if payload is not None]


def status_of(answer: httpx.Response) -> Status:
    """The google.rpc.Status of a refusal in protobuf."""
    assert answer.headers["content-type"] == "application/x-protobuf"
    return Status.FromString(answer.content)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:]) + b"\0" * 7),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zlib", zlib.compress),
        ("zstd", lambda body: zstandard.compress(body[:9]) + zstandard.compress(body[9:])),
    ],
)
@pytest.mark.parametrize("kind", ["protobuf", "json"])
async def test_every_format_and_encoding_is_kept_as_it_came(host: Host, encoding: str, encode: Any, kind: str) -> None:
    plain, headers = (request("one", "two"), PROTOBUF) if kind == "protobuf" else (JSON_BODY, JSON)
    headers = headers | ({"Content-Encoding": encoding} if encoding else {})
    body = encode(plain)
    async with running(host.config(AWAY)) as (forwarder, client):
        answer = await client.post("/v1/logs", content=body, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"" if kind == "protobuf" else b"{}")
        assert answer.headers["content-type"] == headers["Content-Type"].partition(";")[0]
        [batch] = spooled(forwarder)
        assert (batch.kind, batch.body) == (kind, body)
        books = forwarder.spool.books()
        assert (books.accepted, books.in_flight) == (2, 2)


async def test_an_empty_request_is_a_success_and_nothing_to_keep(host: Host) -> None:
    async with running(host.config(AWAY)) as (forwarder, client):
        for content, headers in ((b"", PROTOBUF), (b"{}", JSON), (gzip.compress(b""), GZIPPED)):
            assert (await client.post("/v1/logs", content=content, headers=headers)).status_code == 200
        assert spooled(forwarder) == []


async def test_text_that_is_not_utf8_costs_nobody_a_record(host: Host, server: TinyServer) -> None:
    broken = request("caf?", "fine").replace(b"caf?", b"caf\xe9")
    in_json = JSON_BODY.replace(b"one", rb"\ud800")
    async with running(host.config(server.port)) as (forwarder, client):
        assert (await client.post("/v1/logs", content=broken, headers=PROTOBUF)).status_code == 200
        assert (await client.post("/v1/logs", content=in_json, headers=JSON)).status_code == 200
        assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
    assert sorted(server.journal.bodies()) == sorted([broken, in_json])


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer  x", f"Basic {TOKEN}", "Bearer None", TOKEN, "Bearer " + "é" * 20]
)
async def test_without_a_token_nothing_is_taken(host: Host, given: str) -> None:
    headers = PROTOBUF | {"Authorization": given.encode()}
    async with running(host.config(AWAY)) as (forwarder, client):
        answer = await client.post("/v1/logs", content=request("line"), headers=headers)
        assert (answer.status_code, status_of(answer).code) == (401, 16)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert spooled(forwarder) == []


@pytest.mark.parametrize("given", [f"{TOKEN}x", TOKEN[:-1], TOKEN.upper(), "the-token-of-yesterday"])
async def test_another_token_is_asked_to_come_back_because_collectors_drop_their_data_on_401(
    host: Host, given: str
) -> None:
    async with running(host.config(AWAY)) as (forwarder, client):
        for _ in range(2):
            headers = PROTOBUF | {"Authorization": f"Bearer {given}"}
            answer = await client.post("/v1/logs", content=request("line"), headers=headers)
            assert (answer.status_code, status_of(answer).code) == (503, 14)
            assert int(answer.headers["retry-after"]) >= 1
        assert (spooled(forwarder), forwarder.meter.counts()["wrong_tokens_total", ""]) == ([], 2)
        assert "token" in forwarder.meter.troubles()["sender"].detail
        assert given not in str(forwarder.status.status())
        assert (await client.post("/v1/logs", content=request("of another"), headers=PROTOBUF)).status_code == 200
        assert "sender" in forwarder.meter.troubles(), "one of them still comes with a wrong one"
        (host.folder / "token").write_text(given)
        forwarder.reload()
        again = await client.post("/v1/logs", content=request("line"), headers=headers)
        assert (again.status_code, len(spooled(forwarder))) == (200, 2)
        assert "sender" not in forwarder.meter.troubles()


@pytest.mark.parametrize(
    ("method", "path", "changes", "content", "status", "code"),
    [
        ("POST", "/v1/traces", {}, b"", 404, 12),
        ("PUT", "/v1/logs", {}, b"", 405, 12),
        ("GET", "/v1/logs", {}, b"", 405, 12),
        ("POST", "/v1/logs", {"Content-Type": "text/plain"}, b"x", 415, 3),
        ("POST", "/v1/logs", {"Content-Encoding": "br"}, b"x", 415, 3),
        ("POST", "/v1/logs", {"Content-Encoding": "gzip, gzip"}, b"x", 415, 3),
        ("POST", "/v1/logs", {}, b"\xff\xff", 400, 3),
        ("POST", "/v1/logs", {"Content-Encoding": "gzip"}, b"no gzip", 400, 3),
        ("POST", "/v1/logs", {"Content-Encoding": "gzip"}, gzip.compress(b"x" * 99)[:-9], 400, 3),
        ("POST", "/v1/logs", {"Content-Encoding": "zstd"}, b"no zstd", 400, 3),
        ("POST", "/v1/logs", {}, b"x" * 200_001, 413, 8),
        ("POST", "/v1/logs", {"Content-Encoding": "gzip"}, gzip.compress(b"\0" * 3_000_000), 413, 8),
        ("POST", "/v1/logs", {"Content-Encoding": "zstd"}, zstandard.compress(b"\0" * 3_000_000), 413, 8),
    ],
)
async def test_what_can_never_be_taken_says_so_finally(
    host: Host, method: str, path: str, changes: dict[str, str], content: bytes, status: int, code: int
) -> None:
    stated = host.stated(AWAY)
    stated["listen"] |= {"most_body_bytes": 200_000, "most_inflated_bytes": 2_000_000}
    async with running(read_config(host.write(stated))) as (forwarder, client):
        answer = await client.request(method, path, content=content, headers=PROTOBUF | changes)
        assert answer.status_code == status
        if status != 415 or "Content-Type" not in changes:
            found = status_of(answer)
            assert (found.code, bool(found.message)) == (code, True)
        assert "retry-after" not in answer.headers
        assert len(answer.content) < 4096
        assert spooled(forwarder) == []
        good = await client.post("/v1/logs", content=request("after"), headers=PROTOBUF)
        assert good.status_code == 200, "the next request is none the worse"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"resourceLogs":{}}', "resourceLogs"),
        (JSON_BODY.replace(b"null", b"7"), "resourceLogs[0].scopeLogs[0].logRecords[1].body"),
        (JSON_BODY.replace(b'"one"', b"1"), "resourceLogs[0].scopeLogs[0].logRecords[0].body.stringValue"),
        (b"[]", "an object"),
        (b'{"resourceLogs":', ""),
        (b"", ""),
        (b"[" * 100_000, ""),
    ],
)
async def test_json_that_is_no_request_is_refused_with_its_place(host: Host, body: bytes, place: str) -> None:
    async with running(host.config(AWAY)) as (forwarder, client):
        answer = await client.post("/v1/logs", content=body, headers=JSON)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json()["code"], place in answer.json()["message"]) == (3, True), answer.text
        assert spooled(forwarder) == []


async def test_a_full_spool_is_503_with_retry_after_and_takes_again_later(host: Host, certificates: Any) -> None:
    with serving(certificates) as server:
        server.always = "503"
        async with running(host.config(server.port), most_bytes=3_000, segment_bytes=1_000) as (forwarder, client):
            taken, refused = [], 0
            for number in range(40):
                line = f"{number:03d}" + "x" * 90
                answer = await client.post("/v1/logs", content=request(line), headers=PROTOBUF)
                if answer.status_code == 200:
                    taken.append(line)
                else:
                    refused += 1
                    assert answer.status_code == 503
                    [detail] = status_of(answer).details
                    retry = RetryInfo()
                    assert detail.Unpack(retry)
                    assert retry.retry_delay.seconds == int(answer.headers["retry-after"]) >= 1
            assert len(taken) > 5
            assert refused > 5
            assert forwarder.meter.state == "failing"
            server.always = None
            forwarder.reload()
            assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
            assert (await client.post("/v1/logs", content=request("again"), headers=PROTOBUF)).status_code == 200
            assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
            assert forwarder.meter.state == "ok"
        assert sorted(lines_of(server.journal.bodies())) == sorted([*taken, "again"])


async def test_a_sender_that_repeats_itself_is_answered_and_stored_once(host: Host, server: TinyServer) -> None:
    bodies = [gzip.compress(request("line"), level) for level in (1, 9, 1)]
    async with running(host.config(server.port)) as (forwarder, client):
        answers = await asyncio.gather(
            *(client.post("/v1/logs", content=body, headers=GZIPPED) for body in [*bodies, *bodies])
        )
        assert {answer.status_code for answer in answers} == {200}
        assert forwarder.spool.books().accepted == 1
    async with running(host.config(server.port)) as (forwarder, client):
        assert (await client.post("/v1/logs", content=bodies[1], headers=GZIPPED)).status_code == 200
        assert (await client.post("/v1/logs", content=gzipped("another"), headers=GZIPPED)).status_code == 200
        assert forwarder.spool.books().accepted == 2, "also over a restart"


async def test_many_senders_share_their_syncs(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port)) as (forwarder, client):
        bodies = [gzipped(f"line {number}") for number in range(60)]
        answers = await asyncio.gather(*(client.post("/v1/logs", content=body, headers=GZIPPED) for body in bodies))
        assert {answer.status_code for answer in answers} == {200}
        assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0)
    assert sorted(lines_of(server.journal.bodies())) == sorted(f"line {number}" for number in range(60))


async def test_a_body_that_breaks_off_is_never_taken_for_whole(host: Host) -> None:
    head = f"POST /v1/logs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/x-protobuf\r\n"
    body = request("one", "two")
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n"
    async with running(host.config(AWAY)) as (forwarder, _):
        for broken in (
            f"{head}Content-Length: {len(body) + 1}\r\n\r\n".encode() + body,
            f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
            writer.write(broken)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)
            writer.close()
        assert spooled(forwarder) == []
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk + b"0\r\n\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        assert len(spooled(forwarder)) == 1, "a whole one in chunks is fine"


@given(st.binary(max_size=300), st.sampled_from(["", "POST /v1/logs HTTP/1.1\r\n", "GET /status HTTP/1.1\r\n"]))
def test_noise_on_the_wire_harms_nobody(
    listening: tuple[Forwarder, asyncio.AbstractEventLoop], noise: bytes, path: str
) -> None:
    forwarder, loop = listening

    async def talk() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write(path.encode() + noise)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{forwarder.port}/healthz")
        return answer.status_code

    assert asyncio.run_coroutine_threadsafe(talk(), loop).result(30) == 200


@given(st.binary(max_size=400), st.sampled_from(["", "gzip", "zstd", "deflate"]), st.sampled_from([PROTOBUF, JSON]))
def test_any_body_is_taken_or_refused_with_a_status(
    listening: tuple[Forwarder, asyncio.AbstractEventLoop], body: bytes, encoding: str, headers: dict[str, str]
) -> None:
    forwarder, loop = listening

    async def post() -> httpx.Response:
        async with httpx.AsyncClient() as client:
            named = headers | {"Content-Encoding": encoding}
            return await client.post(f"http://127.0.0.1:{forwarder.port}/v1/logs", content=body, headers=named)

    answer = asyncio.run_coroutine_threadsafe(post(), loop).result(30)
    assert answer.status_code in {200, 400}
    if answer.status_code == 400 and headers is JSON:
        assert json.loads(answer.content)["code"] == 3


@pytest.mark.parametrize("path", ["/status", "/metrics", "/healthz"])
async def test_the_pages_need_no_token_and_are_for_this_host(host: Host, path: str) -> None:
    async with running(host.config(AWAY)) as (forwarder, client):
        await client.post("/v1/logs", content=request("a", "b"), headers=PROTOBUF)
        page = await client.get(path)
        assert page.status_code == 200
        if path == "/status":
            assert page.json()["books"]["accepted"] == page.json()["books"]["in_flight"] == 2
            assert page.json()["batches"]["accepted"] == 1
        if path == "/metrics":
            lines = page.text.splitlines()
            assert "trustsoc_forwarder_accepted_records 2" in lines
            assert 'trustsoc_forwarder_requests_total{status="200"} 1' in lines
            names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
            assert len(names) == len(set(names)) > 20
        stranger = {"type": "http", "method": "GET", "path": path, "headers": [], "client": ("192.0.2.1", 5)}
        assert await _statuses(forwarder, stranger) == [404]


async def test_a_page_that_cannot_be_made_is_no_harm_to_others(host: Host) -> None:
    async with running(host.config(AWAY)) as (forwarder, client):
        poison = forwarder.spool.poison.folder
        poison.rmdir()
        poison.write_text("no folder")
        assert (await client.get("/status")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.post("/v1/logs", content=request("line"), headers=PROTOBUF)).status_code == 200


async def _statuses(forwarder: Forwarder, scope: dict[str, Any]) -> list[int]:
    found: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    await forwarder._listener(scope, receive, send)
    return found
