"""Log lines as OTLP export requests (protobuf, gzip), bounded in records and bytes, the same bytes on every run.

Bodies are text, as a log shipper that tails a file would send them; the normaliser reads JSON lines out of the text.
A record's time is the one its line states; where it states none, the time is left unset and detection goes by the
observed time, which is the file's modification time: a file of last week is not an attack of today.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from cluster.log_files import LogFile, LogLine

BATCH_RECORDS = 1000
BATCH_BYTES = 4 * 2**20
# The server takes 64 MiB after decompression by default; the rest of a request stays far below the difference.
LONGEST_LINE = 60 * 2**20

_SCOPE = "trustsoc.send"
_MAXIMUM_NANOSECONDS = 2**63 - 1
_RECORD_OVERHEAD = 120

# (line, reference time in ns) -> event time in ns, or None where the line states none.
TimestampParser = Callable[[str, int], int | None]


@dataclass(frozen=True)
class LogOrigin:
    """What is said about where lines come from: host.name, service.name (may be empty), file name and path."""

    host: str
    service: str
    file_name: str
    file_path: str


@dataclass(frozen=True)
class OutgoingRecord:
    """One line on its way: its text and the time it states (ns since the epoch, 0 for none)."""

    text: str
    time_ns: int


@dataclass
class ReadingCounts:
    """What reading found besides records: every line of a file is in exactly one of records, empty and rejected."""

    empty: int = 0
    mended: int = 0
    without_time: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def reject(self, reason: str, count: int = 1) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + count


class LineReader:
    """Lines of a file as records. `json_field` takes that text field out of every line's JSON object."""

    def __init__(self, parse_timestamp: TimestampParser, counts: ReadingCounts, json_field: str | None) -> None:
        self._parse_timestamp = parse_timestamp
        self._counts = counts
        self._json_field = json_field

    def records(self, file: LogFile) -> Iterator[OutgoingRecord]:
        for line in file.lines(LONGEST_LINE):
            text = self._text(line)
            if text is None:
                continue
            if not text.strip():
                self._counts.empty += 1
                continue
            self._counts.mended += line.mended
            yield OutgoingRecord(text, self._time(text, file.modified_ns))

    def _text(self, line: LogLine) -> str | None:
        if line.text is None:
            self._counts.reject(f"line longer than {LONGEST_LINE} bytes")
            return None
        if self._json_field is None or not line.text.strip():
            return line.text
        try:
            value = msgspec.json.decode(line.text)
        except msgspec.DecodeError:
            value = None
        text = value.get(self._json_field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            self._counts.reject(f"line is no JSON object with a text field {self._json_field!r}")
            return None
        return text.encode("utf-8", "replace").decode("utf-8")

    def _time(self, text: str, reference_ns: int) -> int:
        time_ns = self._parse_timestamp(text, reference_ns)
        if time_ns is None or not 0 < time_ns <= _MAXIMUM_NANOSECONDS:
            self._counts.without_time += 1
            return 0
        return time_ns


def batches(
    records: Iterable[OutgoingRecord], most_records: int = BATCH_RECORDS, most_bytes: int = BATCH_BYTES
) -> Iterator[list[OutgoingRecord]]:
    """Groups of at most `most_records` records and about `most_bytes` bytes; a larger record goes alone."""
    group: list[OutgoingRecord] = []
    size = 0
    for record in records:
        record_size = len(record.text.encode()) + _RECORD_OVERHEAD
        if group and (len(group) >= most_records or size + record_size > most_bytes):
            yield group
            group, size = [], 0
        group.append(record)
        size += record_size
    if group:
        yield group


def export_request(group: Iterable[OutgoingRecord], origin: LogOrigin, observed_ns: int) -> bytes:
    """The gzip body of one OTLP export request. The same input gives the same bytes."""
    attributes = [_attribute("log.file.name", origin.file_name), _attribute("log.file.path", origin.file_path)]
    scope = ScopeLogs(
        log_records=[
            LogRecord(
                time_unix_nano=record.time_ns,
                observed_time_unix_nano=observed_ns,
                body=AnyValue(string_value=record.text),
                attributes=attributes,
            )
            for record in group
        ]
    )
    scope.scope.name = _SCOPE
    resource = Resource(attributes=[_attribute("host.name", origin.host)])
    if origin.service:
        resource.attributes.append(_attribute("service.name", origin.service))
    message = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])])
    # The zlib wrapper with a gzip header writes no time into it, unlike gzip.compress.
    compressor = zlib.compressobj(level=1, wbits=31)
    return compressor.compress(message.SerializeToString()) + compressor.flush()


def idempotency_key(source: str, body: bytes) -> str:
    """A function of where a batch comes from (file and place in it) and of its bytes.

    The same batch of the same file has the same key on every run; equal batches of one file have different ones.
    """
    return hashlib.sha256(f"{source}\0".encode("utf-8", "surrogateescape") + body).hexdigest()


def _attribute(key: str, value: str) -> KeyValue:
    # File names may hold bytes that are no UTF-8; protobuf text may not.
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return KeyValue(key=key, value=AnyValue(string_value=clean))
