"""OTLP/HTTP logs in: every batch is one journal row, committed before the sender is answered.

Wire behaviour follows the OTLP specification 1.x, "OTLP/HTTP": answers in the request's encoding, google.rpc.Status
for errors, 503 with Retry-After for everything that will pass. A sender drops data on 400 and 500, so neither is ever
the answer to trouble on this side.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from actors.metrics import Metrics
from detect.batch import BatchKind
from serve.errors import JSON, PROTOBUF, WireAnswer, WireError, otlp_error
from serve.ingest.body import (
    ACCEPTED_ENCODINGS,
    check_declared_length,
    compressed_answer,
    content_encoding,
    examine,
    read_body,
)
from serve.ingest.intake import DoorName, Intake, Submission, errors_on_the_wire, on_account_of
from serve.ingest.senders import SenderCheck


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """Sizes in bytes: of the body as sent, and after decompression."""

    compressed: int
    decompressed: int


class OtlpHttpDoor:
    """POST /v1/logs, and POST /ingest/logs with a check that demands more of its senders."""

    def __init__(
        self,
        senders: SenderCheck,
        intake: Intake,
        metrics: Metrics,
        limits: IngestLimits,
        name: DoorName = "otlp_http",
    ) -> None:
        self._senders = senders
        self._intake = intake
        self._metrics = metrics
        self._limits = limits
        self._name: DoorName = name

    async def handle(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> WireAnswer:
        """Answers one export request. Never raises for bad input or for storage trouble."""
        started = time.monotonic()
        content_type = PROTOBUF
        try:
            content_type, kind = _content_type(headers.get("content-type", ""))
            with errors_on_the_wire():
                answer = await self._accept(headers, stream, content_type, kind)
        except WireError as error:
            self._intake.refused(error)
            answer = otlp_error(error, content_type)
            if answer.status == 415:
                answer.headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
        self._metrics.count("ingest_requests", status=str(answer.status))
        self._metrics.observe("ingest_seconds", time.monotonic() - started)
        return compressed_answer(answer, headers.get("accept-encoding", ""))

    def wrong_method(self, headers: Mapping[str, str]) -> WireAnswer:
        """The answer to anything but POST, for people with a browser and probes of load balancers."""
        detail = "log records come here by POST, as OTLP in protobuf or JSON; health is at GET /healthz"
        answer = self._refusal(headers, WireError(405, detail))
        answer.headers["Allow"] = "POST"
        return answer

    def other_signal(self, headers: Mapping[str, str]) -> WireAnswer:
        """The answer to traces and metrics, final, so that a sender of all three signals says so in its own log."""
        detail = "this system takes logs only, at /v1/logs: switch this signal off at the sender"
        return self._refusal(headers, WireError(404, detail))

    def _refusal(self, headers: Mapping[str, str], error: WireError) -> WireAnswer:
        self._intake.refused(error)
        self._metrics.count("ingest_requests", status=str(error.status))
        return otlp_error(error, PROTOBUF if _media_type(headers.get("content-type", "")) == PROTOBUF else JSON)

    async def _accept(
        self, headers: Mapping[str, str], stream: AsyncIterator[bytes], content_type: str, kind: BatchKind
    ) -> WireAnswer:
        encoding = content_encoding(headers.get("content-encoding", ""))
        admitted = await self._senders.admit(headers)
        with on_account_of(admitted.sender):
            declared = check_declared_length(headers.get("content-length", ""), self._limits.compressed)
            async with self._intake.request(admitted.sender, declared) as ticket:
                body = await read_body(stream, self._limits.compressed, declared)
                ticket.arrived(len(body))
                await admitted.confirm(body)
                records, digest = await examine(body, encoding, kind, self._limits.decompressed)
                if records == 0:
                    return _success(content_type, {})
                key = headers.get("x-idempotency-key", "")
                submission = Submission(admitted.sender, kind, encoding, body, records, digest, key, door=self._name)
                acknowledged = await self._intake.store(submission, ticket)
        return _success(content_type, acknowledged.headers)


def _content_type(header: str) -> tuple[str, BatchKind]:
    name = _media_type(header)
    if name == PROTOBUF:
        return PROTOBUF, "otlp_protobuf"
    if name == JSON:
        return JSON, "otlp_json"
    raise WireError(415, f"Content-Type {name[:60]!r} is not supported: send {PROTOBUF} or {JSON}")


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _success(content_type: str, headers: dict[str, str]) -> WireAnswer:
    body = b"{}" if content_type == JSON else ExportLogsServiceResponse().SerializeToString()
    return WireAnswer(200, content_type, body, headers)
