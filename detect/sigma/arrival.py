"""Conditions that a match can meet at once, judged in constant time while matches come in order.

Each judge keeps a memo of a group: a function of the group's entries alone, so that it need not be saved. A match that
comes late is put in its place there, or makes the memo void; `witnesses` names every entry that the memo would miss.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

from detect.record import Nanoseconds
from detect.sigma.correlation_group import Group
from detect.sigma.measured_window import MeasuredWindow
from detect.sigma.measures import (
    LONG_AGO,
    Entry,
    Measure,
    Number,
    exact_bounds,
    is_met,
    key_of,
    measure_of,
    places_of,
)
from detect.sigma.rule import SigmaCorrelation

SPARE = 256
"""Matches kept beyond what the condition asks for, so that late ones find their neighbours."""
MAX_VALUES = 10_000
"""Values of one group that a sum, an average or a percentile is taken of."""


class ArrivalJudge(Protocol):
    """Judges the window that ends at the newest entry. `limit` is how many entries a group is cut back to; fewer than
    `least` meet no condition, and need not be shown: as long as they are fewer, there is no memo. A `lasting` memo
    stays right when entries go that no window reaches any more."""

    lasting: bool
    least: int
    limit: int

    def judge(self, group: Group, entry: Entry) -> bool:
        """Takes in the entry, the last of the group's: whether the window that ends at it meets the condition."""
        ...

    def take_late(self, group: Group, entry: Entry) -> bool:
        """Takes in an entry that is not the last of the group's: the memo must be as if it had come in its place.

        False when no window of the group can meet the condition.
        """
        ...

    def witnesses(self, entries: Sequence[Entry]) -> set[int]:
        """Places of entries that must stay when a group is cut back to its newest ones."""
        ...


def arrival_judge(correlation: SigmaCorrelation) -> ArrivalJudge:
    """The judge of a correlation that does not wait for windows to close."""
    enough = correlation.at_least or 1
    match correlation.kind:
        case "event_count":
            return CountJudge(int(enough), correlation.span_ns)
        case "value_count":
            return ValueJudge(int(enough), correlation.span_ns)
        case "temporal":
            return SourceJudge(correlation, int(enough))
        case "temporal_ordered":
            return ChainJudge(correlation, int(enough))
        case _:
            return MeasureJudge(correlation)


class CountJudge:
    """event_count: enough matches in the span."""

    lasting = True

    def __init__(self, enough: int, span_ns: Nanoseconds) -> None:
        self.least = enough
        self.limit = enough + SPARE
        self._enough = enough
        self._span_ns = span_ns

    def judge(self, group: Group, entry: Entry) -> bool:
        entries, enough = group.entries, self._enough
        return len(entries) >= enough and entries[-enough][0] >= entry[0] - self._span_ns

    def take_late(self, group: Group, _: Entry) -> bool:
        return len(group.entries) >= self._enough

    def witnesses(self, _: Sequence[Entry]) -> set[int]:
        return set()


class ValueJudge:
    """value_count: enough distinct values in the span. Memo: each value's last time, and a heap of times and values
    that has at least those."""

    lasting = True

    def __init__(self, enough: int, span_ns: Nanoseconds) -> None:
        self.least = enough
        self.limit = enough + SPARE
        self._enough = enough
        self._span_ns = span_ns

    def judge(self, group: Group, entry: Entry) -> bool:
        # Values that come again fill the heap: it is made anew from entries, of which there are 3 * limit at most.
        if group.memo is None or len(group.memo[1]) > 4 * self.limit:
            group.memo = self._last_times(group.entries)
        last, heap = group.memo
        last[entry[3]] = entry[0]
        heappush(heap, (entry[0], entry[3]))
        if len(last) < self._enough:
            return False
        horizon_ns = entry[0] - self._span_ns
        while heap[0][0] < horizon_ns:
            time_ns, value = heappop(heap)
            if last.get(value) == time_ns:
                del last[value]
        return len(last) >= self._enough

    @staticmethod
    def _last_times(entries: Sequence[Entry]) -> tuple[dict[str, Nanoseconds], list[tuple[Nanoseconds, str]]]:
        last = {entry[3]: entry[0] for entry in entries}
        heap = [(time_ns, value) for value, time_ns in last.items()]
        heapify(heap)
        return last, heap

    def take_late(self, group: Group, entry: Entry) -> bool:
        if group.memo is not None:
            last, heap = group.memo
            if last.get(entry[3], LONG_AGO) < entry[0]:
                last[entry[3]] = entry[0]
                heappush(heap, (entry[0], entry[3]))
        return len(group.entries) >= self._enough

    def witnesses(self, entries: Sequence[Entry]) -> set[int]:
        places: dict[str, int] = {}
        for place in range(len(entries) - 1, -1, -1):
            places.setdefault(entries[place][3], place)
            if len(places) >= self.limit:
                break
        return set(places.values())


