"""What correlations mean, written for clarity: every match is kept for ever, and everything is counted anew each time.

The bounded, incremental state of detect/sigma/correlation.py must say exactly the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Any, NamedTuple

from detect.record import Nanoseconds, RecordRef
from detect.sigma.rule import Alternative, SigmaCorrelation


class Match(NamedTuple):
    """A match of one source in one group, ordered by time, then place, then source."""

    time_ns: Nanoseconds
    ref: RecordRef
    source: int
    value: str


class Said(NamedTuple):
    """A correlation that fired: group, time of the last match of its window, cause, measure."""

    group: str
    end_ns: Nanoseconds
    cause: RecordRef
    measure: float


class ReferenceCorrelation:
    """One correlation over all groups. `closing` says when a match's windows have closed."""

    def __init__(self, rule: SigmaCorrelation) -> None:
        self.rule = rule
        self.groups: dict[str, list[Match]] = {}
        self.fired: dict[str, list[Nanoseconds]] = {}
        self.closing: dict[tuple[str, Match], Nanoseconds] = {}

    def observe(self, group: str, match: Match, watermark_ns: Nanoseconds) -> Said | None:
        matches = self.groups.setdefault(group, [])
        if self.rule.kind == "event_count" and any(other.ref == match.ref for other in matches):
            return None
        matches.append(match)
        matches.sort()
        if self.rule.closes:
            self.closing[group, match] = max(match.time_ns, watermark_ns) + self.rule.span_ns
            return None
        for window in self._windows(matches, match):
            measure = self._measure(window)
            if self._meets(measure) and self._is_armed(group, window[-1].time_ns):
                self.fired.setdefault(group, []).append(window[-1].time_ns)
                return Said(group, window[-1].time_ns, match.ref, float(measure))
        return None

    def tick(self, watermark_ns: Nanoseconds) -> list[Said]:
        """What closes before the watermark, by group and then by match."""
        said = []
        due = sorted(key for key, closes_ns in self.closing.items() if closes_ns < watermark_ns)
        for group, match in due:
            del self.closing[group, match]
            found = self._closed(group, match)
            if found is not None:
                window, measure = found
                self.fired.setdefault(group, []).append(window[-1].time_ns)
                said.append(Said(group, window[-1].time_ns, window[-1].ref, float(measure)))
        return said

    def _is_armed(self, group: str, time_ns: Nanoseconds) -> bool:
        """A group is silent around each of its last eight firings."""
        last = self.fired.get(group, [])[-8:]
        return all(abs(time_ns - fired_ns) > self.rule.span_ns for fired_ns in last)

    def _windows(self, matches: Sequence[Match], match: Match) -> Iterator[list[Match]]:
        """Every window that ends at a match and holds the given one, in order."""
        span_ns = self.rule.span_ns
        for end in matches:
            if end >= match and end.time_ns <= match.time_ns + span_ns:
                yield [other for other in matches if other <= end and other.time_ns >= end.time_ns - span_ns]

    def _measure(self, window: Sequence[Match]) -> Any:
        rule = self.rule
        if rule.alternatives:
            return next((len(way.present) for way in rule.alternatives if self._is_present(window, way)), 0)
        numbers = (
            [Fraction(match.value) for match in window]
            if rule.kind.startswith("value_") and rule.kind != "value_count"
            else []
        )
        match rule.kind:
            case "event_count":
                return len(window)
            case "value_count":
                return len({match.value for match in window})
            case "temporal":
                return len({match.source for match in window})
            case "temporal_ordered":
                reached = 0
                for item in window:
                    reached += item.source == reached
                return reached
            case "value_sum":
                return sum(numbers)
            case "value_avg":
                return statistics.mean(numbers)
            case "value_median":
                return statistics.median(numbers)
            case "value_percentile":
                numbers.sort()
                rank = Fraction(rule.percentile) / 100 * (len(numbers) - 1)
                low, part = divmod(rank, 1)
                return numbers[low] if not part else numbers[low] * (1 - part) + numbers[low + 1] * part

    def _is_present(self, window: Sequence[Match], way: Alternative) -> bool:
        wanted = [self.rule.sources.index(source) for source in way.present]
        if self.rule.kind == "temporal":
            return set(wanted) <= {match.source for match in window}
        return any([item.source for item in chosen] == wanted for chosen in combinations(window, len(wanted)))

    def _meets(self, measure: Any) -> bool:
        if self.rule.alternatives:
            return bool(measure)
        measure = Fraction(measure)
        truths = {
            "gt": lambda bound: measure > bound, "gte": lambda bound: measure >= bound,
            "lt": lambda bound: measure < bound, "lte": lambda bound: measure <= bound,
            "eq": lambda bound: measure == bound, "neq": lambda bound: measure != bound,
        }  # fmt: skip
        return all(truths[comparison](Fraction(str(value))) for comparison, value in self.rule.bounds)

    def _closed(self, group: str, match: Match) -> tuple[Sequence[Match], Any] | None:
        matches, span_ns = self.groups[group], self.rule.span_ns
        if self.rule.awaits_silence:
            follows = any(other > match and other.time_ns <= match.time_ns + span_ns for other in matches)
            return None if follows else ([match], 0)
        if not self._is_armed(group, match.time_ns):
            return None
        if not self.rule.alternatives:
            peak = max(map(self._measure, self._windows(matches, match)))
            highest = next(window for window in self._windows(matches, match) if self._measure(window) == peak)
            return (highest, peak) if self._meets(peak) else None
        if self.rule.kind == "temporal":
            return self._together(matches, match)
        return self._in_order(matches, match)

    def _together(self, matches: Sequence[Match], match: Match) -> tuple[Sequence[Match], Any] | None:
        rule = self.rule
        near = {other.source for other in matches if abs(other.time_ns - match.time_ns) <= rule.span_ns}
        for window in self._windows(matches, match):
            for way in rule.alternatives:
                absent = {rule.sources.index(source) for source in way.absent}
                present = {rule.sources.index(source) for source in way.present}
                if match.source in present and not absent & near and present <= {item.source for item in window}:
                    return window, len(present)
        return None

    def _in_order(self, matches: Sequence[Match], match: Match) -> tuple[Sequence[Match], Any] | None:
        rule = self.rule
        before = [other for other in matches if other < match and other.time_ns >= match.time_ns - rule.span_ns]
        after = [other for other in matches if other > match and other.time_ns <= match.time_ns + rule.span_ns]
        for way in rule.alternatives:
            present = [rule.sources.index(source) for source in way.present]
            absent = [rule.sources.index(source) for source in way.absent]
            if match.source != present[0] or any(
                other.source in absent and other.source < present[0] for other in before
            ):
                continue
            ends = [chain[-1] for chain in self._chains(match, after, present, absent)]
            if ends:
                window = [other for other in matches if match <= other <= max(ends)]
                return window, len(present)
        return None

    @staticmethod
    def _chains(
        match: Match, after: Sequence[Match], present: Sequence[int], absent: Sequence[int]
    ) -> Iterator[tuple[Match, ...]]:
        """Every choice of later matches that makes the order complete, with no absent source where it would stand."""
        for chosen in combinations(after, len(present) - 1):
            chain = (match, *chosen)
            if [item.source for item in chain] != list(present):
                continue
            broken = any(
                other.source in absent and low.source < other.source and (high is None or other.source < high.source)
                for low, high in zip(chain, (*chain[1:], None), strict=True)
                for other in after
                if other > low and (high is None or other < high)
            )
            if not broken:
                yield chain
