"""Correlations over event time: sliding windows, late events in their place, bounded state, nothing but data inside.

A window ends at a match and reaches back by the time span, both ends included. A group fires once when its condition
is met and is armed again when the span has passed. A condition that a match can meet is judged at that match
(arrival.py); one that more matches could unmake is judged when the watermark has passed the match by the span
(closing.py), and is caused by the last record of the window that shows it.

State is bounded three times: by groups and by matches of one correlation, where the group that was touched least
recently goes first, and by matches of one group, where the oldest that the condition can spare go.

Sources keep different times: a file sent by hand is months behind a live host. So no match is refused for its age: a
group is forgotten, and a window closes, when event time has passed on by the span since the match came, whatever its
own time is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, NamedTuple

from detect.event import Evidence
from detect.record import Entity, Nanoseconds, NormalizedRecord, RecordRef
from detect.sigma.arrival import MeasureJudge, arrival_judge
from detect.sigma.closing import closing_judge
from detect.sigma.correlation_group import Group, fired_at, is_armed, touch_of
from detect.sigma.correlation_snapshot import (
    ContributionReader,
    ContributionWriter,
    read_group,
    written_group,
    written_out,
)
from detect.sigma.group import MAX_TEXT, GroupKey, GroupKeys, key_parts
from detect.sigma.measures import (
    Entry,
    exact_bounds,
    is_met,
    is_value,
    key_of,
    measure_of,
    shown_number,
    time_of,
    window_number,
    windows,
)
from detect.sigma.rule import COUNTING_KINDS, SigmaCorrelation

MAX_GROUPS = 10_000
MAX_CONTRIBUTIONS = 50_000


class Signal(NamedTuple):
    """A match handed to correlations: of the rule or correlation `source`, at the record `ref`.

    `record` is None when a correlation fired because time had passed; `group` has the values of one that fired.
    """

    source: str
    time_ns: Nanoseconds
    ref: RecordRef
    record: NormalizedRecord | None
    evidence: tuple[Evidence, ...]
    entities: tuple[Entity, ...]
    group: dict[str, str]


class Contribution(NamedTuple):
    """One match inside a group. Ordered by time, then by place in the journal, then by source."""

    time_ns: Nanoseconds
    ref: RecordRef
    source: int
    value: str
    evidence: tuple[Evidence, ...]
    entities: tuple[Entity, ...]


class Firing(NamedTuple):
    """A met condition: the contributions of the window in order, what was measured, and the record that caused it."""

    group: dict[str, str]
    contributions: tuple[Contribution, ...]
    total: int | float
    cause: RecordRef


class CorrelationState:
    """The live groups of one correlation. `evicted` counts what the bounds cost: groups, and matches that a sum or a
    window yet to close would have counted. `late` counts the matches that came behind the reach of a window at the
    watermark: judged all the same, but their neighbours may be forgotten."""

    def __init__(
        self,
        correlation: SigmaCorrelation,
        fingerprint: str,
        max_groups: int = MAX_GROUPS,
        max_contributions: int = MAX_CONTRIBUTIONS,
    ) -> None:
        self.correlation = correlation
        self.fingerprint = fingerprint
        self.evicted = 0
        self.late = 0
        self._span_ns = correlation.span_ns
        self._keys = GroupKeys(correlation)
        self._has_values = self._keys.has_values
        self._numeric = correlation.kind not in COUNTING_KINDS
        self._once = correlation.kind == "event_count"
        # No record has a field None: what is made of several fields is not looked up as one.
        self._sources: dict[str, tuple[int, Any, Any]] = {
            source: (position, self._keys.only_field(source), self._keys.only_value(source))
            for position, source in enumerate(correlation.sources)
        }
        self._new_measure = measure_of(correlation)
        self._number = window_number(correlation)
        self._bounds = exact_bounds(correlation.bounds)
        self._closing = closing_judge(correlation) if correlation.closes else None
        self._arrival = None if correlation.closes else arrival_judge(correlation)
        self._judge = None if self._arrival is None else self._arrival.judge
        self._least = 1 if self._arrival is None else self._arrival.least
        self._lasting = self._arrival is not None and self._arrival.lasting
        enough = 1 if self._numeric else int(correlation.at_least or 1)
        self._max_groups = max_groups
        # Room for a group of the newest entries, as many that are spared, and as many again before it is next trimmed.
        self._max_held = max(max_contributions, 4 * enough)
        limits = [judge.limit for judge in (self._arrival, self._closing) if judge is not None]
        self._limit = max(enough, min(limits[0], self._max_held // 3))
        self._full = 2 * self._limit
        self._groups: dict[GroupKey, Group] = {}
        self._touches = 0
        self._untouched: list[tuple[int, GroupKey]] = []
        self._held = 0
        self._sweep_ns: Nanoseconds = 0

    @property
    def group_count(self) -> int:
        """How many groups are held."""
        return len(self._groups)

    @property
    def is_waiting(self) -> bool:
        """Whether some window would close if time passed."""
        return self._closing is not None and any(group.pending for group in self._groups.values())

    def observe(self, signal: Signal, watermark_ns: Nanoseconds) -> Firing | None:
        """Take a match into its group and say whether the condition is met. A match without the group's values, or
        without the value that is counted, is skipped."""
        source, time_ns, ref, record, evidence, entities, inherited = signal
        position, key_field, value_field = self._sources[source]
        key: Any = record.fields.get(key_field) if record is not None and not inherited else None
        if key.__class__ is not str or not 0 < len(key) <= MAX_TEXT:
            key = self._keys.key(source, record, inherited)
            if key is None:
                return None
        value: Any = ""
        if self._has_values:
            value = record.fields.get(value_field) if record is not None else None
            if value.__class__ is not str or len(value) > MAX_TEXT:
                value = self._keys.value(source, record, inherited)
            if value is None or (self._numeric and not is_value(value)):
                return None
        group = self._groups.get(key)
        if group is None:
            group = self._new_group(key)
        # A number for each touch, not an order that is kept: all of it would be looked at with every match.
        group.touch = self._touches = self._touches + 1
        group.touched_ns = watermark_ns
        if time_ns < watermark_ns - self._span_ns:
            self.late += 1
        entry = (time_ns, ref, position, value, evidence, entities)
        entries = group.entries
        if self._judge is None or (entries and time_ns <= entries[-1][0] and not self._follows(entry, entries[-1])):
            return self._take(key, group, entry)
        # Most matches: in order, of a condition that can be judged at once. The judge must see every one of them from
        # the first on that can meet it.
        entries.append(entry)
        self._held += 1
        count = len(entries)
        firing = None
        if count >= self._least and self._judge(group, entry) and is_armed(group.fired, time_ns, self._span_ns):
            firing = self._fire(key, group, entry)
        if count >= self._full + group.spared or self._held > self._max_held:
            self._bound(group)
        return firing

    def _new_group(self, key: GroupKey) -> Group:
        if len(self._groups) >= self._max_groups:
            self._evict()
        group = self._groups[key] = Group()
        return group

    def _take(self, key: GroupKey, group: Group, entry: Entry) -> Firing | None:
        """A match that is late, or of a condition that waits for windows to close."""
        entries = group.entries
        if not entries or self._follows(entry, entries[-1]):
            entries.append(entry)
        elif not self._insert(group, entry):
            return None
        self._held += 1
        firing = None
        if self._closing is not None:
            self._await(group, entry)
        elif self._arrival is not None:
            possible = self._arrival.take_late(group, entry)
            if possible and not self._is_silent_around(group, entry[0]):
                firing = self._judge_late(key, group, entry)
        self._bound(group)
        return firing

    def _bound(self, group: Group) -> None:
        if len(group.entries) >= self._full + group.spared:
            self._trim(group)
        if self._held > self._max_held:
            self._make_room()

    def _follows(self, entry: Entry, last: Entry) -> bool:
        if entry[0] != last[0]:
            return entry[0] > last[0]
        return entry[1] > last[1] or (entry[1] == last[1] and entry[2] > last[2] and not self._once)

    def _insert(self, group: Group, entry: Entry) -> bool:
        entries = group.entries
        place = bisect_left(entries, key_of(entry), key=key_of)
        if any(
            item[1] == entry[1] and (self._once or item[2] == entry[2])
            for item in entries[max(0, place - 1) : place + 1]
        ):
            return False  # one record that meets several of the rules is still one event
        entries.insert(place, entry)
        return True

    def _is_silent_around(self, group: Group, time_ns: Nanoseconds) -> bool:
        """Whether one of its firings keeps the group silent at every end of a window that holds a match of that time:
        not all such groups are told, but those where it matters."""
        last_ns = min(time_ns + self._span_ns, group.entries[-1][0])
        return any(
            fired_ns - self._span_ns <= time_ns and last_ns <= fired_ns + self._span_ns for fired_ns in group.fired
        )

    def _fire(self, key: GroupKey, group: Group, entry: Entry) -> Firing:
        """The window that ends at the newest entry."""
        group.fired = fired_at(entry[0], group.fired)
        horizon_ns = entry[0] - self._span_ns
        window = group.entries
        if window[0][0] < horizon_ns:
            window = window[bisect_left(window, horizon_ns, key=time_of) :]
        return self._firing(key, window, self._number(window, horizon_ns), entry[1])

    def _judge_late(self, key: GroupKey, group: Group, entry: Entry) -> Firing | None:
        """The first window that holds the entry and meets the condition, unless the group just fired."""
        entries, bounds = group.entries, self._bounds
        first = bisect_left(entries, key_of(entry), key=key_of)
        if isinstance(self._arrival, MeasureJudge):
            found = self._arrival.late_windows(group, first)
        else:
            found = windows(entries, first, entry[0] + self._span_ns, self._span_ns, self._new_measure())
        for end, start, number in found:
            if not is_armed(group.fired, entries[end][0], self._span_ns):
                continue
            if is_met(bounds, number) if bounds else number > 0:
                group.fired = fired_at(entries[end][0], group.fired)
                return self._firing(key, entries[start : end + 1], number, entry[1])
        return None

    def _firing(self, key: GroupKey, entries: Any, number: Any, cause: RecordRef) -> Firing:
        return Firing(
            dict(zip(self.correlation.group_by, key_parts(key), strict=True)),
            tuple(map(Contribution._make, entries)),
            shown_number(number),
            cause,
        )

    def _await(self, group: Group, entry: Entry) -> None:
        due_ns = max(entry[0], group.touched_ns) + self._span_ns
        group.due_ns = min(due_ns, group.due_ns) if group.pending else due_ns
        if not isinstance(group.pending, list):
            group.pending = []
        group.pending.append((due_ns, key_of(entry)))

    def close(self, watermark_ns: Nanoseconds) -> list[Firing]:
        """What the windows show that have closed before the watermark, group by group in the order of being touched."""
        if self._closing is None:
            return []
        found = []
        ripe = [item for item in self._groups.items() if item[1].pending and item[1].due_ns < watermark_ns]
        for key, group in sorted(ripe, key=touch_of):
            due = sorted(entry for due_ns, entry in group.pending if due_ns < watermark_ns)
            group.await_windows([item for item in group.pending if item[0] >= watermark_ns])
            for entries, number in self._closing.judge(group.entries, due, group.fired):
                group.fired = fired_at(entries[-1][0], group.fired)
                found.append(self._firing(key, entries, number, entries[-1][1]))
        return found

    def _trim(self, group: Group) -> None:
        """Cut a group back to its newest entries and those that the condition cannot spare."""
        entries = group.entries
        first = len(entries) - self._limit
        if self._arrival is not None:
            kept = sorted(place for place in self._arrival.witnesses(entries) if place < first)
            group.entries = [*(entries[place] for place in kept), *entries[first:]]
            group.spared = len(kept)
            if self._numeric:
                self.evicted += first
        else:
            oldest = key_of(entries[first])
            group.entries = entries[first:]
            group.await_windows([item for item in group.pending if item[1] >= oldest])
            self.evicted += first
        group.memo = None
        self._held -= len(entries) - len(group.entries)

    def _make_room(self) -> None:
        while self._held > self._max_held:
            self._evict()

    def _evict(self) -> None:
        """Forget the group that was touched least recently. Those of a list made once are that as long as none has
        been touched since: so the groups are put in order once in as many evictions as there are groups."""
        while True:
            if not self._untouched:
                self._untouched = [(group.touch, key) for key, group in self._by_touch()]
                self._untouched.reverse()
            touch, key = self._untouched.pop()
            group = self._groups.get(key)
            if group is not None and group.touch == touch:
                del self._groups[key]
                self._held -= len(group.entries)
                self.evicted += 1
                return

    def _by_touch(self) -> list[tuple[GroupKey, Group]]:
        """The groups from the least recently touched on."""
        return sorted(self._groups.items(), key=touch_of)

    def expire(self, watermark_ns: Nanoseconds) -> None:
        """Drop what no window that can still come reaches. Sweeps all groups at most twice in a span."""
        if watermark_ns < self._sweep_ns:
            return
        span_ns = self._span_ns
        horizon_ns = watermark_ns - span_ns
        self._sweep_ns = watermark_ns + span_ns // 2
        dead = []
        for key, group in self._groups.items():
            entries = group.entries
            # Touched as the watermark stood then: after a silence that is far behind the record that ended it.
            newest_ns = entries[-1][0] if entries else 0
            if not group.pending and ((group.touched_ns < horizon_ns and newest_ns < horizon_ns) or not entries):
                dead.append(key)
                continue
            reach_ns = horizon_ns if newest_ns >= watermark_ns else newest_ns - span_ns
            if group.pending:
                reach_ns = min(reach_ns, min(entry[0] for _, entry in group.pending) - span_ns)
            if entries and entries[0][0] < reach_ns:
                kept = bisect_left(entries, reach_ns, key=time_of)
                del entries[:kept]
                if not self._lasting or len(entries) < self._least:
                    group.memo = None
                self._held -= kept
        for key in dead:
            self._held -= len(self._groups.pop(key).entries)

    def snapshot(self, writer: ContributionWriter | None = None) -> dict[str, Any]:
        """The state as plain JSON values, groups from the least recently touched on.

        A writer writes evidence as its number in a table; without one it is written out.
        """
        write = written_out if writer is None else writer.write
        waits = self._closing is not None
        return {
            "fingerprint": self.fingerprint,
            "evicted": self.evicted,
            "late": self.late,
            "sweep_ns": self._sweep_ns,
            "groups": [written_group(key, group, write, waits=waits) for key, group in self._by_touch()],
        }

    def evidence(self) -> Iterator[tuple[Evidence, ...]]:
        """What the contributions cite, contribution by contribution."""
        for group in self._groups.values():
            for entry in group.entries:
                yield entry[4]

    def restore(self, state: dict[str, Any], reader: ContributionReader | None = None) -> None:
        """The inverse of snapshot; raises ValueError, KeyError, IndexError or TypeError for anything else."""
        read, waits = (reader or ContributionReader()).read, self._closing is not None
        groups: dict[GroupKey, Group] = {}
        for touch, row in enumerate(state["groups"], 1):
            key, group = read_group(row, read, waits=waits)
            group.touch = touch
            groups[key] = group
        self._groups, self._touches, self._untouched = groups, len(state["groups"]), []
        self._held = sum(len(group.entries) for group in groups.values())
        self.evicted, self.late = int(state["evicted"]), int(state["late"])
        self._sweep_ns = int(state["sweep_ns"])
