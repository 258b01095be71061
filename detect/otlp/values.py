"""What both encodings share: the depth that nested values may have, and which time a record gets."""

from __future__ import annotations

from typing import Final

from detect.record import Nanoseconds, TimeMark

MAX_DEPTH: Final = 64
"""Levels of arrays and kvlists in one value. In protobuf upb is stricter: it refuses more than 100 nested messages,
which is 48 levels of arrays, so what it has parsed needs no second look."""


def event_time(
    stated_ns: Nanoseconds, observed_ns: Nanoseconds, received_ns: Nanoseconds, tolerance_ns: Nanoseconds
) -> tuple[Nanoseconds, TimeMark]:
    """The time that detection uses for a record, and the mark that says how it was found."""
    time_ns = stated_ns or observed_ns
    if not time_ns:
        return received_ns, "unset"
    if time_ns > received_ns + tolerance_ns:
        return received_ns, "future"
    return time_ns, ""


def too_deep(where: str) -> str:
    """The message for a value that nests too deeply."""
    return f"{where}: arrays and kvlists nest deeper than {MAX_DEPTH} levels"
