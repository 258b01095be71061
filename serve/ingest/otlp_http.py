"""OTLP/HTTP logs in: every batch is one journal row, committed before the sender is answered.

Wire behaviour follows the OTLP specification 1.x, "OTLP/HTTP": answers in the request's encoding, google.rpc.Status
for errors, 503 with Retry-After for everything that will pass. A sender drops data on 400 and 500, so neither is ever
the answer to trouble on this side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from actors.metrics import Metrics
from detect.batch import BatchKind
from detect.otlp import UndecodableBatch, count_records
from serve.auth import Authenticator
from serve.errors import JSON, PROTOBUF, WireAnswer, WireError, otlp_error
from serve.ingest.body import check_declared_length, content_encoding, decompress, read_body
from serve.ingest.intake import Intake, Sender, Submission, errors_on_the_wire
from store.journal import Encoding

_OFF_THE_LOOP = 256 * 1024  # bodies above this are inflated and parsed in a thread, so that small requests flow on


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """Sizes in bytes: of the body as sent, and after decompression."""

    compressed: int
    decompressed: int


class OtlpHttpDoor:
    """POST /v1/logs."""

    def __init__(self, authenticator: Authenticator, intake: Intake, metrics: Metrics, limits: IngestLimits) -> None:
        self._authenticator = authenticator
        self._intake = intake
        self._metrics = metrics
        self._limits = limits

    async def handle(
        self, headers: Mapping[str, str], stream: AsyncIterator[bytes], clock: Callable[[], float]
    ) -> WireAnswer:
        """Answers one export request. Never raises for bad input or for storage trouble."""
        started = clock()
        content_type = PROTOBUF
        try:
            content_type, kind = _content_type(headers.get("content-type", ""))
            with errors_on_the_wire():
                answer = await self._accept(headers, stream, content_type, kind)
        except WireError as error:
            self._intake.refused(error)
            answer = otlp_error(error, content_type)
        self._metrics.count("ingest_requests", status=str(answer.status))
        self._metrics.observe("ingest_seconds", clock() - started)
        return answer

    async def _accept(
        self, headers: Mapping[str, str], stream: AsyncIterator[bytes], content_type: str, kind: BatchKind
    ) -> WireAnswer:
        encoding = content_encoding(headers.get("content-encoding", ""))
        tenant, principal = await self._authenticator.tenant_principal(headers, "ingest")
        check_declared_length(headers.get("content-length", ""), self._limits.compressed)
        body = await read_body(stream, self._limits.compressed)
        if len(body) > _OFF_THE_LOOP:
            records = await asyncio.to_thread(self._validate, body, encoding, kind)
        else:
            records = self._validate(body, encoding, kind)
        if records == 0:
            return _success(content_type, {})
        sender = Sender(tenant, principal.key_id)
        key = headers.get("x-idempotency-key", "")
        acknowledged = await self._intake.store(Submission(sender, kind, encoding, body, records, key))
        return _success(content_type, acknowledged.headers)

    def _validate(self, body: bytes, encoding: Encoding, kind: BatchKind) -> int:
        try:
            return count_records(kind, decompress(body, encoding, self._limits.decompressed))
        except UndecodableBatch as error:
            raise WireError(400, str(error)) from error


def _content_type(header: str) -> tuple[str, BatchKind]:
    name = header.partition(";")[0].strip().lower()
    if name == PROTOBUF:
        return PROTOBUF, "otlp_protobuf"
    if name == JSON:
        return JSON, "otlp_json"
    raise WireError(415, f"Content-Type {name[:60]!r} is not supported: send {PROTOBUF} or {JSON}")


def _success(content_type: str, headers: dict[str, str]) -> WireAnswer:
    body = b"{}" if content_type == JSON else ExportLogsServiceResponse().SerializeToString()
    return WireAnswer(200, content_type, body, headers)
