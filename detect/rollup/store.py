"""The open windows of a tenant's entities, on event time.

Each record is counted once, in the one-minute windows of its entities. When the watermark passes the end of a window
the window closes, for ever: it comes out as a Rollup and is merged into the next longer one. A record whose minute has
closed is not counted again anywhere; `late_records` says how many there were.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from detect.batch import ROLLUP_SECONDS, Rollup, RollupSpan
from detect.event import Evidence
from detect.record import Entity, Nanoseconds, NormalizedRecord
from detect.rollup.contribution import OWN_DIMENSION, REMEMBERED_DIMENSIONS, Contribution, EntityKey, contribution
from detect.rollup.sketch import DistinctSketch, ValueHasher, pack_hashes, unpack_hashes
from detect.rollup.window import EvidenceTable, RecordMark, WindowCounts

MINUTE_NS: Nanoseconds = 60 * 10**9
_SPANS: tuple[RollupSpan, ...] = ("1m", "5m", "1h")
_LONGER: dict[RollupSpan, RollupSpan] = {"1m": "5m", "5m": "1h"}
_LENGTH: dict[RollupSpan, Nanoseconds] = {span: seconds * 10**9 for span, seconds in ROLLUP_SECONDS.items()}

_CACHED_SHARES = 4096
_CACHED_LENGTH = 512

Windows = dict[EntityKey, WindowCounts]


class RollupSettings(msgspec.Struct, frozen=True):
    """Bounds of the state.

    `max_entities` bounds, for each kind, the entities of one window and the entities whose values are remembered.
    Newcomers to a full window are not counted in it (`entities_refused`); of the remembered entities the one longest
    unseen is forgotten (`entities_forgotten`). `max_known_values` bounds the values remembered per entity and
    dimension: an older one counts as new when it returns. With the default lateness an entity has up to a dozen open
    windows of about 1.5 KB, so the bounds hold a tenant under a flood of invented names to some hundred MB.
    """

    max_entities: int = 4096
    max_known_values: int = 64


class ClosedWindow(msgspec.Struct, frozen=True):
    """A rollup with the records that stand for it: `first`, `last`, and the last one of each counter."""

    rollup: Rollup
    marks: dict[str, RecordMark]

    def evidence(self, label: str) -> Evidence:
        """The record that stands for a counter, or the window's last one where that counter has none."""
        mark = self.marks.get(label)
        return (self.marks["last"] if mark is None else mark).evidence()


