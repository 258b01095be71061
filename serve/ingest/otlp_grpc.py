"""OTLP/gRPC logs in: the same intake, the same statuses, the same promises as over HTTP (decision 0008).

Messages are taken as bytes and, where the sender compressed them, as compressed bytes: the journal keeps what came,
and inflating happens under our cap, with our answer and our count of the refusal. The sender is admitted before its
message is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc  # type: ignore[import-untyped] # the package has no annotations
import grpc.aio  # type: ignore[import-untyped] # as above
import structlog
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from actors.metrics import Metrics
from serve.errors import WireError, rpc_status
from serve.ingest.body import examine, too_large
from serve.ingest.intake import Account, Intake, Sender, Submission, errors_on_the_wire, on_account_of
from serve.ingest.otlp_http import IngestLimits
from serve.ingest.senders import SenderCheck
from store.journal import Encoding

logger = structlog.get_logger("grpc")

SERVICE: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
_SUCCESS: Final[bytes] = ExportLogsServiceResponse().SerializeToString()
_STATUS_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
_DRAIN_S = 5.0  # what is under way may end; the replica itself is given ten seconds


@dataclass(frozen=True, slots=True)
class GrpcAnswer:
    """The status of a call, its message for people, and its trailing metadata (names in lower case)."""

    code: grpc.StatusCode
    detail: str
    trailing: tuple[tuple[str, str | bytes], ...]


class OtlpGrpcDoor:
    """LogsService/Export without its transport."""

    def __init__(self, senders: SenderCheck, intake: Intake, metrics: Metrics, limits: IngestLimits) -> None:
        self._senders = senders
        self._intake = intake
        self._metrics = metrics
        self._limits = limits

    async def handle(self, metadata: Mapping[str, str], read: Callable[[], Awaitable[bytes | None]]) -> GrpcAnswer:
        """Answers one call. `read` gives the message as it came, None when the transport could not take it."""
        started = time.monotonic()
        status = 200
        try:
            with errors_on_the_wire():
                trailing = await self._accept(metadata, read)
            answer = GrpcAnswer(grpc.StatusCode.OK, "", trailing)
        except WireError as error:
            self._intake.refused(error)
            status = error.status
            answer = grpc_error(error)
        self._metrics.count("ingest_requests", status=str(status))
        self._metrics.observe("ingest_seconds", time.monotonic() - started)
        return answer

    async def _accept(
        self, metadata: Mapping[str, str], read: Callable[[], Awaitable[bytes | None]]
    ) -> tuple[tuple[str, str | bytes], ...]:
        admitted = await self._senders.admit(metadata)
        sender = admitted.sender
        with on_account_of(sender):
            async with self._intake.request(sender, None) as ticket:
                message = await self._read(sender, read)
                ticket.arrived(len(message))
                await admitted.confirm(message)
                encoding = message_encoding(message)
                records, digest = await examine(message, encoding, "otlp_protobuf", self._limits.decompressed)
                if records == 0:
                    return ()
                key = metadata.get("x-idempotency-key", "")
                submission = Submission(
                    sender, "otlp_protobuf", encoding, message, records, digest, key, door="otlp_grpc"
                )
                acknowledged = await self._intake.store(submission, ticket)
        return tuple((name.lower(), value) for name, value in acknowledged.headers.items())

    async def _read(self, sender: Sender, read: Callable[[], Awaitable[bytes | None]]) -> bytes:
        broken = WireError(503, "no whole message came: send it again, one request a call", reason="broken_off")
        broken.account = Account(sender, 0)
        try:
            message = await read()
        except asyncio.CancelledError:
            self._intake.refused(broken)
            raise
        if message is None:
            # The connection has gone, or the library has refused a message twice the limit: nobody hears this.
            raise broken
        if len(message) > self._limits.compressed:
            raise too_large(self._limits.compressed, "compressed")
        return message


def message_encoding(message: bytes) -> Encoding:
    """How a message is compressed, told by its first bytes: gRPC keeps the header to itself.

    No protobuf message begins with the magic number of gzip, whose first byte has the wire type 7, which does not
    exist. A zlib header would be the field 15 of the request as a number; OTLP has one field, of another type.
    """
    if message[:2] == b"\x1f\x8b":
        return "gzip"
    if message[:1] == b"\x78" and int.from_bytes(message[:2], "big") % 31 == 0:
        return "deflate"
    return "identity"


def grpc_error(error: WireError) -> GrpcAnswer:
    """A refusal as gRPC says it: the code, and the google.rpc.Status with RetryInfo where waiting helps."""
    status = rpc_status(error)
    trailing = (("grpc-status-details-bin", bytes(status.SerializeToString())),)
    return GrpcAnswer(_STATUS_CODES[status.code], str(status.message), trailing)


@asynccontextmanager
async def serving_grpc(door: OtlpGrpcDoor, address: str, limits: IngestLimits) -> AsyncIterator[int]:
    """Listens on host:port while the block runs, then lets calls under way end; gives the port.

    The port is shared by the replicas of this machine (SO_REUSEPORT). Raises RuntimeError when it cannot be had.
    """
    server = grpc.aio.server(options=_server_options(limits))
    # One message a call, read by the door when the sender is known: on the wire the same as a unary call.
    handler = grpc.stream_unary_rpc_method_handler(_export(door))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    port = server.add_insecure_port(address)
    await server.start()
    logger.info("grpc listens", address=address, port=port)
    try:
        yield port
    finally:
        await server.stop(_DRAIN_S)


def _server_options(limits: IngestLimits) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", 1),
        ("grpc.per_message_decompression", 0),
        # Twice the limit: the library refuses without a word to us, and a refusal should be counted by its reason.
        ("grpc.max_receive_message_length", 2 * limits.compressed),
        ("grpc.max_concurrent_streams", 256),
        # Connections move on now and then, so that replicas that came later get their share.
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        # Senders may ask every ten seconds whether we are there; we ask them, so that dead connections end.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    )


def _export(door: OtlpGrpcDoor) -> Callable[[Any, Any], Awaitable[bytes]]:
    async def export(_: Any, context: Any) -> bytes:
        metadata: dict[str, str] = {}
        for name, value in context.invocation_metadata():
            if isinstance(value, str):
                metadata.setdefault(name, value)

        async def read() -> bytes | None:
            message = await context.read()
            return None if message is grpc.aio.EOF else message

        answer = await door.handle(metadata, read)
        if answer.code is not grpc.StatusCode.OK:
            await context.abort(answer.code, answer.detail, answer.trailing)
        context.set_trailing_metadata(answer.trailing)
        return _SUCCESS

    return export


def grpc_address(host: str, port: int) -> str:
    """host:port as gRPC reads it, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
