"""The event time that an object of any common shape states."""

from __future__ import annotations

from typing import Any

from detect.normalize.structured import parse_object
from detect.normalize.timestamps import parse_timestamp
from detect.record import AnyValue, Nanoseconds

# Names that common sources use: Elastic and logstash, most JSON loggers, Windows, CloudTrail, Kubernetes audit.
_TIME_FIELDS = (
    "@timestamp",
    "timestamp",
    "time",
    "ts",
    "eventTime",
    "requestReceivedTimestamp",
    "datetime",
    "date",
    "UtcTime",
    "EventTime",
    "TimeCreated",
    "SystemTime",
    "timeCreated",
)
_NESTED = ("Event", "System", "TimeCreated", "#attributes", "winlog")
_LATEST_SECONDS = 4_102_444_800  # 2100: larger numbers are milliseconds, then microseconds, then nanoseconds


def time_of_body(body: AnyValue, reference_ns: Nanoseconds) -> Nanoseconds | None:
    """The time that a record's body states, a line or an object, in nanoseconds since the epoch; None for none.

    `reference_ns` is a time near which it was written: it gives a stamp without a year its year.
    """
    if isinstance(body, str):
        if not body.startswith("{"):
            return parse_timestamp(body, reference_ns)
        body = parse_object(body)
    return time_of_object(body, reference_ns)


def time_of_object(value: Any, reference_ns: Nanoseconds, depth: int = 0) -> Nanoseconds | None:
    """The time in the fields of an object that are known to hold one, also where an exporter nests them."""
    if not isinstance(value, dict) or depth > len(_NESTED):
        return None
    for name in _TIME_FIELDS:
        stated = value.get(name)
        time_ns = parse_timestamp(stated, reference_ns) if isinstance(stated, str) else _epoch(stated)
        if time_ns is not None:
            return time_ns
    for name in _NESTED:
        if (time_ns := time_of_object(value.get(name), reference_ns, depth + 1)) is not None:
            return time_ns
    return None


def _epoch(stated: object) -> int | None:
    """Seconds, milliseconds, microseconds or nanoseconds since the epoch, told apart by size."""
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated < _LATEST_SECONDS * 10**9:
        return None
    unit = 10**9
    while stated >= _LATEST_SECONDS * (10**9 // unit):
        unit //= 1000
    return int(stated * unit)
