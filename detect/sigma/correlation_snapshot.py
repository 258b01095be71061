"""The state of correlations as data: captured while matches go on, written with evidence by number, read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detect.event import Evidence
from detect.record import Entity, Nanoseconds, RecordRef
from detect.sigma.measures import Entry, EntryKey


class CapturedGroup(NamedTuple):
    """A group as it was. `pending` is None for correlations that do not wait for windows to close."""

    key: tuple[str, ...]
    fired_ns: Nanoseconds | None
    touched_ns: Nanoseconds
    pending: list[tuple[Nanoseconds, EntryKey]] | None
    entries: list[Entry]


class CapturedCorrelation(NamedTuple):
    """A correlation as it was: what changes is copied, what does not is shared."""

    header: dict[str, Any]
    groups: list[CapturedGroup]

    def evidence(self) -> Iterator[tuple[Evidence, ...]]:
        """What the contributions cite, contribution by contribution."""
        for group in self.groups:
            for entry in group.entries:
                yield entry[4]

    def written(self, writer: ContributionWriter | None) -> dict[str, Any]:
        """Plain JSON values. A writer writes evidence as its number in a table; without one it is written out."""
        write = _written_out if writer is None else writer.write
        rows = []
        for key, fired_ns, touched_ns, pending, entries in self.groups:
            waiting = [] if pending is None else [[_awaited(item) for item in pending]]
            rows.append((key, fired_ns, touched_ns, *waiting, write(entries)))
        return self.header | {"groups": rows}


def _awaited(item: tuple[Nanoseconds, EntryKey]) -> list[Any]:
    due_ns, (time_ns, ref, source) = item
    return [due_ns, time_ns, str(ref), source]


def read_awaited(rows: Sequence[Sequence[Any]]) -> list[tuple[Nanoseconds, EntryKey]]:
    """The pending matches that were written so."""
    return [(due_ns, (time_ns, RecordRef.parse(ref), source)) for due_ns, time_ns, ref, source in rows]


def _written_out(entries: list[Entry]) -> list[Any]:
    return [
        [
            *(time_ns, str(ref), source, value),
            [[str(entry.ref), entry.digest, entry.time_ns, entry.message] for entry in evidence],
            entities,
        ]
        for time_ns, ref, source, value, evidence, entities in entries
    ]


class ContributionWriter:
    """Writes the contributions of all correlations for one snapshot, evidence by its number.

    Several correlations hold the same match, and the very same objects in it: what is equal is written out once.
    """

    def __init__(self, numbers: Mapping[Evidence, int]) -> None:
        self._numbers = numbers
        self._written: dict[int, tuple[RecordRef, str, list[int]]] = {}

    def write(self, entries: list[Entry]) -> list[Any]:
        """The contributions in the form that ContributionReader reads."""
        numbers, written = self._numbers, self._written
        rows = []
        for time_ns, ref, source, value, evidence, entities in entries:
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

    def read(self, item: Sequence[Any]) -> Entry:
        """The contribution that was written so."""
        time_ns, text, source, value, *rest = item
        known = self._read.get(text)
        if known is None or known[0] != rest:
            cited, rows = rest
            entities = tuple([Entity(*row) for row in rows])
            known = self._read[text] = (rest, RecordRef.parse(text), self._cited(cited), entities)
        return time_ns, known[1], source, value, known[2], known[3]

    def _cited(self, cited: list[Any]) -> tuple[Evidence, ...]:
        evidence = self._evidence
        if evidence is None:
            return tuple(Evidence(RecordRef.parse(place), *entry) for place, *entry in cited)
        return tuple([evidence[number] for number in cited])
