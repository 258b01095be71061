"""Correlations over event time: sliding windows, late events in their place, bounded state, nothing but data inside.

A window ends at a match and reaches back by the time span, both ends included. A group fires once when its condition
is met and is armed again when the span has passed. State is bounded twice: by groups and by contributions of one
correlation; the group that was touched least recently goes first, and is counted.

Sources keep different times: a file sent by hand is months behind a live host. So no match is refused for its age; a
group is forgotten when event time has passed on by the span since it was last touched, whatever its own times are.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detect.event import Evidence
from detect.record import Entity, Nanoseconds, NormalizedRecord, RecordRef
from detect.sigma.group import group_key
from detect.sigma.rule import SigmaCorrelation
from detect.sigma.values import texts_of, value_of

MAX_GROUPS = 10_000
MAX_CONTRIBUTIONS = 50_000
SPARE_CONTRIBUTIONS = 64
"""Matches kept beyond the bound of the condition, so that late ones find their neighbours."""


class Signal(NamedTuple):
    """A match handed to correlations: of the rule or correlation `source`, completed by `record`."""

    source: str
    record: NormalizedRecord
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
    """A met condition: the contributions of the window in order, and what was counted."""

    group: dict[str, str]
    contributions: tuple[Contribution, ...]
    total: int


@dataclass(slots=True)
class Group:
    """The contributions of one combination of group-by values, in order, when the group last fired, and where the
    watermark stood when it was last touched."""

    contributions: list[Contribution] = field(default_factory=list)
    fired_ns: Nanoseconds | None = None
    touched_ns: Nanoseconds = 0


class CorrelationState:
    """The live groups of one correlation. `evicted` counts what the bounds cost, `late` the matches that came behind
    the reach of a window at the watermark: judged all the same, but their neighbours may be forgotten."""

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
        self._max_groups = max_groups
        self._max_contributions = max_contributions
        self._groups: OrderedDict[tuple[str, ...], Group] = OrderedDict()
        self._held = 0
        self._sweep_ns: Nanoseconds = 0
        self._positions = {source: position for position, source in enumerate(correlation.sources)}

    @property
    def group_count(self) -> int:
        """How many groups are held."""
        return len(self._groups)

    def observe(self, signal: Signal, watermark_ns: Nanoseconds) -> Firing | None:
        """Take a match into its group and say whether the condition is met. A match without group values is skipped."""
        rule, record = self.correlation, signal.record
        key = group_key(rule, signal.source, record, signal.group)
        value = self._value(record)
        if key is None or value is None:
            return None
        self.late += record.record.time_ns < watermark_ns - rule.span_ns
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group()
        group.touched_ns = watermark_ns
        self._groups.move_to_end(key)
        place = self._insert(group, signal, value)
        firing = None if place is None else self._judge(key, group, place)
        self._make_room()
        return firing

    def _value(self, record: NormalizedRecord) -> str | None:
        """The value that value_count counts: the texts of its fields; "" for other kinds, None when one is missing."""
        texts = [next(iter(texts_of(value_of(record, name))), None) for name in self.correlation.value_fields]
        return None if None in texts else "\x1f".join(text for text in texts if text is not None)

    def _insert(self, group: Group, signal: Signal, value: str) -> int | None:
        record = signal.record.record
        entries = group.contributions
        entry = Contribution(
            record.time_ns, record.ref, self._positions[signal.source], value, signal.evidence, signal.entities
        )
        place = bisect_left(entries, entry[:3], key=lambda item: item[:3])
        kind = self.correlation.kind
        if kind == "event_count" and any(item.ref == record.ref for item in entries[max(0, place - 1) : place + 1]):
            return None  # one record that meets several of the rules is still one event
        insort(entries, entry, key=lambda item: item[:3])
        self._held += 1
        removed = self._trim(entries, entry)
        if removed is None or removed > place:
            return place
        return None if removed == place else place - 1

    def _trim(self, entries: list[Contribution], newest: Contribution) -> int | None:
        """Forget the oldest contribution of the same sort when there are more than can matter: its former place."""
        spare = self.correlation.at_least + SPARE_CONTRIBUTIONS
        match self.correlation.kind:
            case "event_count":
                surplus = 0 if len(entries) > spare else None
            case "value_count":
                same = [place for place, item in enumerate(entries) if item.value == newest.value]
                surplus = same[0] if len(same) > 2 else 0 if len(entries) > 2 * spare else None
            case _:
                same = [place for place, item in enumerate(entries) if item.source == newest.source]
                surplus = same[0] if len(same) > SPARE_CONTRIBUTIONS else None
        if surplus is not None:
            del entries[surplus]
            self._held -= 1
        return surplus

    def _judge(self, key: tuple[str, ...], group: Group, place: int) -> Firing | None:
        """The first window that holds the new contribution and meets the condition, unless the group just fired."""
        entries, span = group.contributions, self.correlation.span_ns
        limit = entries[place].time_ns + span
        for end in range(place, len(entries)):
            end_ns = entries[end].time_ns
            if end_ns > limit:
                break
            if group.fired_ns is not None and abs(end_ns - group.fired_ns) <= span:
                continue
            start = bisect_left(entries, end_ns - span, key=lambda item: item.time_ns)
            window = entries[start : end + 1]
            count = self._count(window)
            if count >= self.correlation.at_least:
                group.fired_ns = end_ns
                return Firing(dict(zip(self.correlation.group_by, key, strict=True)), tuple(window), count)
        return None

    def _count(self, window: list[Contribution]) -> int:
        match self.correlation.kind:
            case "event_count":
                return len(window)
            case "value_count":
                return len({item.value for item in window})
            case "temporal":
                return len({item.source for item in window})
            case "temporal_ordered":
                reached = 0
                for item in window:
                    reached += item.source == reached
                return reached

    def _make_room(self) -> None:
        while len(self._groups) > self._max_groups or self._held > self._max_contributions:
            _, group = self._groups.popitem(last=False)
            self._held -= len(group.contributions)
            self.evicted += 1

    def expire(self, watermark_ns: Nanoseconds) -> None:
        """Drop what no window that can still come reaches. Sweeps all groups at most twice in a span."""
        if watermark_ns < self._sweep_ns:
            return
        span = self.correlation.span_ns
        self._sweep_ns = watermark_ns + span // 2
        for key, group in list(self._groups.items()):
            # Touched as the watermark stood then: after a silence that is far behind the record that ended it.
            newest_ns = group.contributions[-1].time_ns if group.contributions else 0
            if max(group.touched_ns, newest_ns) < watermark_ns - span or not group.contributions:
                self._held -= len(group.contributions)
                del self._groups[key]
                continue
            horizon = min(watermark_ns, group.contributions[-1].time_ns) - span
            kept = [item for item in group.contributions if item.time_ns >= horizon]
            self._held -= len(group.contributions) - len(kept)
            group.contributions = kept

    def snapshot(self) -> dict[str, Any]:
        """The state as plain JSON values, groups from the least recently touched on."""
        return self.capture().written(None)

    def capture(self) -> CapturedCorrelation:
        """The state as it is now, for writing out while matches go on."""
        header = {
            "fingerprint": self.fingerprint,
            "evicted": self.evicted,
            "late": self.late,
            "sweep_ns": self._sweep_ns,
        }
        groups = [
            (key, group.fired_ns, group.touched_ns, group.contributions.copy()) for key, group in self._groups.items()
        ]
        return CapturedCorrelation(header, groups)

    def restore(self, state: dict[str, Any], reader: ContributionReader | None = None) -> None:
        """The inverse of snapshot; raises ValueError, KeyError, IndexError or TypeError for anything else."""
        read = (reader or ContributionReader()).read
        groups: OrderedDict[tuple[str, ...], Group] = OrderedDict()
        for key, fired_ns, touched_ns, contributions in state["groups"]:
            groups[tuple(map(str, key))] = Group([read(item) for item in contributions], fired_ns, touched_ns)
        self._groups = groups
        self._held = sum(len(group.contributions) for group in groups.values())
        self.evicted, self.late = int(state["evicted"]), int(state["late"])
        self._sweep_ns = int(state["sweep_ns"])


class CapturedCorrelation(NamedTuple):
    """A correlation as it was: what changes is copied, what does not is shared."""

    header: dict[str, Any]
    groups: list[tuple[tuple[str, ...], Nanoseconds | None, Nanoseconds, list[Contribution]]]

    def evidence(self) -> Iterator[tuple[Evidence, ...]]:
        """What the contributions cite, contribution by contribution."""
        for *_, contributions in self.groups:
            for item in contributions:
                yield item.evidence

    def written(self, writer: ContributionWriter | None) -> dict[str, Any]:
        """Plain JSON values. A writer writes evidence as its number in a table; without one it is written out."""
        write = _written_out if writer is None else writer.write
        return self.header | {
            "groups": [(key, fired_ns, touched_ns, write(items)) for key, fired_ns, touched_ns, items in self.groups]
        }


def _written_out(items: list[Contribution]) -> list[Any]:
    return [
        [
            *(item.time_ns, str(item.ref), item.source, item.value),
            [[str(entry.ref), entry.digest, entry.time_ns, entry.message] for entry in item.evidence],
            item.entities,
        ]
        for item in items
    ]


class ContributionWriter:
    """Writes the contributions of all correlations for one snapshot, evidence by its number.

    Several correlations hold the same match, and the very same objects in it: what is equal is written out once.
    """

    def __init__(self, numbers: Mapping[Evidence, int]) -> None:
        self._numbers = numbers
        self._written: dict[int, tuple[RecordRef, str, list[int]]] = {}

    def write(self, items: list[Contribution]) -> list[Any]:
        """The contributions in the form that ContributionReader reads."""
        numbers, written = self._numbers, self._written
        rows = []
        for time_ns, ref, source, value, evidence, entities in items:
            known = written.get(id(evidence))
            if known is None or known[0] is not ref:
                known = written[id(evidence)] = (ref, str(ref), [numbers[entry] for entry in evidence])
            rows.append((time_ns, known[1], source, value, known[2], entities))
        return rows


class ContributionReader:
    """Reads the contributions of all correlations in a snapshot; with `evidence`, those that cite it by number.

    Several correlations hold the same match: what is equal in them is made once.
    """

    def __init__(self, evidence: Sequence[Evidence] | None = None) -> None:
        self._evidence = evidence
        self._read: dict[str, tuple[list[Any], RecordRef, tuple[Evidence, ...], tuple[Entity, ...]]] = {}

    def read(self, item: Sequence[Any]) -> Contribution:
        """The contribution that was written so."""
        time_ns, text, source, value, *rest = item
        known = self._read.get(text)
        if known is None or known[0] != rest:
            cited, rows = rest
            entities = tuple([Entity(*row) for row in rows])
            known = self._read[text] = (rest, RecordRef.parse(text), self._cited(cited), entities)
        return Contribution(time_ns, known[1], source, value, known[2], known[3])

    def _cited(self, cited: list[Any]) -> tuple[Evidence, ...]:
        evidence = self._evidence
        if evidence is None:
            return tuple(Evidence(RecordRef.parse(place), *entry) for place, *entry in cited)
        return tuple([evidence[number] for number in cited])
