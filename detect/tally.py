"""What one batch adds up to while it is applied."""

from __future__ import annotations

from uuid import UUID

import msgspec

from detect.batch import BatchOutput, Poison, RetryOutcome, Rollup, Stage
from detect.event import DetectionEvent
from detect.fold import EventFold
from detect.incident import IncidentChange
from detect.record import NormalizedRecord

_MAX_ERROR = 500


class BatchTally:
    """Events, rollups, poison and counts of one batch, in the order in which they came about.

    `counts` has records, late, future, unset, events, duplicate_events, repeats (events that were folded), rollups and
    poison; components add theirs.
    """

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.rollups: list[Rollup] = []
        self.poison: list[Poison] = []
        self.retried: list[RetryOutcome] = []
        self.counts = {"records": 0, "late": 0, "future": 0, "unset": 0, "duplicate_events": 0, "repeats": 0}
        self._repeats: set[UUID] = set()
        self._events: dict[UUID, DetectionEvent] = {}

    def add_event(self, event: DetectionEvent) -> bool:
        """Takes an event in; False when the batch has one with the same id, and then it is only counted."""
        if self.is_known(event):
            return False
        self._events[event.id] = event
        return True

    def add_repeat(self, event: DetectionEvent) -> None:
        """Counts an event that is not written."""
        self._repeats.add(event.id)
        self.counts["repeats"] += 1

    def is_known(self, event: DetectionEvent) -> bool:
        """Whether the batch has an event with the same id; one more is counted as such."""
        known = event.id in self._events or event.id in self._repeats
        self.counts["duplicate_events"] += known
        return known

    def park(self, position: int, stage: Stage, subject: str, error: Exception) -> None:
        """Records a failure; running out of memory is none of the input's properties, so it is raised again."""
        if isinstance(error, MemoryError):
            raise error
        text = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
        self.poison.append(Poison(self.seq, position, stage, subject, text))

    def settle(self, seq: int, position: int, stage: Stage, subject: str, since: int) -> None:
        """Ends a retry: what was parked from place `since` on is the letter's own failure again, or a new one there."""
        faults, self.poison[since:] = self.poison[since:], []
        again = [fault for fault in faults if (fault.stage, fault.subject) == (stage, subject)]
        error = again[0].error if again else ""
        self.retried.append(RetryOutcome(seq, position, stage, subject, error))
        self.poison += [msgspec.structs.replace(fault, seq=seq) for fault in faults if fault not in again]

    def output(
        self,
        records: list[NormalizedRecord],
        incidents: list[IncidentChange],
        component_counts: dict[str, int],
        folds: list[EventFold],
        *,
        open_windows: bool,
    ) -> BatchOutput:
        """All of it as a value."""
        self.counts["records"] = len(records)
        self.counts["events"] = len(self._events)
        self.counts["rollups"] = len(self.rollups)
        self.counts["poison"] = len(self.poison)
        return BatchOutput(
            seq=self.seq,
            records=tuple(records),
            events=tuple(self._events.values()),
            rollups=tuple(self.rollups),
            incidents=tuple(incidents),
            poison=tuple(self.poison),
            counts={**self.counts, **component_counts},
            retried=tuple(self.retried),
            open_windows=open_windows,
            folds=tuple(folds),
        )
