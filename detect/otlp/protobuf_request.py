"""OTLP protobuf requests, parsed once by upb and walked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from detect.batch import Batch
from detect.otlp.errors import UndecodableBatch
from detect.otlp.mend import mended_request
from detect.otlp.raw_values import OddValue, pair_reader, request_class
from detect.otlp.values import event_time
from detect.record import AnyValue, LogRecord, Nanoseconds, RecordRef

_NOTHING = b""
_plain_tuple = tuple.__new__  # a named one would come by a call of its own


def count_protobuf(payload: bytes) -> int:
    """The number of records in the request; raises UndecodableBatch unless `protobuf_records` would take it."""
    request = _parse(payload)
    return sum(
        len(scope_logs.log_records)
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
    )


def protobuf_records(batch: Batch, tolerance_ns: Nanoseconds) -> list[LogRecord]:
    """All records of a protobuf batch, in order."""
    try:
        read = _Reads(_raw_attributes(), _raw_body)
        return _records(batch, tolerance_ns, request_class().FromString(batch.payload), read)
    except (DecodeError, OddValue, UnicodeDecodeError):
        return proper_records(batch, tolerance_ns)


def proper_records(batch: Batch, tolerance_ns: Nanoseconds) -> list[LogRecord]:
    """The same, read by the schema proper; text that is not UTF-8 is mended. Raises UndecodableBatch."""
    return _records(batch, tolerance_ns, _parse(batch.payload), _Reads(_attributes, _proper_body))


class _Reads(NamedTuple):
    """How the attributes and bodies of a request are read; with a body comes what it was read from (LogRecord.sent)."""

    attributes: Callable[[Any], dict[str, AnyValue]]
    body: Callable[[Any], tuple[AnyValue, bytes]]


def _records(batch: Batch, tolerance_ns: Nanoseconds, request: Any, read: _Reads) -> list[LogRecord]:
    records: list[LogRecord] = []
    add, seq, received = records.append, batch.seq, batch.received_ns
    attributes, body_of = read
    for resource_logs in request.resource_logs:
        resource = attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            scope = scope_logs.scope.name
            for record in scope_logs.log_records:
                stated, observed = record.time_unix_nano, record.observed_time_unix_nano
                time_ns, mark = event_time(stated, observed, received, tolerance_ns)
                body, pairs, trace_id, span_id = record.body, record.attributes, record.trace_id, record.span_id
                text = body.string_value
                value, sent = (text, _NOTHING) if text else body_of(body)
                add(
                    LogRecord(
                        _plain_tuple(RecordRef, (seq, len(records))),
                        time_ns,
                        stated,
                        observed,
                        received,
                        record.severity_number,
                        record.severity_text,
                        value,
                        attributes(pairs) if pairs else {},
                        resource,
                        scope,
                        trace_id.hex() if trace_id else "",
                        span_id.hex() if span_id else "",
                        record.flags,
                        record.event_name,
                        record.dropped_attributes_count,
                        mark,
                        sent,
                    )
                )
    return records


def _parse(payload: bytes) -> Any:
    try:
        return ExportLogsServiceRequest.FromString(payload)
    except DecodeError:
        mended = mended_request(payload)
    if mended is None:
        raise UndecodableBatch(
            f"the body of {len(payload)} bytes is not an ExportLogsServiceRequest in protobuf: "
            "it is cut short, nests too deeply or is another format"
        )
    return ExportLogsServiceRequest.FromString(mended)


def _raw_attributes() -> Callable[[Any], dict[str, AnyValue]]:
    known = pair_reader().__getitem__
    return lambda pairs: dict(map(known, pairs))


def _raw_body(body: Any) -> tuple[AnyValue, bytes]:
    # A slice is made in one go, a list item by item; of another kind of body it is empty.
    pairs = body.kvlist_value.values[:]
    if pairs:
        reader = pair_reader()
        maps = reader.maps
        value = dict(map(reader.__getitem__, pairs))
        # To rules a map inside is JSON, of which not all stands in the bytes.
        return value, b"".join(pairs) if reader.maps == maps else _NOTHING
    match body.WhichOneof("value"):
        case "kvlist_value":
            return {}, _NOTHING
        case "array_value":
            return pair_reader().items_of(body.array_value.values, 1), _NOTHING
        case _:
            return _value(body), _NOTHING


def _proper_body(body: Any) -> tuple[AnyValue, bytes]:
    return _value(body), _NOTHING


def _attributes(pairs: Any) -> dict[str, AnyValue]:
    return {pair.key: pair.value.string_value or _value(pair.value) for pair in pairs}


def _value(value: Any) -> AnyValue:
    # upb has bounded the depth already (see MAX_DEPTH).
    match value.WhichOneof("value"):
        case "string_value":
            return str(value.string_value)
        case "int_value":
            return int(value.int_value)
        case "bool_value":
            return bool(value.bool_value)
        case "double_value":
            return float(value.double_value)
        case "bytes_value":
            return bytes(value.bytes_value)
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
        case _:
            return None
