"""The event time that a line states, in plain log lines and in JSON lines."""

from __future__ import annotations

from typing import Any

import msgspec

from detect.normalize.timestamps import parse_timestamp

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
_MOST_JSON_BYTES = 256 * 1024
_LATEST_SECONDS = 4_102_444_800  # 2100: larger numbers are milliseconds, then microseconds, then nanoseconds


def stated_time(line: str, reference_ns: int) -> int | None:
    """Nanoseconds since the epoch, or None where the line states no time. `reference_ns` gives a missing year."""
    if not line.startswith("{"):
        return parse_timestamp(line, reference_ns)
    if len(line) > _MOST_JSON_BYTES:
        return None
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    return _time_in(value, reference_ns, depth=0)


def _time_in(value: Any, reference_ns: int, depth: int) -> int | None:
    if not isinstance(value, dict) or depth > len(_NESTED):
        return None
    for name in _TIME_FIELDS:
        stated = value.get(name)
        time_ns = parse_timestamp(stated, reference_ns) if isinstance(stated, str) else _epoch(stated)
        if time_ns is not None:
            return time_ns
    for name in _NESTED:
        if (time_ns := _time_in(value.get(name), reference_ns, depth + 1)) is not None:
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
