"""One window of one entity: its counters, its distinct counts and the records that stand for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detect.event import Evidence
from detect.record import Nanoseconds, NormalizedRecord, RecordRef, record_digest
from detect.rollup.sketch import DistinctSketch

MAX_MESSAGE = 1000
"""Characters of a representative record's message that a window keeps."""


class RecordMark:
    """A record that stands for a window. It holds the record until the batch ends, and its evidence afterwards.

    The digest is computed late because most marks are replaced by a later record of the same batch.
    """

    __slots__ = ("_evidence", "_record", "order")

    def __init__(self, record: NormalizedRecord | None, evidence: Evidence | None = None) -> None:
        self._record = record
        self._evidence = evidence
        if record is not None:
            self.order: tuple[Nanoseconds, RecordRef] = (record.record.time_ns, record.record.ref)
        elif evidence is not None:
            self.order = (evidence.time_ns, evidence.ref)
        else:
            raise ValueError("a mark needs a record or its evidence")

    def evidence(self) -> Evidence:
        """The record's place, digest, time and message (its first MAX_MESSAGE characters)."""
        if self._evidence is None:
            normalized = self._record
            if normalized is None:
                raise ValueError("a mark needs a record or its evidence")
            record = normalized.record
            message = normalized.message[:MAX_MESSAGE]
            self._evidence = Evidence(record.ref, record_digest(record), record.time_ns, message)
            self._record = None
        return self._evidence


class Tally:
    """How many records raised the same counters, and the latest of them by event time."""

    __slots__ = ("count", "latest")

    def __init__(self, count: int, latest: RecordMark) -> None:
        self.count = count
        self.latest = latest


class WindowCounts:
    """What was counted for one entity in one window. Merging two gives what one window would have counted."""

    __slots__ = ("bytes_sent", "distinct", "first", "fresh", "seen", "tallies", "touched")

    def __init__(self, first: RecordMark) -> None:
        self.first = first
        self.tallies: dict[tuple[str, ...], Tally] = {}
        self.distinct: dict[str, DistinctSketch] = {}
        self.fresh: dict[str, int] = {}
        self.bytes_sent = 0
        self.seen: object = None
        self.touched = -1

    def count(self, counters: tuple[str, ...], mark: RecordMark, amount: int = 1) -> None:
        """Counts records that raise these counters; `mark` is the latest of them."""
        tally = self.tallies.get(counters)
        if tally is None:
            self.tallies[counters] = Tally(amount, mark)
        else:
            tally.count += amount
            if mark.order > tally.latest.order:
                tally.latest = mark
        if mark.order < self.first.order:
            self.first = mark

    def merge(self, other: WindowCounts) -> None:
        """Adds the counts of another window (the other one must not be used afterwards)."""
        for counters, tally in other.tallies.items():
            self.count(counters, tally.latest, tally.count)
        if other.first.order < self.first.order:
            self.first = other.first
        self.bytes_sent += other.bytes_sent
        for dimension, sketch in other.distinct.items():
            mine = self.distinct.get(dimension)
            if mine is None:
                self.distinct[dimension] = sketch
            else:
                mine.merge(sketch)
        for dimension, amount in other.fresh.items():
            self.fresh[dimension] = self.fresh.get(dimension, 0) + amount

    def marks(self) -> dict[str, RecordMark]:
        """`first` and `last` by event time, and for every counter the last record that raised it."""
        found = {"first": self.first}
        for counters, tally in self.tallies.items():
            for label in ("last", *counters):
                held = found.get(label)
                if held is None or tally.latest.order > held.order:
                    found[label] = tally.latest
        return found

    def seal(self) -> None:
        """Lets go of the records; their evidence stays."""
        self.seen = None
        self.first.evidence()
        for tally in self.tallies.values():
            tally.latest.evidence()

    def features(self) -> dict[str, float]:
        """Counters, `distinct_*`, `new_*` and ratios (0 to 1), in alphabetical order; absent means 0.

        `new_*` are values not remembered for the entity; in a minute with more than 64 values a lower bound.
        `distinct_*` leaves out the entity's own kind: a host's window does not count hosts.
        """
        found: dict[str, float] = {}
        for counters, tally in self.tallies.items():
            for name in ("events", *counters):
                found[name] = found.get(name, 0.0) + tally.count
        if self.bytes_sent:
            found["bytes_sent"] = float(self.bytes_sent)
        for dimension, sketch in self.distinct.items():
            found[f"distinct_{dimension}"] = float(sketch.count())
        for dimension, amount in self.fresh.items():
            found[f"new_{dimension}"] = float(amount)
        requests = found.get("http_requests", 0.0)
        if requests:
            found["http_error_ratio"] = (found.get("http_4xx", 0.0) + found.get("http_5xx", 0.0)) / requests
        logins = found.get("auth_failure", 0.0) + found.get("auth_success", 0.0)
        if logins:
            found["auth_failure_ratio"] = found.get("auth_failure", 0.0) / logins
        return dict(sorted(found.items()))

    def snapshot(self, table: EvidenceTable) -> list[Any]:
        """The state as msgpack can hold it; evidence goes into the table once, however many windows cite it."""
        place, tallies, distinct = table.place, self.tallies, self.distinct
        return [
            place(self.first),
            [(counters, tallies[counters].count, place(tallies[counters].latest)) for counters in sorted(tallies)],
            {dimension: distinct[dimension].snapshot() for dimension in sorted(distinct)},
            dict(sorted(self.fresh.items())),
            self.bytes_sent,
        ]

    @classmethod
    def restored(cls, state: list[Any], marks: list[RecordMark]) -> WindowCounts:
        """The window that gave this snapshot; `marks` are EvidenceTable.marks of the table it was made with."""
        first, tallies, distinct, fresh, bytes_sent = state
        window = cls(marks[first])
        window.tallies = {tuple(counters): Tally(count, marks[place]) for counters, count, place in tallies}
        window.distinct = {dimension: DistinctSketch.restored(packed) for dimension, packed in distinct.items()}
        window.fresh = dict(fresh)
        window.bytes_sent = bytes_sent
        return window


class EvidenceTable:
    """The evidence that windows cite, each record once."""

    def __init__(self) -> None:
        self._places: dict[RecordRef, int] = {}
        self.evidence: list[Evidence] = []

    def place(self, mark: RecordMark) -> int:
        """The place of the mark's evidence."""
        ref = mark.order[1]
        place = self._places.get(ref)
        if place is None:
            place = self._places[ref] = len(self.evidence)
            self.evidence.append(mark.evidence())
        return place

    @staticmethod
    def marks(evidence: Iterable[Evidence]) -> list[RecordMark]:
        """A mark for each, in their order."""
        return [RecordMark(None, cited) for cited in evidence]
