"""OTLP/JSON requests through typed structs.

OTLP/JSON is its own dialect of proto JSON: lowerCamelCase names only, trace and span ids in hex, enums as integers
(names are taken as well), 64-bit integers as numbers or decimal strings, bytes in base64, unknown fields ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

from detect.batch import Batch
from detect.otlp.errors import UndecodableBatch
from detect.otlp.values import MAX_DEPTH, event_time, too_deep
from detect.record import AnyValue, LogRecord, Nanoseconds, RecordRef

_INT64 = (-(2**63), 2**63 - 1)
_UINT64 = (0, 2**64 - 1)
_UINT32 = (0, 2**32 - 1)


class _JsonArray(msgspec.Struct, gc=False):
    values: list[_JsonValue] | None = None


class _JsonKvlist(msgspec.Struct, gc=False):
    values: list[_JsonPair] | None = None


class _JsonValue(msgspec.Struct, rename="camel", gc=False):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    bytes_value: str | None = None
    array_value: _JsonArray | None = None
    kvlist_value: _JsonKvlist | None = None


class _JsonPair(msgspec.Struct, gc=False):
    key: str = ""
    value: _JsonValue | None = None


class _JsonRecord(msgspec.Struct, rename="camel", gc=False):
    time_unix_nano: int | str | None = None
    observed_time_unix_nano: int | str | None = None
    severity_number: int | str | None = None
    severity_text: str | None = None
    body: _JsonValue | None = None
    attributes: list[_JsonPair] | None = None
    dropped_attributes_count: int | str | None = None
    flags: int | str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None


class _JsonScope(msgspec.Struct, gc=False):
    name: str | None = None


class _JsonScopeLogs(msgspec.Struct, rename="camel", gc=False):
    scope: _JsonScope | None = None
    log_records: list[_JsonRecord] | None = None


class _JsonResource(msgspec.Struct, gc=False):
    attributes: list[_JsonPair] | None = None


class _JsonResourceLogs(msgspec.Struct, rename="camel", gc=False):
    resource: _JsonResource | None = None
    scope_logs: list[_JsonScopeLogs] | None = None


class _JsonRequest(msgspec.Struct, rename="camel", gc=False):
    resource_logs: list[_JsonResourceLogs] | None = None


class _ParsedRecord(NamedTuple):
    """A record of a JSON request, checked, before it has a place and a time."""

    stated_ns: int
    observed_ns: int
    severity_number: int
    severity_text: str
    body: AnyValue
    attributes: dict[str, AnyValue]
    resource: dict[str, AnyValue]
    scope: str
    trace_id: str
    span_id: str
    flags: int
    event_name: str
    dropped_attributes: int


_DECODER = msgspec.json.Decoder(_JsonRequest)
_SEVERITIES: dict[str, int] = dict(SeverityNumber.items())
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*").fullmatch
_DECIMAL = re.compile(r"-?\d{1,20}", re.ASCII).fullmatch
# One JSON escape: a proper pair of surrogates, a lone surrogate (group 1), or anything else.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def json_records(batch: Batch, tolerance_ns: Nanoseconds) -> list[LogRecord]:
    """All records of a JSON batch, in order."""
    records: list[LogRecord] = []
    received = batch.received_ns
    for position, parsed in enumerate(parse_json(batch.payload)):
        time_ns, mark = event_time(parsed.stated_ns, parsed.observed_ns, received, tolerance_ns)
        records.append(
            LogRecord(
                RecordRef(batch.seq, position),
                time_ns,
                parsed.stated_ns,
                parsed.observed_ns,
                received,
                parsed.severity_number,
                parsed.severity_text,
                parsed.body,
                parsed.attributes,
                parsed.resource,
                parsed.scope,
                parsed.trace_id,
                parsed.span_id,
                parsed.flags,
                parsed.event_name,
                parsed.dropped_attributes,
                mark,
            )
        )
    return records


def parse_json(payload: bytes) -> list[_ParsedRecord]:
    """The checked records of a JSON request; raises UndecodableBatch with the place of the first fault."""
    request = _parse(payload)
    try:
        return list(_walk(request))
    except _Fault as fault:
        field = str(fault).partition(":")[0]
        raise UndecodableBatch(f"the body is not valid OTLP/JSON: {fault}", field) from None


class _Fault(ValueError):
    """A value that its field cannot hold. The path is put together only when there is something to say."""

    def at(self, place: str) -> _Fault:
        return _Fault(f"{place}{self}")


def _parse(payload: bytes) -> _JsonRequest:
    payload = payload.removeprefix(b"\xef\xbb\xbf")
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        mended = _ESCAPE.sub(_mend_escape, payload.decode("utf-8", "replace").encode("utf-8"))
    try:
        return _DECODER.decode(mended)
    except RecursionError:
        raise UndecodableBatch(f"the body is not valid OTLP/JSON: {too_deep('a value')}") from None
    except msgspec.DecodeError as error:
        raise UndecodableBatch(f"the body is not valid OTLP/JSON: {error}") from error


def _mend_escape(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match[1] else match[0]


def _walk(request: _JsonRequest) -> Iterator[_ParsedRecord]:
    for i, resource_logs in enumerate(request.resource_logs or ()):
        try:
            resource = _attributes(resource_logs.resource.attributes) if resource_logs.resource else {}
        except _Fault as fault:
            raise fault.at(f"resourceLogs[{i}].resource.") from None
        for j, scope_logs in enumerate(resource_logs.scope_logs or ()):
            scope = (scope_logs.scope.name or "") if scope_logs.scope else ""
            for k, record in enumerate(scope_logs.log_records or ()):
                try:
                    yield _record(record, resource, scope)
                except _Fault as fault:
                    raise fault.at(f"resourceLogs[{i}].scopeLogs[{j}].logRecords[{k}].") from None


def _record(record: _JsonRecord, resource: dict[str, AnyValue], scope: str) -> _ParsedRecord:
    return _ParsedRecord(
        _integer(record.time_unix_nano, "timeUnixNano", _UINT64),
        _integer(record.observed_time_unix_nano, "observedTimeUnixNano", _UINT64),
        _severity(record.severity_number),
        record.severity_text or "",
        _value(record.body, "body", 0),
        _attributes(record.attributes),
        resource,
        scope,
        _identifier(record.trace_id, "traceId"),
        _identifier(record.span_id, "spanId"),
        _integer(record.flags, "flags", _UINT32),
        record.event_name or "",
        _integer(record.dropped_attributes_count, "droppedAttributesCount", _UINT32),
    )


def _attributes(pairs: list[_JsonPair] | None) -> dict[str, AnyValue]:
    if not pairs:
        return {}
    values: dict[str, AnyValue] = {}
    for index, pair in enumerate(pairs):
        value = pair.value
        text = value.string_value if value is not None else None
        if text is not None:
            values[pair.key] = text
            continue
        try:
            values[pair.key] = _value(value, "", 0)
        except _Fault as fault:
            raise fault.at(f"attributes[{index}].value") from None
    return values


def _value(value: _JsonValue | None, where: str, depth: int) -> AnyValue:
    if value is None:
        return None
    for plain in (value.string_value, value.bool_value):
        if plain is not None:
            return plain
    if value.int_value is not None:
        return _integer(value.int_value, f"{where}.intValue", _INT64)
    if value.double_value is not None:
        return _double(value.double_value, f"{where}.doubleValue")
    if value.bytes_value is not None:
        return _bytes(value.bytes_value, f"{where}.bytesValue")
    if value.array_value is None and value.kvlist_value is None:
        return None
    if depth >= MAX_DEPTH:
        raise _Fault(too_deep(where))
    if value.array_value is not None:
        return [_value(item, where, depth + 1) for item in value.array_value.values or ()]
    pairs = (value.kvlist_value.values if value.kvlist_value is not None else None) or ()
    return {pair.key: _value(pair.value, where, depth + 1) for pair in pairs}


def _integer(value: int | str | None, where: str, limits: tuple[int, int]) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        if not _DECIMAL(value):
            raise _Fault(f"{where}: {value[:40]!r} is not a decimal integer")
        value = int(value)
    if not limits[0] <= value <= limits[1]:
        raise _Fault(f"{where}: {value} is outside {limits[0]} to {limits[1]}")
    return value


def _double(value: float | str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _Fault(f"{where}: {str(value)[:40]!r} is not a number") from None


def _bytes(value: str, where: str) -> bytes:
    """Base64, standard or URL-safe, padded or not, as proto JSON allows."""
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _Fault(f"{where}: the text is not base64") from None


def _identifier(value: str | None, where: str) -> str:
    if not value:
        return ""
    if not _HEX(value):
        raise _Fault(f"{where}: {value[:40]!r} is not hexadecimal (OTLP/JSON writes ids in hex, not base64)")
    return value.lower()


def _severity(value: int | str | None) -> int:
    if isinstance(value, str):
        if value in _SEVERITIES:
            return _SEVERITIES[value]
        raise _Fault(f"severityNumber: {value[:40]!r} is neither a number nor a SEVERITY_NUMBER name")
    return _integer(value, "severityNumber", (-(2**31), 2**31 - 1))
