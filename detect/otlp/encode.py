"""From typed records back to an OTLP/JSON request: what a person may edit, and what a retry carries.

Decoding the result gives records equal to the given ones but for their place; the digest of each is the same.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from detect.record import AnyValue, LogRecord


def json_request(records: Sequence[LogRecord], indent: int = 0) -> bytes:
    """An OTLP/JSON logs request of the records in their order; `indent` is the number of spaces, 0 for one line."""
    encoded = msgspec.json.encode({"resourceLogs": [_resource_logs(record) for record in records]})
    return msgspec.json.format(encoded, indent=indent) if indent else encoded


def _resource_logs(record: LogRecord) -> dict[str, Any]:
    scope_logs: dict[str, Any] = {"logRecords": [_log_record(record)]}
    if record.scope:
        scope_logs = {"scope": {"name": record.scope}} | scope_logs
    return {"resource": {"attributes": _pairs(record.resource)}, "scopeLogs": [scope_logs]}


def _log_record(record: LogRecord) -> dict[str, Any]:
    stated = {
        "timeUnixNano": str(record.stated_ns) if record.stated_ns else None,
        "observedTimeUnixNano": str(record.observed_ns) if record.observed_ns else None,
        "severityNumber": record.severity_number or None,
        "severityText": record.severity_text or None,
        "body": None if record.body is None else _any_value(record.body),
        "attributes": _pairs(record.attributes) or None,
        "droppedAttributesCount": record.dropped_attributes or None,
        "flags": record.flags or None,
        "traceId": record.trace_id or None,
        "spanId": record.span_id or None,
        "eventName": record.event_name or None,
    }
    return {name: value for name, value in stated.items() if value is not None}


def _pairs(values: dict[str, AnyValue]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in values.items()]


def _any_value(value: AnyValue) -> dict[str, Any]:
    match value:
        case None:
            return {}
        case str():
            return {"stringValue": value}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value if math.isfinite(value) else _not_finite(value)}
        case bytes():
            return {"bytesValue": base64.b64encode(value).decode("ascii")}
        case dict():
            return {"kvlistValue": {"values": _pairs(value)}}
        case list():
            return {"arrayValue": {"values": [_any_value(item) for item in value]}}


def _not_finite(value: float) -> str:
    """As proto JSON writes it."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