class SourceJudge:
    """temporal: enough sources in the span, or all of an alternative's. Memo: each source's last time."""

    lasting = True

    def __init__(self, correlation: SigmaCorrelation, enough: int) -> None:
        numbers = {source: number for number, source in enumerate(correlation.sources)}
        self.limit = SPARE
        self._span_ns = correlation.span_ns
        self._enough = enough
        self._all = enough == len(numbers)
        self._none = [LONG_AGO] * len(numbers)
        self._ways = [[numbers[source] for source in way.present] for way in correlation.alternatives]
        self.least = min(map(len, self._ways), default=enough)
        self.judge = self._judge_all if self._all and not self._ways else self._judge_some

    def _judge_all(self, group: Group, entry: Entry) -> bool:
        last: list[Nanoseconds] | None = group.memo
        if last is None:
            last = self._remembered(group)
        last[entry[2]] = entry[0]
        return min(last) >= entry[0] - self._span_ns

    def _judge_some(self, group: Group, entry: Entry) -> bool:
        last: list[Nanoseconds] | None = group.memo
        if last is None:
            last = self._remembered(group)
        last[entry[2]] = entry[0]
        return self._holds(last, entry[0] - self._span_ns)

    def _remembered(self, group: Group) -> list[Nanoseconds]:
        last = group.memo = self._none.copy()
        for item in group.entries:
            last[item[2]] = item[0]
        return last

    def _holds(self, last: list[Nanoseconds], horizon_ns: Nanoseconds) -> bool:
        if self._ways:
            return any(all(last[source] >= horizon_ns for source in way) for way in self._ways)
        if self._all:
            return min(last) >= horizon_ns
        return sum(time_ns >= horizon_ns for time_ns in last) >= self._enough

    def take_late(self, group: Group, entry: Entry) -> bool:
        last: list[Nanoseconds] | None = group.memo
        if last is None:
            return True
        last[entry[2]] = max(last[entry[2]], entry[0])
        return self._holds(last, LONG_AGO + 1)

    def witnesses(self, entries: Sequence[Entry]) -> set[int]:
        return set({entry[2]: place for place, entry in enumerate(entries)}.values())


_Link = tuple[int, Any]
"""The place of an entry of a chain, and the link before it; None before the first."""


_UNENDED = ()
"""The memo of a group without a match that could end the chain: one object for all groups, so that most matches look at
nothing of their group that has left the processor's caches."""


