"""What is not OTLP becomes OTLP at the door: one ExportLogsServiceRequest whose bodies are the texts as they came.

Pure: the same records give the same bytes. So the journal, the detectors and a replay know one format only, and
whatever a door understood of its protocol (time, severity, host, file) stands where OTLP senders put it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import zstandard
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ScopeLogs

from detect.record import Nanoseconds
from store.journal import Encoding

_LEVEL: Final = 1
_WORTH_COMPRESSING: Final = 512  # bytes; below, the frame costs about what it saves
_UINT64_MAX: Final = 2**64 - 1

MOST_RECORDS: Final = 100_000
"""Records in one request of a foreign protocol: a body of the largest size could hold a hundred times as many."""

HOST: Final = "host.name"
FILE_PATH: Final = "log.file.path"
ORIGINAL: Final = "log.record.original"
RECORD_UID: Final = "log.record.uid"


class SourceRecord(NamedTuple):
    """One record of a foreign protocol. `text` is its bytes as received; `time_ns` 0 means that it states no time."""

    text: bytes
    time_ns: Nanoseconds = 0
    severity_number: int = 0
    severity_text: str = ""
    host: str = ""
    attributes: Mapping[str, str | int | bool] = {}


def otlp_request(records: Iterable[SourceRecord], door: str, resource: Mapping[str, str]) -> bytes:
    """The records as a protobuf request, in their order: record i of the input is record i of the batch.

    `door` becomes the scope's name (`trustsoc.<door>`), `resource` stands beside the host of every record. Text that
    is not UTF-8 is kept whole in `log.record.original` and shown with U+FFFD in the body.
    """
    request = ExportLogsServiceRequest()
    host = ""
    group: ScopeLogs | None = None
    for record in records:
        if group is None or record.host != host:
            host = record.host
            group = _new_group(request, door, {**resource, HOST: host} if host else resource)
        _add(group, record)
    return request.SerializeToString()


def compressed(payload: bytes) -> tuple[bytes, Encoding]:
    """The payload as the journal keeps it, and the encoding it is in."""
    if len(payload) < _WORTH_COMPRESSING:
        return payload, "identity"
    return zstandard.ZstdCompressor(level=_LEVEL).compress(payload), "zstd"


def _new_group(request: ExportLogsServiceRequest, door: str, resource: Mapping[str, str]) -> ScopeLogs:
    resource_logs = request.resource_logs.add()
    for key, value in resource.items():
        attribute = resource_logs.resource.attributes.add()
        attribute.key = key
        attribute.value.string_value = value
    group: ScopeLogs = resource_logs.scope_logs.add()
    group.scope.name = f"trustsoc.{door}"
    return group


def _add(group: ScopeLogs, record: SourceRecord) -> None:
    into = group.log_records.add()
    if 0 < record.time_ns <= _UINT64_MAX:
        into.time_unix_nano = record.time_ns
    if record.severity_number:
        into.severity_number = record.severity_number  # type: ignore[assignment]  # the stub wants the enum's own type
    if record.severity_text:
        into.severity_text = record.severity_text
    try:
        into.body.string_value = record.text.decode("utf-8")
    except UnicodeDecodeError:
        into.body.string_value = record.text.decode("utf-8", "replace")
        _set(into, ORIGINAL, record.text)
    for key, value in record.attributes.items():
        _set(into, key, value)


def _set(record: LogRecord, key: str, value: str | int | bool | bytes) -> None:
    attribute = record.attributes.add()
    attribute.key = key
    match value:
        case bool():
            attribute.value.bool_value = value
        case int():
            attribute.value.int_value = value
        case bytes():
            attribute.value.bytes_value = value
        case str():
            attribute.value.string_value = value
