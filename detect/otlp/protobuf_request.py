"""OTLP protobuf requests, parsed once by upb and walked once."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from detect.batch import Batch
from detect.otlp.errors import UndecodableBatch
from detect.otlp.mend import mended_request
from detect.otlp.values import event_time
from detect.record import AnyValue, LogRecord, Nanoseconds, RecordRef


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
    request = _parse(batch.payload)
    records: list[LogRecord] = []
    add, seq, received = records.append, batch.seq, batch.received_ns
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            scope = scope_logs.scope.name
            for record in scope_logs.log_records:
                position = len(records)
                stated, observed = record.time_unix_nano, record.observed_time_unix_nano
                time_ns, mark = event_time(stated, observed, received, tolerance_ns)
                body = record.body
                add(
                    LogRecord(
                        RecordRef(seq, position),
                        time_ns,
                        stated,
                        observed,
                        received,
                        record.severity_number,
                        record.severity_text,
                        body.string_value or _value(body),
                        {pair.key: pair.value.string_value or _value(pair.value) for pair in record.attributes},
                        resource,
                        scope,
                        record.trace_id.hex(),
                        record.span_id.hex(),
                        record.flags,
                        record.event_name,
                        record.dropped_attributes_count,
                        mark,
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
