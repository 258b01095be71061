"""OTLP/HTTP logs in: every batch is one journal row, committed before the sender is answered.

Wire behaviour follows the OTLP specification 1.x, "OTLP/HTTP": answers in the request's encoding, google.rpc.Status
for errors, 503 with Retry-After for everything that will pass. A sender drops data on 400 and 500, so neither is ever
the answer to trouble on this side.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from actors.metrics import Metrics
from detect.batch import BatchKind
from detect.otlp import UndecodableBatch, count_records
from detect.record import TenantId
from serve.auth import Authenticator
from serve.body import check_declared_length, content_encoding, decompress, read_body
from serve.errors import JSON, PROTOBUF, WireAnswer, WireError, otlp_error
from store.journal import Appended, IdempotencyConflict, JournalEntry, Overloaded
from store.postgres import StorageUnavailable

_KEY_LIMIT = 120  # bytes; the journal holds 128
_OFF_THE_LOOP = 256 * 1024  # bodies above this are inflated and parsed in a thread, so that small requests flow on


class Journal(Protocol):
    """Where batches become durable (store.journal.JournalWriter)."""

    async def append(self, entry: JournalEntry) -> Appended: ...


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """Sizes in bytes: of the body as sent, and after decompression."""

    compressed: int
    decompressed: int


class LogsIngest:
    """POST /v1/logs. `hint` tells the tenant's detector that there is work; losing a hint costs a poll interval."""

    def __init__(
        self,
        authenticator: Authenticator,
        journal: Journal,
        hint: Callable[[TenantId], None],
        metrics: Metrics,
        limits: IngestLimits,
    ) -> None:
        self._authenticator = authenticator
        self._journal = journal
        self._hint = hint
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
            answer = await self._accept(headers, stream, content_type, kind)
        except WireError as error:
            answer = self._refused(error, content_type)
        except Overloaded as error:
            answer = self._refused(
                WireError(503, "too many batches wait for the journal: retry later", retry_after_s=_whole(error)),
                content_type,
            )
        except StorageUnavailable as error:
            answer = self._refused(
                WireError(503, "the log store is unavailable: retry later", retry_after_s=_whole(error)), content_type
            )
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
        digest = hashlib.sha256(body).digest()
        entry = JournalEntry(
            tenant=tenant,
            agent=principal.key_id,
            idempotency_key=_idempotency_key(headers.get("x-idempotency-key", ""), digest),
            digest=digest,
            kind=kind,
            encoding=encoding,
            records=records,
            payload=body,
            received=datetime.now(UTC),
        )
        try:
            appended = await self._journal.append(entry)
        except IdempotencyConflict as error:
            raise WireError(
                400,
                "X-Idempotency-Key was used for another body: give each batch a key of its own",
                reason="key_reused",
            ) from error
        if appended.duplicate:
            self._metrics.count("ingest_duplicate_records", records)
        else:
            self._metrics.count("ingest_records", records)
            self._metrics.count("ingest_bytes", len(body))
            self._hint(tenant)
        return _success(
            content_type,
            {"X-Batch-Seq": str(appended.seq), "X-Batch-Duplicate": "true" if appended.duplicate else "false"},
        )

    def _validate(self, body: bytes, encoding: Literal["identity", "gzip"], kind: BatchKind) -> int:
        try:
            return count_records(kind, decompress(body, encoding, self._limits.decompressed))
        except UndecodableBatch as error:
            raise WireError(400, str(error)) from error

    def _refused(self, error: WireError, content_type: str) -> WireAnswer:
        self._metrics.count("ingest_rejected_requests", reason=error.reason)
        return otlp_error(error, content_type)


def _content_type(header: str) -> tuple[str, BatchKind]:
    name = header.partition(";")[0].strip().lower()
    if name == PROTOBUF:
        return PROTOBUF, "otlp_protobuf"
    if name == JSON:
        return JSON, "otlp_json"
    raise WireError(415, f"Content-Type {name[:60]!r} is not supported: send {PROTOBUF} or {JSON}")


def _idempotency_key(header: str, digest: bytes) -> bytes:
    if not header:
        return digest
    key = header.encode("utf-8", "surrogatepass")
    if len(key) > _KEY_LIMIT:
        raise WireError(400, f"X-Idempotency-Key is longer than {_KEY_LIMIT} bytes")
    return b"key:" + key


def _success(content_type: str, headers: dict[str, str]) -> WireAnswer:
    body = b"{}" if content_type == JSON else ExportLogsServiceResponse().SerializeToString()
    return WireAnswer(200, content_type, body, headers)


def _whole(error: Overloaded | StorageUnavailable) -> int:
    return max(1, round(error.retry_after_s))
