"""Conditions that can only be judged when a window has closed: upper bounds, equality, absence.

They are asked of each match once no more matches can come within a span after it. Upper bounds are asked of the
match's *peak*: the highest measure of all windows that hold it, so no boundary between windows hides a burst. What must
be absent must be absent from all windows that hold the match.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from detect.record import Nanoseconds
from detect.sigma.correlation_group import Firings, fired_at, is_armed
from detect.sigma.measures import (
    Entry,
    EntryKey,
    Measure,
    Number,
    exact_bounds,
    is_met,
    key_of,
    measure_of,
    time_of,
    windows,
)
from detect.sigma.rule import SigmaCorrelation

MAX_NUMBERED = 10_000
MAX_COMBINED = 2_000


class Verdict(NamedTuple):
    """A match that meets the condition: the entries of the window that shows it, and the measure."""

    entries: Sequence[Entry]
    number: Number


class ClosingJudge(Protocol):
    """Judges matches whose windows have closed. `limit` is how many entries a group is cut back to."""

    limit: int

    def judge(self, entries: Sequence[Entry], due: Sequence[EntryKey], fired: Firings) -> list[Verdict]:
        """The verdicts that fire. `due` are keys of entries, in order, and at least one. A group that has fired is
        silent for matches within a span of those times, and each verdict makes it so again."""
        ...


def closing_judge(correlation: SigmaCorrelation) -> ClosingJudge:
    """The judge of a correlation that waits for windows to close."""
    if correlation.awaits_silence:
        return SilenceJudge(correlation.span_ns)
    if not correlation.alternatives:
        return PeakJudge(correlation)
    return (OrderJudge if correlation.kind == "temporal_ordered" else AbsenceJudge)(correlation)


class SilenceJudge:
    """`eq: 0`: no match followed within the span."""

    limit = MAX_NUMBERED

    def __init__(self, span_ns: Nanoseconds) -> None:
        self._span_ns = span_ns

    def judge(self, entries: Sequence[Entry], due: Sequence[EntryKey], fired: Firings) -> list[Verdict]:
        """Fires for the last match before each silence."""
        found = []
        for key in due:
            place = bisect_left(entries, key, key=key_of)
            follower = entries[place + 1] if place + 1 < len(entries) else None
            if follower is None or follower[0] > key[0] + self._span_ns:
                found.append(Verdict(entries[place : place + 1], 0))
        return found


class PeakJudge:
    """Bounds of which some is an upper one."""

    limit = MAX_NUMBERED

    def __init__(self, correlation: SigmaCorrelation) -> None:
        self._bounds = exact_bounds(correlation.bounds)
        self._span_ns = correlation.span_ns
        self._new: Callable[[], Measure] = measure_of(correlation)

    def judge(self, entries: Sequence[Entry], due: Sequence[EntryKey], fired: Firings) -> list[Verdict]:
        """Fires for a match whose peak meets the bounds, with the first window that reaches the peak."""
        span_ns = self._span_ns
        first = bisect_left(entries, due[0], key=key_of)
        limit_ns = due[-1][0] + span_ns
        ahead = windows(entries, first, limit_ns, span_ns, self._new())
        # Windows of which none before is as high: a queue whose head is the peak of what has been looked at.
        high: deque[tuple[int, int, Number]] = deque()
        following = next(ahead, None)
        found = []
        for key in due:
            while following is not None and entries[following[0]][0] <= key[0] + span_ns:
                while high and high[-1][2] < following[2]:
                    high.pop()
                high.append(following)
                following = next(ahead, None)
            place = bisect_left(entries, key, key=key_of)
            while high[0][0] < place:
                high.popleft()
            end, start, number = high[0]
            if is_armed(fired, key[0], span_ns) and is_met(self._bounds, number):
                fired = fired_at(entries[end][0], fired)
                found.append(Verdict(entries[start : end + 1], number))
        return found


class AbsenceJudge:
    """temporal: sources that occurred together while others did not."""

    limit = MAX_COMBINED

    def __init__(self, correlation: SigmaCorrelation) -> None:
        numbers = {source: number for number, source in enumerate(correlation.sources)}
        self._span_ns = correlation.span_ns
        self._ways = [
            ([numbers[source] for source in way.present], [numbers[source] for source in way.absent])
            for way in correlation.alternatives
        ]

    def judge(self, entries: Sequence[Entry], due: Sequence[EntryKey], fired: Firings) -> list[Verdict]:
        """Fires for a match of a source that must occur, with the first window that holds all that must."""
        times: dict[int, list[Nanoseconds]] = {}
        for entry in entries:
            times.setdefault(entry[2], []).append(entry[0])
        found = []
        for key in due:
            if not is_armed(fired, key[0], self._span_ns):
                continue
            window = self._window(entries, key, times)
            if window is not None:
                fired = fired_at(window.entries[-1][0], fired)
                found.append(window)
        return found

    def _window(self, entries: Sequence[Entry], key: EntryKey, times: dict[int, list[Nanoseconds]]) -> Verdict | None:
        time_ns, span_ns = key[0], self._span_ns
        near = {source for source, held in times.items() if _any_within(held, time_ns - span_ns, time_ns + span_ns)}
        ways = [
            present
            for present, absent in self._ways
            if key[2] in present and near.issuperset(present) and near.isdisjoint(absent)
        ]
        place = bisect_left(entries, key, key=key_of)
        while ways and place < len(entries) and (end_ns := entries[place][0]) <= time_ns + span_ns:
            # Entries of one time follow one another: a window that ends at this one does not reach beyond it.
            start = bisect_left(entries, end_ns - span_ns, key=time_of)
            for present in ways:
                if all(_any_within(times[source], end_ns - span_ns, end_ns) for source in present):
                    held = entries[start : place + 1]
                    if {entry[2] for entry in held}.issuperset(present):
                        return Verdict(held, len(present))
            place += 1
        return None


def _any_within(times: Sequence[Nanoseconds], low_ns: Nanoseconds, high_ns: Nanoseconds) -> bool:
    return bisect_left(times, low_ns) < bisect_right(times, high_ns)


class OrderJudge:
    """temporal_ordered: sources one after the other, and none of the absent ones in their place of the order.

    An absent source that stands between two others must not occur between their matches; one at the beginning not
    within a span before the first match; one at the end not after the last match within a span of the first.
    """

    limit = MAX_COMBINED

    def __init__(self, correlation: SigmaCorrelation) -> None:
        numbers = {source: number for number, source in enumerate(correlation.sources)}
        self._span_ns = correlation.span_ns
        self._chains = []
        for way in correlation.alternatives:
            present = sorted(numbers[source] for source in way.present)
            # How many of the present sources come before the absent one.
            absent = {numbers[source]: bisect_left(present, numbers[source]) for source in way.absent}
            self._chains.append((present, absent))

    def judge(self, entries: Sequence[Entry], due: Sequence[EntryKey], fired: Firings) -> list[Verdict]:
        """Fires for the first match of a chain."""
        found = []
        for key in due:
            if not is_armed(fired, key[0], self._span_ns):
                continue
            place = bisect_left(entries, key, key=key_of)
            for present, absent in self._chains:
                end = self._end(entries, place, present, absent) if present[0] == key[2] else None
                if end is not None:
                    fired = fired_at(entries[end][0], fired)
                    found.append(Verdict(entries[place : end + 1], len(present)))
                    break
        return found

    def _end(self, entries: Sequence[Entry], place: int, present: Sequence[int], absent: dict[int, int]) -> int | None:
        """The place of the last match of a chain that begins at `place`; None when there is none."""
        first = entries[place]
        before = place - 1
        while before >= 0 and entries[before][0] >= first[0] - self._span_ns:
            if absent.get(entries[before][2]) == 0:
                return None
            before -= 1
        # ends[n]: where a chain of the first n + 1 sources ends that nothing has broken so far.
        ends: list[int | None] = [place, *[None] * (len(present) - 1)]
        steps = {source: step for step, source in enumerate(present) if step}
        for following in range(place + 1, len(entries)):
            time_ns, _, source, *_ = entries[following]
            if time_ns > first[0] + self._span_ns:
                break
            if source in steps and ends[steps[source] - 1] is not None:
                ends[steps[source]] = following
            elif broken := absent.get(source):
                ends[broken - 1] = None
        return ends[-1]
