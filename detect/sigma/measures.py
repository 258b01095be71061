"""What correlations measure in a window, added to and taken from match by match, and exact: no drift, no estimates.

A window is the matches of one group from a time span before its last match up to that match, both ends included.
Sums, averages and ranks are computed in rational numbers.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from operator import eq, ge, gt, itemgetter, le, lt, ne
from typing import Protocol

from detect.event import Evidence
from detect.record import Entity, Nanoseconds, RecordRef
from detect.sigma.rule import Bound, Comparison, SigmaCorrelation
from detect.sigma.values import number_of

Entry = tuple[Nanoseconds, RecordRef, int, str, tuple[Evidence, ...], tuple[Entity, ...]]
"""A match in a group: time, place in the journal, number of its source, value, evidence, entities. Plain, for speed."""
EntryKey = tuple[Nanoseconds, RecordRef, int]
Exact = int | Fraction
Number = int | float | Fraction
SourcePlaces = dict[int, list[tuple[int, int]]]
"""Of each source, the numbers of the chains that it stands in and its place there."""
LONG_AGO: Nanoseconds = -(1 << 62)

time_of: Callable[[Entry], Nanoseconds] = itemgetter(0)
_COMPARE: Mapping[Comparison, Callable[[Number, Number], bool]] = {
    "gt": gt, "gte": ge, "lt": lt, "lte": le, "eq": eq, "neq": ne,
}  # fmt: skip


def key_of(entry: Entry) -> EntryKey:
    """What entries are ordered by: time, then place in the journal, then source."""
    return entry[0], entry[1], entry[2]


def is_met(bounds: Sequence[Bound], number: Number) -> bool:
    """Whether a number meets all bounds."""
    return all(_COMPARE[comparison](number, value) for comparison, value in bounds)


class Measure(Protocol):
    """Entries are added in their order, and removed in the same order."""

    def add(self, entry: Entry) -> None:
        """The window now ends at this entry."""
        ...

    def remove(self, entry: Entry) -> None:
        """The window no longer reaches back to this entry."""
        ...

    def number(self, horizon_ns: Nanoseconds) -> Number:
        """The measure of the window, which reaches back to `horizon_ns`."""
        ...


class Matches:
    """How many matches there are."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, _: Entry) -> None:
        self._count += 1

    def remove(self, _: Entry) -> None:
        self._count -= 1

    def number(self, _: Nanoseconds) -> Number:
        return self._count


class Distinct:
    """How many distinct values, or sources, there are."""

    def __init__(self, field: int) -> None:
        """`field`: the place in an entry of what is counted."""
        self._field = field
        self.counts: dict[object, int] = {}

    def add(self, entry: Entry) -> None:
        value = entry[self._field]
        self.counts[value] = self.counts.get(value, 0) + 1

    def remove(self, entry: Entry) -> None:
        value = entry[self._field]
        self.counts[value] -= 1
        if not self.counts[value]:
            del self.counts[value]

    def number(self, _: Nanoseconds) -> Number:
        return len(self.counts)


class Together(Distinct):
    """How many sources of the first alternative that is complete; 0 when none is."""

    def __init__(self, ways: Sequence[Sequence[int]]) -> None:
        super().__init__(2)
        self._ways = ways

    def number(self, _: Nanoseconds) -> Number:
        return next((len(way) for way in self._ways if all(source in self.counts for source in way)), 0)


class Chains:
    """How far sources occurred in their order: for each beginning of a chain, the latest time it can have started."""

    def __init__(self, chains: Sequence[Sequence[int]], places: SourcePlaces, *, whole: bool) -> None:
        """`whole`: only a complete chain counts; else every beginning of one does."""
        self.starts = [[LONG_AGO] * len(chain) for chain in chains]
        self._whole = whole
        self._places = places

    def add(self, entry: Entry) -> None:
        for number, place in self._places.get(entry[2], ()):
            starts = self.starts[number]
            starts[place] = starts[place - 1] if place else entry[0]

    def remove(self, _: Entry) -> None:
        """The horizon says what no longer counts."""

    def number(self, horizon_ns: Nanoseconds) -> Number:
        return reached(self.starts, horizon_ns, whole=self._whole)


def places_of(chains: Sequence[Sequence[int]]) -> SourcePlaces:
    """For each source, the chains it stands in and its place there."""
    places: SourcePlaces = {}
    for number, chain in enumerate(chains):
        for place, source in enumerate(chain):
            places.setdefault(source, []).append((number, place))
    return places


def reached(starts: Sequence[Sequence[Nanoseconds]], horizon_ns: Nanoseconds, *, whole: bool) -> int:
    """The longest chain that started at `horizon_ns` or later."""
    lengths = (sum(start >= horizon_ns for start in chain) for chain in starts)
    if not whole:
        return max(lengths)
    return next((length for length, chain in zip(lengths, starts, strict=True) if length == len(chain)), 0)


