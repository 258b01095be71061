"""POST /ingest/ndjson: one JSON object a line (or, as text/plain, one log line a line), each a record.

A line that can never be stored is told by its number in a 200; the others are stored. The body's SHA-256 after
decompression is its idempotency key unless the sender states one, so a repeat gets the same answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from actors.metrics import Metrics
from detect.normalize.timestamps import parse_timestamp
from detect.record import Nanoseconds
from serve.errors import JSON, WireAnswer, WireError, problem
from serve.ingest.body import digest_of
from serve.ingest.document import NotADocument, document_record, parse_document
from serve.ingest.intake import Intake, Sender, Submission, errors_on_the_wire
from serve.ingest.otlp_conversion import MOST_RECORDS, SourceRecord, compressed, otlp_request
from serve.ingest.reception import Reception, lines_of, too_many_records
from store.journal import Encoding

_DOOR: Final = "ndjson"
_DOCUMENT_TYPES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
_TEXT_TYPE: Final = "text/plain"
_MALFORMED: Final = "malformed"
_ANSWER_BYTES: Final = 3800  # answers stay under 4 KiB
_REASON_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that can never be stored; `number` counts from 1."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedLines:
    """A body's records as the payload of a batch, and the lines that are none. `digest` is of the body."""

    digest: bytes
    records: int
    payload: bytes
    encoding: Encoding
    rejected: tuple[RejectedLine, ...]


def parse_lines(body: bytes, *, documents: bool, received_ns: Nanoseconds) -> ParsedLines:
    """Reads a decompressed body. Pure; `received_ns` gives stamps of plain lines their year. Raises WireError 413."""
    records: list[SourceRecord] = []
    rejected: list[RejectedLine] = []
    for number, text in lines_of(body):
        if len(records) + len(rejected) >= MOST_RECORDS:
            raise too_many_records()
        if not documents:
            stamp = parse_timestamp(text[:512].decode("utf-8", "replace"), received_ns)
            records.append(SourceRecord(text, max(0, stamp or 0)))
            continue
        try:
            records.append(document_record(text, parse_document(text)))
        except NotADocument as fault:
            rejected.append(RejectedLine(number, str(fault)[:_REASON_CHARACTERS]))
    payload, encoding = compressed(otlp_request(records, _DOOR, {}))
    return ParsedLines(digest_of(body), len(records), payload, encoding, tuple(rejected))


class NdjsonDoor:
    """The handler. `wall_clock` gives nanoseconds since the epoch."""

    def __init__(
        self, reception: Reception, intake: Intake, metrics: Metrics, wall_clock: Callable[[], Nanoseconds]
    ) -> None:
        self._reception = reception
        self._intake = intake
        self._metrics = metrics
        self._wall_clock = wall_clock

    async def handle(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> WireAnswer:
        """Answers one request. Never raises for bad input or for storage trouble."""
        started = time.monotonic()
        try:
            with errors_on_the_wire():
                answer = await self._accept(headers, stream)
        except WireError as error:
            self._intake.refused(error)
            answer = problem(error)
        self._metrics.count("ingest_door_requests", door=_DOOR, status=str(answer.status))
        self._metrics.observe("ingest_seconds", time.monotonic() - started)
        return answer

    async def _accept(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> WireAnswer:
        documents = _wants_documents(headers.get("content-type", ""))
        received_ns = self._wall_clock()
        admitted = await self._reception.admit(headers)
        async with admitted.place(self._intake) as ticket:
            parsed = await admitted.parsed(
                ticket, stream, lambda body: parse_lines(body, documents=documents, received_ns=received_ns)
            )
            self._count_rejected(admitted.sender, parsed)
            if not parsed.records:
                return _nothing_stored(parsed.rejected)
            submission = Submission(
                admitted.sender,
                "otlp_protobuf",
                parsed.encoding,
                parsed.payload,
                parsed.records,
                parsed.digest,
                headers.get("x-idempotency-key", ""),
                door=_DOOR,
            )
            acknowledged = await self._intake.store(submission, ticket)
        return _answer(parsed.records, parsed.rejected, acknowledged.headers)

    def _count_rejected(self, sender: Sender, parsed: ParsedLines) -> None:
        if rejected := len(parsed.rejected):
            self._metrics.count("ingest_door_rejected_records", rejected, door=_DOOR, reason=_MALFORMED)
            self._intake.refused_records(sender, _MALFORMED, rejected)


def _nothing_stored(rejected: tuple[RejectedLine, ...]) -> WireAnswer:
    if not rejected:
        return _answer(0, (), {})
    first = rejected[0]
    raise WireError(400, f"none of the {len(rejected)} lines can be stored; line {first.number}: {first.reason}")


def _wants_documents(header: str) -> bool:
    name = header.partition(";")[0].strip().lower()
    if name in _DOCUMENT_TYPES:
        return True
    if name == _TEXT_TYPE:
        return False
    detail = f"Content-Type {name[:60]!r} is not supported: send application/x-ndjson (objects) or text/plain (lines)"
    raise WireError(415, detail)


def _answer(accepted: int, rejected: tuple[RejectedLine, ...], headers: dict[str, str]) -> WireAnswer:
    shown: list[dict[str, object]] = []
    room = _ANSWER_BYTES
    for line in rejected:
        entry: dict[str, object] = {"line": line.number, "reason": line.reason}
        room -= len(orjson.dumps(entry)) + 1
        if room < 0:
            break
        shown.append(entry)
    body = {"accepted": accepted, "rejected_count": len(rejected), "rejected": shown}
    return WireAnswer(200, JSON, orjson.dumps(body), headers)
