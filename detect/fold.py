"""Floods of one rule, folded: the first event of a window is written, those like it are counted with their places.

Events are alike that come of one rule and speak of the same group: the values of chosen kinds of entities, or of a
correlation its group-by values. Windows are those of the clock, on event time: of an hour, every full hour begins one.
So what is folded into what is a function of the journal, and hardly depends on the order in which records come.

A count is exact always. The places of the first MAX_RECORDS repeats of a window are kept, and the evidence of the first
MAX_SAMPLES; of those that follow, that they were, and the time of the last.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from detect.event import DetectionEvent, Evidence
from detect.record import EntityKind, Nanoseconds, RecordRef

MAX_RECORDS = 1000
MAX_SAMPLES = 20
MAX_OPEN = 10_000
"""Windows of a tenant that are held; of more, the one that was begun first is closed early, and what follows is written
again."""

LONGEST_SECONDS = 3600

_FoldKey = tuple[str, str, int]


class FoldWindow(NamedTuple):
    """How events of a rule are folded: in windows of so many seconds (0: not at all), and apart by the values of these
    kinds of entities (none: all events of the rule together). Events of correlations are apart by their groups.

    An hour at most: as long as incidents wait for what belongs to them (detect.group.GroupingSettings.gap_ns).
    """

    seconds: int = LONGEST_SECONDS
    by: tuple[EntityKind, ...] = ("host", "user", "ip")


class EventFold(msgspec.Struct, frozen=True):
    """The repeats of an event as they stand after a batch. `event_id` is the first event of the window, `added` how
    many of the `count` repeats the batch brought; `records` and `samples` are what it adds to those kept."""

    event_id: UUID
    rule_id: str
    count: int
    added: int
    first_ns: Nanoseconds
    last_ns: Nanoseconds
    records: tuple[RecordRef, ...]
    samples: tuple[Evidence, ...]


class _OpenFold:
    """A window. `ends_ns` is the time that the watermark has to pass before it is forgotten."""

    __slots__ = ("added", "count", "ends_ns", "event_id", "first_ns", "last_ns", "records", "samples")

    def __init__(self, event_id: UUID, ends_ns: Nanoseconds) -> None:
        self.event_id = event_id
        self.ends_ns = ends_ns
        self.count = 0
        self.first_ns: Nanoseconds = 0
        self.last_ns: Nanoseconds = 0
        self.added = 0
        self.records: list[RecordRef] = []
        self.samples: list[Evidence] = []


class EventFolder:
    """The open windows of one tenant. Show it events in the order of the journal."""

    def __init__(self, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._open: OrderedDict[_FoldKey, _OpenFold] = OrderedDict()
        self._changed: dict[UUID, tuple[str, _OpenFold]] = {}
        self._closed_early = 0

    def is_repeat(self, event: DetectionEvent, window: FoldWindow) -> bool:
        """Whether a window is open in which an event like this one was written."""
        return _key(event, window) in self._open

    def begin(self, event: DetectionEvent, window: FoldWindow, watermark_ns: Nanoseconds) -> None:
        """The event is written, and begins its window; one that is open is over."""
        key = _key(event, window)
        span_ns = window.seconds * 10**9
        # Of a source that is months behind, windows end as late as those of others: when event time has passed on.
        ends_ns = max((key[2] + 1) * span_ns, watermark_ns + span_ns)
        self._open.pop(key, None)
        self._open[key] = _OpenFold(event.id, ends_ns)
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
            self._closed_early += 1

    def add(self, event: DetectionEvent, window: FoldWindow) -> None:
        """Counts a repeat. KeyError when it is none."""
        fold = self._open[_key(event, window)]
        fold.first_ns = min(fold.first_ns, event.time_ns) if fold.count else event.time_ns
        fold.last_ns = max(fold.last_ns, event.end_ns) if fold.count else event.end_ns
        if fold.count < MAX_RECORDS:
            fold.records.append(event.cause)
        if fold.count < MAX_SAMPLES:
            fold.samples.extend(event.evidence[-1:])
        fold.count += 1
        fold.added += 1
        self._changed[fold.event_id] = event.rule_id, fold

    def tick(self, watermark_ns: Nanoseconds) -> None:
        """Forgets windows that event time has passed."""
        for key in [key for key, fold in self._open.items() if fold.ends_ns < watermark_ns]:
            del self._open[key]

    def take_changes(self) -> list[EventFold]:
        """What has been counted since the last call, window by window, in the order of the first repeat of each."""
        changes = []
        for rule_id, fold in self._changed.values():
            records, samples = tuple(fold.records), tuple(fold.samples)
            times = fold.first_ns, fold.last_ns
            changes.append(EventFold(fold.event_id, rule_id, fold.count, fold.added, *times, records, samples))
            fold.added, fold.records, fold.samples = 0, [], []
        self._changed.clear()
        return changes

    def take_closed_early(self) -> int:
        """How many windows the bound has cost since the last call."""
        taken, self._closed_early = self._closed_early, 0
        return taken

    def snapshot(self) -> list[Any]:
        """The state between two batches, after take_changes, as msgpack can hold it."""
        return [
            [*key, fold.event_id.bytes, fold.ends_ns, fold.count, fold.first_ns, fold.last_ns]
            for key, fold in self._open.items()
        ]

    def restore(self, state: list[Any]) -> None:
        """Goes on from a snapshot."""
        self._open = OrderedDict()
        self._changed = {}
        for rule_id, group, number, raw_id, ends_ns, count, first_ns, last_ns in state:
            fold = self._open[rule_id, group, number] = _OpenFold(UUID(bytes=raw_id), ends_ns)
            fold.count, fold.first_ns, fold.last_ns = count, first_ns, last_ns


def _key(event: DetectionEvent, window: FoldWindow) -> _FoldKey:
    if event.kind == "correlation":
        values = [f"{name}\x1f{value}" for name, value in sorted(event.matched.get("group", {}).items())]
    else:
        values = sorted({f"{entity.kind}\x1f{entity.value}" for entity in event.entities if entity.kind in window.by})
    return event.rule_id, "\x1e".join(values), event.time_ns // (window.seconds * 10**9)


__all__ = ["LONGEST_SECONDS", "EventFold", "EventFolder", "FoldWindow"]
