"""What a correlation holds of one group, and when a group that has fired may fire again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detect.record import Nanoseconds
from detect.sigma.measures import Entry, EntryKey

MAX_FIRINGS = 8
"""Sources keep different times, and interleave: one that is far behind must not make the others forget that the group
has fired. So many times are remembered, of the firings last told."""

Firings = tuple[Nanoseconds, ...]
"""The ends of the windows with which a group fired, the last one told first."""


def is_armed(fired: Firings, time_ns: Nanoseconds, span_ns: Nanoseconds) -> bool:
    """Whether a group may fire for that time: it has not fired within a span of it, before or after."""
    for fired_ns in fired:  # noqa: SIM110 - a generator costs more, and of a flooded group this is asked at every match
        if -span_ns <= time_ns - fired_ns <= span_ns:
            return False
    return True


def fired_at(time_ns: Nanoseconds, fired: Firings) -> Firings:
    """The firings, with one more."""
    return (time_ns, *fired[: MAX_FIRINGS - 1])


class Group:
    """The matches of one combination of group-by values, in order, when the group fired, and where the watermark
    stood when it was last touched, which was the `touch`th time that any group was. `spared` is how many entries older
    than the newest its last trim has kept. `pending` are matches whose windows have yet to close, with the time when
    they do, of which `due_ns` is the first; `memo` is its judge's own."""

    __slots__ = ("due_ns", "entries", "fired", "memo", "pending", "spared", "touch", "touched_ns")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.fired: Firings = ()
        self.spared = 0
        self.touch = 0
        self.touched_ns: Nanoseconds = 0
        self.memo: Any = None
        self.pending: Sequence[tuple[Nanoseconds, EntryKey]] = ()
        self.due_ns: Nanoseconds = 0

    def await_windows(self, pending: Sequence[tuple[Nanoseconds, EntryKey]]) -> None:
        """These matches, and no others, wait for their windows to close."""
        self.pending = pending
        self.due_ns = min((due_ns for due_ns, _ in pending), default=0)


def touch_of(item: tuple[object, Group]) -> int:
    """Of a key and its group: which touch of all was the group's last."""
    return item[1].touch
