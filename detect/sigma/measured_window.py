"""A window of numbers that is moved to where it is looked at next: what comes late is judged near where it belongs.

Only for measures that do not ask for the order of entries: sums, averages and ranks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from detect.record import Nanoseconds
from detect.sigma.measures import Entry, Measure, Number, time_of


class MeasuredWindow:
    """The measure of the entries from place `start` up to, and without, place `stop`."""

    __slots__ = ("_measure", "_new", "_span_ns", "start", "stop")

    def __init__(self, new_measure: Callable[[], Measure], span_ns: Nanoseconds) -> None:
        self._new = new_measure
        self._measure = new_measure()
        self._span_ns = span_ns
        self.start = self.stop = 0

    def make_place(self, place: int, entry: Entry) -> None:
        """The entry has come in at that place: those behind it have moved on by one."""
        if place <= self.start:
            self.start += 1
            self.stop += 1
        elif place < self.stop:
            self._measure.add(entry)
            self.stop += 1

    def number_at(self, entries: Sequence[Entry], end: int) -> Number:
        """The measure of the window that ends at a place. It costs as much as that is away from where it was."""
        horizon_ns = entries[end][0] - self._span_ns
        self._move(entries, bisect_left(entries, horizon_ns, key=time_of), end + 1)
        return self._measure.number(horizon_ns)

    def _move(self, entries: Sequence[Entry], start: int, stop: int) -> None:
        if abs(start - self.start) + abs(stop - self.stop) >= stop - start:
            self._measure = self._new()
            self.start = self.stop = start
        measure = self._measure
        for place in range(start, self.start):
            measure.add(entries[place])
        for place in range(self.stop, stop):
            measure.add(entries[place])
        for place in range(self.start, start):
            measure.remove(entries[place])
        for place in range(stop, self.stop):
            measure.remove(entries[place])
        self.start, self.stop = start, stop
