"""Every way in: a door, a format and a compression. One request goes in by any of them, one kind of reply comes out."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol

import grpc.aio
import httpx
import zstandard
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from detect.inflate import BodyEncoding
from serve.ingest.otlp_grpc import SERVICE
from tests.contract.wire.edge import Edge

METHOD: Final = f"/{SERVICE}/Export"
COMPRESSORS: Final[dict[BodyEncoding, Callable[[bytes], bytes]]] = {
    "identity": bytes,
    "gzip": partial(gzip.compress, mtime=0),  # the same bytes at any time
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}
_GRPC_CODE_OF_STATUS = {
    200: 0, 400: 3, 401: 16, 403: 7, 413: 8, 415: 3, 429: 8, 503: 14,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in common terms. `code` is google.rpc.Code; `details` the unpacked details of its Status by name.

    `size` is what the answer takes on the wire apart from framing: body, or trailing metadata.
    """

    code: int
    message: str
    retry_after_s: int | None
    details: dict[str, Any]
    headers: dict[str, str]
    size: int
    partial_success: bool

    def says(self, status: int) -> bool:
        """Whether it means what the HTTP status means."""
        return self.code == _GRPC_CODE_OF_STATUS[status]


class Lane(Protocol):
    """One way in. `pack` gives the bytes of a request in the lane's format, uncompressed."""

    @property
    def name(self) -> str: ...
    @property
    def encoding(self) -> BodyEncoding: ...
    @property
    def kind(self) -> Literal["otlp_protobuf", "otlp_json"]: ...

    def pack(self, request: ExportLogsServiceRequest) -> bytes: ...

    async def send(self, edge: Edge, packed: bytes, *, key: str = "good", raw: bool = False, **names: str) -> Reply:
        """Sends packed bytes, compressed by the lane unless they are `raw`; `names` are headers or metadata."""


def request(*lines: str) -> ExportLogsServiceRequest:
    """A request with a record a line."""
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    for line in lines:
        records.add().body.string_value = line
    return message


def otlp_json(request: ExportLogsServiceRequest) -> dict[str, Any]:
    """OTLP/JSON of a request: as proto JSON, but ids in hex and enums as integers."""
    shown = MessageToDict(request, use_integers_for_enums=True)
    for resource_logs in shown.get("resourceLogs", ()):
        for scope_logs in resource_logs.get("scopeLogs", ()):
            for record in scope_logs.get("logRecords", ()):
                for name in ("traceId", "spanId"):
                    if name in record:
                        record[name] = base64.b64decode(record[name]).hex()
    return shown


@dataclass(frozen=True, slots=True)
class HttpLane:
    content_type: str
    kind: Literal["otlp_protobuf", "otlp_json"]
    encoding: BodyEncoding

    @property
    def name(self) -> str:
        return f"http-{self.kind.removeprefix('otlp_')}-{self.encoding}"

    def pack(self, request: ExportLogsServiceRequest) -> bytes:
        return json.dumps(otlp_json(request)).encode() if self.kind == "otlp_json" else request.SerializeToString()

    async def send(self, edge: Edge, packed: bytes, *, key: str = "good", raw: bool = False, **names: str) -> Reply:
        headers = {"content-type": self.content_type, "authorization": f"Bearer {key}"}
        if self.encoding != "identity":
            headers["content-encoding"] = self.encoding
        headers |= {name.replace("_", "-"): value for name, value in names.items()}
        body = packed if raw else COMPRESSORS[self.encoding](packed)
        answer = await post(edge, body, headers)
        assert answer.headers["content-type"] == self.content_type
        return self._reply(answer)

    def _reply(self, answer: httpx.Response) -> Reply:
        size, headers = len(answer.content), dict(answer.headers)
        if answer.status_code == 200:
            if self.kind == "otlp_json":
                assert answer.content == b"{}"
                return Reply(0, "", None, {}, headers, size, partial_success=False)
            response = ExportLogsServiceResponse.FromString(answer.content)
            return Reply(0, "", None, {}, headers, size, response.HasField("partial_success"))
        status = status_in_json(answer.json()) if self.kind == "otlp_json" else Status.FromString(answer.content)
        assert status.code == _GRPC_CODE_OF_STATUS[answer.status_code]
        retry = int(headers["retry-after"]) if "retry-after" in headers else None
        return Reply(status.code, status.message, retry, _details(status), headers, size, partial_success=False)