class ChainJudge:
    """temporal_ordered: enough sources in their order, or all of an alternative's. Memo: see measures.Chains; of one
    chain, `_UNENDED` before it can have an end."""

    lasting = True

    def __init__(self, correlation: SigmaCorrelation, enough: int) -> None:
        numbers = {source: number for number, source in enumerate(correlation.sources)}
        ways = [[numbers[source] for source in way.present] for way in correlation.alternatives]
        self.limit = SPARE
        self._span_ns = correlation.span_ns
        self._last = enough - 1
        self._chains = ways or [list(range(len(numbers)))]
        self.least = min(map(len, ways), default=enough)
        self._places = places_of(self._chains)
        self.judge = self._judge_alternatives if ways else self._judge_chain

    def _judge_chain(self, group: Group, entry: Entry) -> bool:
        """The one chain of all sources: a source's number is its place."""
        starts: list[Nanoseconds] | tuple[()] | None = group.memo
        place = entry[2]
        if starts is _UNENDED and place != self._last:
            return False
        if not starts:
            starts = group.memo = self._chain_of(group)
            if not starts:
                return False
        else:
            starts[place] = starts[place - 1] if place else entry[0]
        return starts[self._last] >= entry[0] - self._span_ns

    def _chain_of(self, group: Group) -> list[Nanoseconds] | tuple[()]:
        """The memo of the one chain, from the entries."""
        starts = [LONG_AGO] * len(self._chains[0])
        ended = False
        for item in group.entries:
            place = item[2]
            starts[place] = starts[place - 1] if place else item[0]
            ended = ended or place == self._last
        return starts if ended else _UNENDED

    def _judge_alternatives(self, group: Group, entry: Entry) -> bool:
        starts: list[list[Nanoseconds]] | None = group.memo
        if starts is None:
            starts = group.memo = self._starts(group)
        else:
            self._take(starts, entry)
        horizon_ns = entry[0] - self._span_ns
        return any(chain[-1] >= horizon_ns for chain in starts)

    def take_late(self, group: Group, entry: Entry) -> bool:
        if group.memo is _UNENDED and entry[2] != self._last:
            return False
        group.memo = None
        return len({item[2] for item in group.entries}) >= self.least

    def _starts(self, group: Group) -> list[list[Nanoseconds]]:
        starts = [[LONG_AGO] * len(chain) for chain in self._chains]
        for entry in group.entries:
            self._take(starts, entry)
        return starts

    def _take(self, starts: list[list[Nanoseconds]], entry: Entry) -> None:
        for number, place in self._places.get(entry[2], ()):
            chain = starts[number]
            chain[place] = chain[place - 1] if place else entry[0]

    def witnesses(self, entries: Sequence[Entry]) -> set[int]:
        """The entries of the latest chain of every length."""
        latest: list[list[_Link | None]] = [[None] * len(chain) for chain in self._chains]
        for place, entry in enumerate(entries):
            for number, step in self._places.get(entry[2], ()):
                before = latest[number][step - 1] if step else None
                if before is not None or not step:
                    latest[number][step] = (place, before)
        found: set[int] = set()
        for chain in latest:
            seen: set[int] = set()  # a place is one step of a chain: whatever led to it has been seen with it
            for last in chain:
                link = last
                while link is not None and link[0] not in seen:
                    seen.add(link[0])
                    link = link[1]
            found |= seen
        return found


class MeasureJudge:
    """Sums, averages, medians and percentiles above a bound. Memo: the window that ends at the newest entry, and the
    one that was looked at last for an entry that came late."""

    lasting = False

    def __init__(self, correlation: SigmaCorrelation) -> None:
        self.least = 1
        self.limit = MAX_VALUES
        self._bounds = exact_bounds(correlation.bounds)
        self._span_ns = correlation.span_ns
        self._new: Callable[[], Measure] = measure_of(correlation)

    def judge(self, group: Group, entry: Entry) -> bool:
        return is_met(self._bounds, self._memo(group)[0].number_at(group.entries, len(group.entries) - 1))

    def take_late(self, group: Group, entry: Entry) -> bool:
        if group.memo is not None:
            place = bisect_left(group.entries, key_of(entry), key=key_of)
            for window in group.memo:
                window.make_place(place, entry)
        return True

    def late_windows(self, group: Group, first: int) -> Iterator[tuple[int, int, Number]]:
        """As measures.windows, for the entry at place `first` and the span after it, from what is measured already."""
        entries, window = group.entries, self._memo(group)[1]
        limit_ns = entries[first][0] + self._span_ns
        for end in range(first, len(entries)):
            if entries[end][0] > limit_ns:
                return
            number = window.number_at(entries, end)
            yield end, window.start, number

    def _memo(self, group: Group) -> tuple[MeasuredWindow, MeasuredWindow]:
        if group.memo is None:
            group.memo = MeasuredWindow(self._new, self._span_ns), MeasuredWindow(self._new, self._span_ns)
        memo: tuple[MeasuredWindow, MeasuredWindow] = group.memo
        return memo

    def witnesses(self, _: Sequence[Entry]) -> set[int]:
        return set()
