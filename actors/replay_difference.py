"""What a replay says against what is stored: event by event, by id, naming the columns that differ. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from detect.event import DetectionEvent
from detect.record import Nanoseconds, TenantId
from store.detection_rows import event_row
from store.replay import EVENT_COLUMNS
from store.values import iso_time, nanoseconds

Verdict = Literal["same", "missing", "new", "changed", "pending"]

SAMPLES = 20
_PRINT_BYTES = 8
_BRIEF = ("rule_id", "title", "severity", "kind", "time")


@dataclass(frozen=True, slots=True)
class Said:
    """One replayed event: a print of each column, and what a sample shows."""

    prints: bytes
    brief: tuple[Any, ...]


@dataclass(slots=True)
class ReplayDifference:
    """Counts and the first few events of each verdict.

    `missing` is stored and not said again, `new` the other way round, `changed` is both with another content.
    `pending` is stored and said by batches after the range: windows that had not closed, letters judged again later.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Verdict), 0))
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, verdict: Verdict, row: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
        """Counts one event."""
        self.counts[verdict] += 1
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

    def __len__(self) -> int:
        return len(self._said)

    def add(self, events: Sequence[DetectionEvent]) -> None:
        """Takes in what a batch said, as far as it is about the range. The first word on an event stands."""
        for event in events:
            if self._first <= event.cause.seq <= self._last and event.id not in self._said:
                row = event_row(self._tenant, event)[1:]
                named = dict(zip(EVENT_COLUMNS, row, strict=True))
                brief = (event.cause.seq, event.cause.position, *(named[name] for name in _BRIEF))
                self._said[event.id] = Said(_prints(row), brief)

    def compare(
        self,
        row: tuple[Any, ...],
        difference: ReplayDifference,
        watermark_ns: Nanoseconds,
        retried_later: frozenset[int],
    ) -> None:
        """Holds a stored event against what was said; it is not looked at again."""
        stored = dict(zip(EVENT_COLUMNS, row, strict=True))
        said = self._said.pop(UUID(int=stored["event_id"].int), None)
        if said is None:
            undue = stored["kind"] == "anomaly" and nanoseconds(stored["end_time"]) > watermark_ns
            difference.add("pending" if undue or stored["seq"] in retried_later else "missing", stored)
            return
        prints = _prints(row)
        if prints == said.prints:
            difference.add("same", stored)
            return
        columns = [
            name
            for place, name in enumerate(EVENT_COLUMNS)
            if name not in self._ignored
            and prints[place * _PRINT_BYTES :][:_PRINT_BYTES] != said.prints[place * _PRINT_BYTES :][:_PRINT_BYTES]
        ]
        difference.add("changed" if columns else "same", stored, columns)

    def add_new(self, difference: ReplayDifference) -> None:
        """What was said and is not stored, after every stored event was compared."""
        for event_id, said in self._said.items():
            seq, position, *brief = said.brief
            row = {"event_id": event_id, "seq": seq, "position": position} | dict(zip(_BRIEF, brief, strict=True))
            difference.add("new", row)
        self._said.clear()


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
