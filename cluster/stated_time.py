"""The event time that a line states, in plain log lines and in JSON lines."""

from __future__ import annotations

import msgspec

from detect.normalize.timestamps import parse_timestamp
from hunt.event_time import time_of_object

_MOST_JSON_BYTES = 256 * 1024


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
    return time_of_object(value, reference_ns)