@dataclass(frozen=True, slots=True)
class GrpcLane:
    encoding: BodyEncoding
    kind: Literal["otlp_protobuf", "otlp_json"] = "otlp_protobuf"

    @property
    def name(self) -> str:
        return f"grpc-{self.encoding}"

    def pack(self, request: ExportLogsServiceRequest) -> bytes:
        return request.SerializeToString()

    async def send(self, edge: Edge, packed: bytes, *, key: str = "good", raw: bool = False, **names: str) -> Reply:
        metadata = [("authorization", f"Bearer {key}")]
        metadata = [(n.replace("_", "-"), value) for n, value in ({"authorization": f"Bearer {key}"} | names).items()]
        # The library compresses each message itself and says so in its header; raw bytes go as they are.
        compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}.get(self.encoding)
        async with grpc.aio.insecure_channel(edge.grpc_address) as channel:
            call = channel.unary_unary(METHOD)(packed, metadata=metadata, compression=None if raw else compression)
            try:
                body = await call
            except grpc.aio.AioRpcError as error:
                return grpc_reply(error.code(), error.details() or "", error.trailing_metadata())
            response = ExportLogsServiceResponse.FromString(body)
            headers = {name: value for name, value in await call.trailing_metadata() if isinstance(value, str)}
            return Reply(0, "", None, {}, headers, len(body), response.HasField("partial_success"))


def grpc_reply(code: grpc.StatusCode, message: str, trailing: Any) -> Reply:
    """A failed call. Whatever the Status in the trailing metadata says must agree with the call's own status."""
    size = len(message.encode()) * 3
    headers: dict[str, str] = {}
    details: dict[str, Any] = {}
    for name, value in trailing or ():
        size += len(name) + len(value) * 4 // 3
        if name == "grpc-status-details-bin":
            status = Status.FromString(value)
            assert (status.code, status.message) == (code.value[0], message)
            details = _details(status)
        else:
            headers[name] = value
    retry = details.get("RetryInfo")
    return Reply(code.value[0], message, retry.retry_delay.seconds if retry else None, details, headers, size, False)


def status_in_json(shown: dict[str, Any]) -> Any:
    """The google.rpc.Status of a JSON answer."""
    status = Status(code=shown["code"], message=shown["message"])
    for detail in shown.get("details", ()):
        if detail["@type"].endswith("RetryInfo"):
            retry = RetryInfo()
            retry.retry_delay.FromJsonString(detail["retryDelay"])
            status.details.add().Pack(retry)
        else:
            violations = [BadRequest.FieldViolation(**one) for one in detail["fieldViolations"]]
            status.details.add().Pack(BadRequest(field_violations=violations))
    assert set(shown) <= {"code", "message", "details"}
    return status


def _details(status: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for detail in status.details:
        for kind in (RetryInfo, BadRequest):
            if detail.Is(kind.DESCRIPTOR):
                found[kind.__name__] = kind()
                detail.Unpack(found[kind.__name__])
    assert len(found) == len(status.details)
    return found


async def post(edge: Edge, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """POST /v1/logs to the real application."""
    transport = httpx.ASGITransport(app=edge.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        return await client.post("/v1/logs", content=body, headers=headers)


HTTP_LANES: Final = tuple(
    HttpLane(content_type, kind, encoding)
    for content_type, kind in (("application/x-protobuf", "otlp_protobuf"), ("application/json", "otlp_json"))
    for encoding in COMPRESSORS
)
GRPC_LANES: Final = (GrpcLane("identity"), GrpcLane("gzip"), GrpcLane("deflate"))
LANES: Final[tuple[Lane, ...]] = (*HTTP_LANES, *GRPC_LANES)