class EntityWindows:
    """All open windows of one tenant, and per entity the values seen lately."""

    def __init__(self, key: bytes, settings: RollupSettings | None = None) -> None:
        """`key` (at most 64 bytes) seeds the hashes of the distinct counts; one key per tenant."""
        self._settings = settings or RollupSettings()
        self._hasher = ValueHasher(key)
        self._open: dict[RollupSpan, dict[Nanoseconds, Windows]] = {span: {} for span in _SPANS}
        self._sizes: dict[tuple[RollupSpan, Nanoseconds, str], int] = {}
        self._known: dict[str, OrderedDict[str, dict[str, array[int]]]] = {}
        self._closed_until: Nanoseconds = 0
        self._shares: dict[tuple[tuple[Entity, ...], str, str], Contribution] = {}
        self._touched: list[WindowCounts] = []
        self._batch = 0
        self._counts = {"late_records": 0, "entities_refused": 0, "entities_forgotten": 0}

    @property
    def any_open(self) -> bool:
        """Whether a window waits to be closed."""
        return any(self._open.values())

    def observe(self, record: NormalizedRecord) -> None:
        """Counts the record in the minute of its event time, for each of its entities."""
        time_ns = record.record.time_ns
        start = time_ns - time_ns % MINUTE_NS
        if start < self._closed_until:
            self._counts["late_records"] += 1
            return
        share = self._share(record)
        minute = self._open["1m"].setdefault(start, {})
        mark = RecordMark(record)
        for entity in share.entities:
            window = minute.get(entity)
            if window is None:
                window = self._admitted("1m", start, minute, entity, mark)
                if window is None:
                    continue
            if window.touched != self._batch:
                window.touched = self._batch
                self._touched.append(window)
            window.count(share.counters, mark)
            window.bytes_sent += share.bytes_sent
            if window.seen is not share:
                window.seen = share
                _count_values(window.distinct, share.values, OWN_DIMENSION[entity[0]])

    def close(self, watermark_ns: Nanoseconds) -> list[ClosedWindow]:
        """Closes every window that ended at or before the watermark; shorter spans first, then by start and entity."""
        until = max(self._closed_until, watermark_ns - watermark_ns % MINUTE_NS)
        self._closed_until = until
        closed: list[ClosedWindow] = []
        for span in _SPANS:
            length = _LENGTH[span]
            for start in sorted(start for start in self._open[span] if start + length <= until):
                windows = self._open[span].pop(start)
                for entity in sorted(windows):
                    self._sizes.pop((span, start, entity[0]), None)
                    closed.append(self._closed_window(span, start, entity, windows[entity]))
        return closed

    def seal(self) -> None:
        """Ends a batch: no state holds on to its records any more, only to the evidence taken from them."""
        for window in self._touched:
            window.seal()
        self._touched.clear()
        self._batch += 1

    def take_counts(self) -> dict[str, int]:
        """late_records, entities_refused and entities_forgotten since the last call."""
        taken = self._counts
        self._counts = dict.fromkeys(taken, 0)
        return taken

    def snapshot(self) -> dict[str, Any]:
        """The state between two batches, as msgpack can hold it; `evidence` is what the windows cite by place."""
        table = EvidenceTable()
        spans = {
            span: [
                [start, [(*entity, windows[entity].snapshot(table)) for entity in sorted(windows)]]
                for start, windows in sorted(self._open[span].items())
            ]
            for span in _SPANS
        }
        known = [
            [kind, [(name, {d: pack_hashes(h) for d, h in values.items()}) for name, values in entities.items()]]
            for kind, entities in sorted(self._known.items())
        ]
        return {"closed_until": self._closed_until, "spans": spans, "known": known, "evidence": table.evidence}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a snapshot."""
        marks = EvidenceTable.marks(state["evidence"])
        self._closed_until = state["closed_until"]
        self._sizes = {}
        for span in _SPANS:
            self._open[span] = {start: {} for start, _ in state["spans"][span]}
            for start, rows in state["spans"][span]:
                for kind, name, window in rows:
                    self._open[span][start][kind, name] = WindowCounts.restored(window, marks)
                    self._sizes[span, start, kind] = self._sizes.get((span, start, kind), 0) + 1
        self._known = {
            kind: OrderedDict((name, {d: unpack_hashes(h) for d, h in values.items()}) for name, values in entities)
            for kind, entities in state["known"]
        }
        self._touched = []

    def _share(self, record: NormalizedRecord) -> Contribution:
        if record.activity == "http":
            return contribution(record, self._hasher)
        key = (record.entities, record.activity, record.outcome)
        share = self._shares.get(key)
        if share is None:
            share = contribution(record, self._hasher)
            if sum(len(entity.value) for entity in record.entities) <= _CACHED_LENGTH:
                if len(self._shares) >= _CACHED_SHARES:
                    self._shares.clear()
                self._shares[key] = share
        return share

    def _admitted(
        self, span: RollupSpan, start: Nanoseconds, windows: Windows, entity: EntityKey, first: RecordMark
    ) -> WindowCounts | None:
        place = (span, start, entity[0])
        size = self._sizes.get(place, 0)
        if size >= self._settings.max_entities:
            self._counts["entities_refused"] += 1
            return None
        self._sizes[place] = size + 1
        window = windows[entity] = WindowCounts(first)
        return window

    def _closed_window(
        self, span: RollupSpan, start: Nanoseconds, entity: EntityKey, window: WindowCounts
    ) -> ClosedWindow:
        if span == "1m":
            self._count_new_values(entity, window)
        kind, name = entity
        closed = ClosedWindow(Rollup(span, kind, name, start, window.features()), window.marks())
        longer = _LONGER.get(span)
        if longer is not None:
            longer_start = start - start % _LENGTH[longer]
            windows = self._open[longer].setdefault(longer_start, {})
            target = windows.get(entity) or self._admitted(longer, longer_start, windows, entity, window.first)
            if target is not None:
                target.merge(window)
        return closed

    def _count_new_values(self, entity: EntityKey, window: WindowCounts) -> None:
        kind, name = entity
        entities = self._known.setdefault(kind, OrderedDict())
        values = entities.setdefault(name, {})
        entities.move_to_end(name)
        if len(entities) > self._settings.max_entities:
            entities.popitem(last=False)
            self._counts["entities_forgotten"] += 1
        for dimension in REMEMBERED_DIMENSIONS:
            sketch = window.distinct.get(dimension)
            if sketch is None:
                continue
            known = values.setdefault(dimension, array("Q"))
            hashes = sketch.listed()
            fresh = max(0, sketch.count() - len(known)) if hashes is None else self._remember(known, hashes)
            if fresh:
                window.fresh[dimension] = fresh

    def _remember(self, known: array[int], hashes: Iterable[int]) -> int:
        fresh = 0
        for hashed in hashes:
            if hashed in known:
                known.remove(hashed)
            else:
                fresh += 1
            known.append(hashed)
        del known[: max(0, len(known) - self._settings.max_known_values)]
        return fresh


def _count_values(distinct: dict[str, DistinctSketch], values: tuple[tuple[str, int], ...], own: str) -> None:
    for dimension, hashed in values:
        if dimension == own:
            continue
        sketch = distinct.get(dimension)
        if sketch is None:
            sketch = distinct[dimension] = DistinctSketch()
        sketch.add(hashed)
