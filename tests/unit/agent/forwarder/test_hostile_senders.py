"""What any process of the host can do to the listener, with and without the token: it costs little, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import httpx
import pytest

from agent.forwarder import serving
from agent.forwarder.config import read_config
from tests.unit.agent.forwarder.conftest import PROTOBUF, TOKEN, Host, request, running

AWAY = 1
HEAD = f"POST /v1/logs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/x-protobuf\r\n"
CHUNK = b"a" * 65_536


async def _pour(port: int, head: str, piece: bytes, most: int) -> int:
    """Bytes that were taken before the connection ended; `most` when it never did."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    with contextlib.suppress(ConnectionError):
        writer.write(head.encode())
        while sent < most:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
    writer.close()
    return sent


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("GET /", CHUNK),
        ("GET / HTTP/1.1\r\nX: ", CHUNK),
        ("GET / HTTP/1.1\r\n", b"X: 1\r\n" * 10_000),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", CHUNK),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 10_000),
    ],
    ids=["an endless address", "an endless header", "endless headers", "an endless trailer", "endless tiny chunks"],
)
async def test_a_head_or_a_body_without_an_end_is_cut_off(host: Host, head: str, piece: bytes) -> None:
    stated = host.stated(AWAY)
    stated["listen"]["most_body_bytes"] = 1 << 20
    async with running(read_config(host.write(stated))) as (forwarder, client):
        most = 256 << 20
        assert await _pour(forwarder.port, head, piece, most) < most
        assert (await client.post("/v1/logs", content=request("after"), headers=PROTOBUF)).status_code == 200


@pytest.mark.parametrize(
    "begun", ["", "P", "POST /v1/logs HTTP/1.1\r\nHost: x\r\n", f"{HEAD}Content-Length: 9\r\n\r\nx"]
)
async def test_who_begins_and_goes_silent_does_not_keep_a_connection(
    host: Host, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are so many of them; a few hundred silent ones would shut the collector out."""
    monkeypatch.setattr(serving, "REQUEST_S", 0.2)
    monkeypatch.setattr(serving, "FIRST_BYTES_S", 0.2)
    async with running(host.config(AWAY)) as (forwarder, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarder.port)
        writer.write(begun.encode())
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_silent_connections_in_any_number_do_not_keep_the_collector_out(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS", 10)
    async with running(host.config(AWAY)) as (forwarder, client):
        assert (await client.post("/v1/logs", content=request("first"), headers=PROTOBUF)).status_code == 200
        [kept] = forwarder._server._state.connections
        silent = [await asyncio.open_connection("127.0.0.1", forwarder.port) for _ in range(30)]
        async with httpx.AsyncClient(base_url=client.base_url) as late:
            assert (await late.post("/v1/logs", content=request("second"), headers=PROTOBUF)).status_code == 200
        assert len(forwarder._server._state.connections) <= 11
        assert kept in forwarder._server._state.connections, "who has shown the token stays"
        for _, writer in silent:
            writer.close()


async def test_a_connection_that_is_kept_open_is_no_silent_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_S", 0.1)
    async with running(host.config(AWAY)) as (forwarder, client):
        for number in range(3):
            answer = await client.post("/v1/logs", content=request(f"line {number}"), headers=PROTOBUF)
            assert answer.status_code == 200
            await asyncio.sleep(0.2)
        assert len(forwarder._server._state.connections) == 1


CHECK = """
import resource, sys
from agent.forwarder.otlp_check import TooMuch, count_records
def chunk(number, content):
    size, length = len(content), bytearray([number << 3 | 2])
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([*length, size]) + content
most = 32 << 20
kind, body = {
    "resources": lambda: ("protobuf", bytes([10, 0]) * (most // 2)),
    "records": lambda: ("protobuf", chunk(1, chunk(2, bytes([18, 0]) * (most // 2)))),
    "attributes": lambda: ("protobuf", chunk(1, chunk(2, chunk(2, bytes([50, 0]) * (most // 2))))),
    "values": lambda: ("protobuf", chunk(1, chunk(2, chunk(2, chunk(5, chunk(5, bytes([10, 0]) * (most // 2))))))),
    "json": lambda: ("json", b'{"resourceLogs":[' + b"{}," * (most // 3 - 9) + b"{}]}"),
    "junk": lambda: ("json", b'{"x":[' + b"[]," * (most // 3 - 9) + b"[]]}"),
}[sys.argv[1]]()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(count_records(kind, body))
except TooMuch as refused:
    print("too much")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("resources", "too much"),
        ("records", "too much"),
        ("attributes", "too much"),
        ("values", "too much"),
        ("json", "too much"),
        ("junk", "too much"),
    ],
)
def test_a_body_made_to_grow_while_it_is_parsed_does_not(made: str, says: str) -> None:
    """Two bytes each, 32 MiB of them: parsed as one message they took 1 to 2.5 GB."""
    done = subprocess.run([sys.executable, "-c", CHECK, made], capture_output=True, text=True, check=True)
    said, grown_kib = done.stdout.split("\n")[:2]
    assert said == says
    assert int(grown_kib) < 100 * 1024
