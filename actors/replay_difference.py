"""What a replay says against what is stored: event by event, by id, naming the columns that differ. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

from detect.event import DetectionEvent
from detect.fold import LONGEST_SECONDS, EventFold
from detect.record import Nanoseconds, TenantId
from store.detection_rows import event_row
from store.replay import EVENT_COLUMNS, StoredEvent
from store.values import iso_time, nanoseconds

Verdict = Literal["same", "missing", "new", "changed", "pending"]

SAMPLES = 20
_PRINT_BYTES = 8
_BRIEF = ("rule_id", "title", "severity", "kind", "time")


@dataclass(frozen=True, slots=True)
class Said:
    """One replayed event: a print of each column, what a sample shows, and until when events can be folded into it."""

    prints: bytes
    brief: tuple[Any, ...]
    folds_until: Nanoseconds


class Repeats(NamedTuple):
    """How many events were folded into one, as stored and as said."""

    stored: int
    said: int


NO_REPEATS = Repeats(0, 0)


def no_repeats() -> dict[str, int]:
    """A count of repeats to begin with."""
    return dict.fromkeys(Repeats._fields, 0)


def add_repeats(counted: dict[str, int], repeats: Repeats) -> None:
    """Adds the repeats of one event to the count."""
    for name, number in repeats._asdict().items():
        counted[name] += number


@dataclass(slots=True)
class ReplayDifference:
    """Counts and the first few events of each verdict.

    `missing` is stored and not said again, `new` the other way round, `changed` is both with another content.
    `pending` is stored and said by batches after the range: windows that had not closed, letters judged again later.
    `repeats` are the events that were folded into all these, as stored and as said.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Verdict), 0))
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=no_repeats)

    def add(
        self, verdict: Verdict, row: Mapping[str, Any], columns: Sequence[str] = (), repeats: Repeats = NO_REPEATS
    ) -> None:
        """Counts one event."""
        self.counts[verdict] += 1
        add_repeats(self.repeats, repeats)
        kept = self.samples.setdefault(verdict, [])
        if verdict != "same" and len(kept) < SAMPLES:
            kept.append(_sample(row) | ({"columns": list(columns)} if columns else {}))


class Replayed:
    """The events that a replay has said about the batches of a range."""

    def __init__(self, tenant: TenantId, first: int, last: int, ignored: frozenset[str] = frozenset()) -> None:
        """`ignored` columns make no difference."""
        self._tenant = tenant
        self._ignored = ignored
        self._first = first
        self._last = last
        self._said: dict[UUID, Said] = {}
        self._repeats: Counter[UUID] = Counter()

    def __len__(self) -> int:
        return len(self._said)

    def add(
        self, events: Sequence[DetectionEvent], folds: Sequence[EventFold] = (), watermark_ns: Nanoseconds = 0
    ) -> None:
        """Takes in what a batch said, with the watermark after it, as far as it is about the range. The first word on
        an event stands."""
        for event in events:
            if self._first <= event.cause.seq <= self._last and event.id not in self._said:
                row = event_row(self._tenant, event)[1:]
                named = dict(zip(EVENT_COLUMNS, row, strict=True))
                brief = (event.cause.seq, event.cause.position, *(named[name] for name in _BRIEF))
                # No window is longer; one that begins late ends that long after the watermark (detect.fold).
                folds_until = max(event.time_ns, watermark_ns) + LONGEST_SECONDS * 10**9
                self._said[event.id] = Said(_prints(row), brief, folds_until)
        for fold in folds:
            if fold.event_id in self._said:
                self._repeats[fold.event_id] += fold.added

    def compare(
        self,
        stored_event: StoredEvent,
        difference: ReplayDifference,
        watermark_ns: Nanoseconds,
        retried_later: frozenset[int],
    ) -> None:
        """Holds a stored event against what was said; it is not looked at again."""
        stored = dict(zip(EVENT_COLUMNS, stored_event.row, strict=True))
        said = self._said.pop(UUID(int=stored["event_id"].int), None)
        if said is None:
            undue = stored["kind"] == "anomaly" and nanoseconds(stored["end_time"]) > watermark_ns
            pending = undue or stored["seq"] in retried_later
            lost = Repeats(0 if pending else stored_event.repeats, 0)
            difference.add("pending" if pending else "missing", stored, repeats=lost)
            return
        repeats = self._compared_repeats(stored_event, said, watermark_ns)
        columns = self._differing(_prints(stored_event.row), said.prints)
        if repeats.stored != repeats.said:
            columns.append("repeats")
        difference.add("changed" if columns else "same", stored, columns, repeats)

    def add_new(self, difference: ReplayDifference) -> None:
        """What was said and is not stored, after every stored event was compared."""
        for event_id, said in self._said.items():
            seq, position, *brief = said.brief
            row = {"event_id": event_id, "seq": seq, "position": position} | dict(zip(_BRIEF, brief, strict=True))
            difference.add("new", row, repeats=Repeats(0, self._repeats[event_id]))
        self._said.clear()

    def _differing(self, stored: bytes, said: bytes) -> list[str]:
        if stored == said:
            return []
        columns = []
        for place, name in enumerate(EVENT_COLUMNS):
            at = slice(place * _PRINT_BYTES, (place + 1) * _PRINT_BYTES)
            if name not in self._ignored and stored[at] != said[at]:
                columns.append(name)
        return columns

    def _compared_repeats(self, stored: StoredEvent, said: Said, watermark_ns: Nanoseconds) -> Repeats:
        """Repeats that batches after the range brought are not this range's to say: what is stored may be more then."""
        number = self._repeats[UUID(int=stored.row[0].int)]
        went_on = stored.judged > self._last and said.folds_until >= watermark_ns
        return Repeats(number if went_on and stored.repeats > number else stored.repeats, number)


def _prints(row: Sequence[Any]) -> bytes:
    return b"".join(
        hashlib.blake2b(repr(_plain(value)).encode("utf-8", "backslashreplace"), digest_size=_PRINT_BYTES).digest()
        for value in row
    )


def _plain(value: Any) -> Any:
    """The value as the table gives it back: times in UTC, real numbers of four bytes."""
    if isinstance(value, datetime):
        return iso_time(value)
    if isinstance(value, float):
        return struct.unpack("f", struct.pack("f", value))[0]
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    return str(value)


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in _BRIEF}
    return shown | {
        "event_id": str(row["event_id"]),
        "record": f"{row['seq']}-{row['position']}",
        "time": iso_time(row["time"]),
    }