class Total:
    """The sum of the values, or their average."""

    def __init__(self, *, average: bool) -> None:
        self._sum: Exact = 0
        self._count = 0
        self._average = average

    def add(self, entry: Entry) -> None:
        self._sum += exact_value(entry[3])
        self._count += 1

    def remove(self, entry: Entry) -> None:
        self._sum -= exact_value(entry[3])
        self._count -= 1

    def number(self, _: Nanoseconds) -> Number:
        return Fraction(self._sum, self._count) if self._average else self._sum


class Ranked:
    """A percentile of the values, interpolated between the two nearest: the 50th is the median."""

    def __init__(self, percentile: float) -> None:
        self._values: list[Exact] = []
        self._share = Fraction(str(percentile)) / 100

    def add(self, entry: Entry) -> None:
        insort(self._values, exact_value(entry[3]))

    def remove(self, entry: Entry) -> None:
        del self._values[bisect_left(self._values, exact_value(entry[3]))]

    def number(self, _: Nanoseconds) -> Number:
        steps, share = len(self._values) - 1, self._share
        below, part = divmod(share.numerator * steps, share.denominator)
        low = self._values[below]
        return low + (self._values[below + 1] - low) * Fraction(part, share.denominator) if part else low


def is_value(text: str) -> bool:
    """Whether the text writes a number that can be added up: decimal, and not beyond all bounds."""
    number = number_of(text)
    return number is not None and math.isfinite(number)


@lru_cache(maxsize=1 << 14)  # a value is added, removed, and looked for again where matches come late
def exact_value(text: str) -> Exact:
    """The decimal number that a text writes, which `is_value`."""
    # Most are whole numbers, which are added up a good deal faster than rational ones.
    return int(text) if text.lstrip("+-").isdigit() else Fraction(text)


def exact_bounds(bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    """The bounds as the decimal numbers that the rule writes: three times 0.1 is 0.3."""
    return tuple(Bound(comparison, exact_value(str(value))) for comparison, value in bounds)  # type: ignore[arg-type]  # exact where the rule has floats


def shown_number(number: Number) -> int | float:
    """The number as people read it."""
    if isinstance(number, float):
        return number
    if number.denominator == 1 and -(1 << 63) < number < 1 << 63:
        return int(number)
    try:
        return float(number)
    except OverflowError:
        return math.copysign(sys.float_info.max, number)


def measure_of(correlation: SigmaCorrelation) -> Callable[[], Measure]:
    """A maker of the correlation's measure. With alternatives that only ask for presence, the measure is 0 when none
    is met; what asks for absence is no measure (closing.py)."""
    numbers = {source: number for number, source in enumerate(correlation.sources)}
    ways = [[numbers[source] for source in way.present] for way in correlation.alternatives]
    match correlation.kind:
        case "event_count":
            return Matches
        case "value_count":
            return lambda: Distinct(3)
        case "temporal":
            return (lambda: Together(ways)) if ways else (lambda: Distinct(2))
        case "temporal_ordered":
            chains = ways or [list(range(len(correlation.sources)))]
            places = places_of(chains)
            return lambda: Chains(chains, places, whole=bool(ways))
        case "value_sum" | "value_avg" as kind:
            return lambda: Total(average=kind == "value_avg")
        case "value_median" | "value_percentile":
            return lambda: Ranked(correlation.percentile)


def window_number(correlation: SigmaCorrelation) -> Callable[[Sequence[Entry], Nanoseconds], Number]:
    """What the correlation measures in a whole window, which reaches back to a time: what its measure comes to when
    all entries are added, without doing so where they need only be counted."""
    new_measure = measure_of(correlation)

    def measured(window: Sequence[Entry], horizon_ns: Nanoseconds) -> Number:
        measure = new_measure()
        for entry in window:
            measure.add(entry)
        return measure.number(horizon_ns)

    match correlation.kind:
        case "event_count":
            return lambda window, _: len(window)
        case "value_count":
            return lambda window, _: len({entry[3] for entry in window})
        case "temporal" if not correlation.alternatives:
            return lambda window, _: len({entry[2] for entry in window})
        case _:
            return measured


def windows(
    entries: Sequence[Entry], first: int, limit_ns: Nanoseconds, span_ns: Nanoseconds, measure: Measure
) -> Iterator[tuple[int, int, Number]]:
    """(end, start, number) of each window that ends at an entry from place `first` on, up to the time `limit_ns`."""
    start = bisect_left(entries, entries[first][0] - span_ns, key=time_of)
    for entry in entries[start:first]:
        measure.add(entry)
    for place in range(first, len(entries)):
        entry = entries[place]
        if entry[0] > limit_ns:
            return
        measure.add(entry)
        horizon_ns = entry[0] - span_ns
        while entries[start][0] < horizon_ns:
            measure.remove(entries[start])
            start += 1
        yield place, start, measure.number(horizon_ns)
