"""What only gRPC has: its codes, its trailing metadata, raw messages on the wire, one port for many replicas."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from serve.errors import WireError
from serve.ingest.otlp_grpc import SERVICE, GrpcAnswer, grpc_address, grpc_error, message_encoding, serving_grpc
from serve.ingest.otlp_http import IngestLimits
from tests.contract.wire.edge import SENT_LIMIT, Edge
from tests.contract.wire.lanes import METHOD, GrpcLane, request
from tests.contract.wire.test_every_lane import GOOD

KEY = (("authorization", "Bearer good"),)
LIMITS = IngestLimits(1000, 1000)


@asynccontextmanager
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened


async def test_the_generated_stub_talks_to_it(edge: Edge) -> None:
    async with channel(edge.grpc_address) as opened:
        call = LogsServiceStub(opened).Export(GOOD, metadata=KEY, compression=grpc.Compression.Gzip)
        assert await call == ExportLogsServiceResponse()
        trailing = dict(await call.trailing_metadata())
    assert (trailing["x-batch-seq"], trailing["x-batch-duplicate"]) == ("1", "false")


@pytest.mark.parametrize(
    ("status", "code", "waits"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT, False),
        (401, grpc.StatusCode.UNAUTHENTICATED, False),
        (403, grpc.StatusCode.PERMISSION_DENIED, False),
        (413, grpc.StatusCode.RESOURCE_EXHAUSTED, False),
        (415, grpc.StatusCode.INVALID_ARGUMENT, False),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (503, grpc.StatusCode.UNAVAILABLE, True),
    ],
)
def test_every_status_has_its_code_and_only_what_passes_has_retry_info(
    status: int, code: grpc.StatusCode, waits: bool
) -> None:
    answer = grpc_error(WireError(status, "why"))
    assert (answer.code, answer.detail) == (code, "why")
    [(name, value)] = answer.trailing
    assert name == "grpc-status-details-bin"
    kinds = [detail.type_url.rpartition(".")[2] for detail in Status.FromString(value).details]
    assert ("RetryInfo" in kinds) is waits


@pytest.mark.parametrize(
    ("message", "encoding"),
    [
        (b"", "identity"),
        (GOOD.SerializeToString(), "identity"),
        (b"\x0a", "identity"),
        (b"\x1f", "identity"),
        (b"\x78", "identity"),
        (b"\x78\x00", "identity"),
        (b"\x78\x01", "deflate"),
        (b"\x78\x9c", "deflate"),
        (gzip.compress(b""), "gzip"),
    ],
)
def test_the_first_bytes_tell_how_a_message_is_compressed(message: bytes, encoding: str) -> None:
    assert message_encoding(message) == encoding


async def test_what_does_not_shrink_is_sent_plain_and_kept_plain(edge: Edge) -> None:
    """The library compresses per message, and leaves small ones alone whatever the channel says."""
    await GrpcLane("gzip").send(edge, request("x").SerializeToString())
    assert edge.journal.rows[0].encoding == "identity"
    assert [record.body for record in edge.stored()] == ["x"]


async def test_a_sender_that_may_not_send_is_answered_before_its_message_is_read(edge: Edge) -> None:
    """Far more than the limit: were it read, the answer would be another."""
    reply = await GrpcLane("identity").send(edge, bytes(10 * SENT_LIMIT), key="unknown")
    assert reply.says(401)
    assert edge.refusals("too_large") == 0


@pytest.mark.parametrize("path", [f"/{SERVICE}/Exports", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"])
async def test_other_methods_and_signals_are_unimplemented(edge: Edge, path: str) -> None:
    async with channel(edge.grpc_address) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(path)(b"", metadata=KEY)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_without_a_message_is_no_empty_request(edge: Edge) -> None:
    async with channel(edge.grpc_address) as opened:
        call = opened.stream_unary(METHOD)(metadata=KEY)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
    assert (refused.value.code(), edge.refusals("broken_off")) == (grpc.StatusCode.UNAVAILABLE, 1)
    assert edge.journal.rows == []


async def test_a_message_far_over_the_limit_is_refused_by_the_library_and_counted(edge: Edge) -> None:
    reply = await GrpcLane("identity").send(edge, bytes(3 * SENT_LIMIT))
    assert reply.says(413)
    assert reply.details == {}
    await asyncio.wait_for(_until(lambda: edge.refusals("broken_off") == 1), 20)
    assert edge.journal.rows == []


async def test_a_connection_cut_in_mid_message_leaves_nothing(edge: Edge) -> None:
    """A relay between client and server breaks after a part of the message has gone through."""
    host, _, port = edge.grpc_address.partition(":")
    relayed = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection(host, int(port))

        async def back() -> None:
            while chunk := await up.read(1 << 16):
                writer.write(chunk)

        answers = asyncio.create_task(back())
        passed = 0
        while passed < SENT_LIMIT // 2 and (chunk := await reader.read(4096)):
            passed += len(chunk)
            down.write(chunk)
            await down.drain()
        for end in (down, writer):
            end.transport.abort()
        answers.cancel()
        relayed.set()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    packed = request("y" * (SENT_LIMIT - 1000)).SerializeToString()
    async with channel(address) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await opened.unary_unary(METHOD)(packed, metadata=KEY)
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    await relayed.wait()
    server.close()
    await asyncio.wait_for(_until(lambda: edge.refusals("broken_off") == 1), 20)
    assert edge.journal.rows == []
    assert (await GrpcLane("identity").send(edge, packed)).says(200)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


class SlowDoor:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def handle(self, *_: object) -> GrpcAnswer:
        self.entered.set()
        await self.leave.wait()
        return GrpcAnswer(grpc.StatusCode.OK, "", (("x-batch-seq", "9"),))


async def test_calls_under_way_end_when_the_door_closes() -> None:
    door = SlowDoor()
    serving = serving_grpc(door, "127.0.0.1:0", LIMITS)  # type: ignore[arg-type] # all it needs of a door
    port = await serving.__aenter__()
    async with channel(f"127.0.0.1:{port}") as opened:
        call = opened.unary_unary(METHOD)(b"")
        await door.entered.wait()
        closing = asyncio.create_task(serving.__aexit__(None, None, None))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary(METHOD)(b"", timeout=20)
        # Senders repeat after either of the two.
        assert refused.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        door.leave.set()
        assert await call == b""
        await closing


async def test_replicas_of_a_machine_share_one_port() -> None:
    first, second = SlowDoor(), SlowDoor()
    async with serving_grpc(first, "127.0.0.1:0", LIMITS) as port:  # type: ignore[arg-type] # all it needs of a door
        async with serving_grpc(second, f"127.0.0.1:{port}", LIMITS) as shared:  # type: ignore[arg-type] # as above
            assert shared == port
        first.leave.set()
        async with channel(f"127.0.0.1:{port}") as opened:
            assert await opened.unary_unary(METHOD)(b"", wait_for_ready=True, timeout=20) == b""


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1:4317"), ("::1", "[::1]:4317"), ("localhost", "localhost:4317")]
)
def test_addresses(host: str, address: str) -> None:
    assert grpc_address(host, 4317) == address
