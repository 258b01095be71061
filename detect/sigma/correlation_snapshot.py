"""The groups of correlations as data: written with their evidence by number or in full, and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detect.event import Evidence
from detect.record import Entity, RecordRef
from detect.sigma.correlation_group import Group
from detect.sigma.group import GroupKey, joined_key, key_parts
from detect.sigma.measures import Entry


def written_group(
    key: GroupKey, group: Group, write: Callable[[list[Entry]], list[Any]], *, waits: bool
) -> tuple[Any, ...]:
    """A group as plain JSON values; `waits`: the correlation waits for windows to close, so it has pending matches."""
    pending = [[due_ns, time_ns, str(ref), source] for due_ns, (time_ns, ref, source) in group.pending]
    waiting = [pending] if waits else []
    return (key_parts(key), group.fired, group.spared, group.touched_ns, *waiting, write(group.entries))


def read_group(row: Sequence[Any], read: Callable[[Sequence[Any]], Entry], *, waits: bool) -> tuple[GroupKey, Group]:
    """The group that was written so, with its key."""
    key, fired, spared, touched_ns, *waiting, entries = row
    group = Group()
    group.entries = [read(item) for item in entries]
    group.fired, group.spared, group.touched_ns = tuple(fired), int(spared), touched_ns
    pending = waiting[0] if waits else ()
    group.await_windows([(due_ns, (time_ns, RecordRef.parse(ref), source)) for due_ns, time_ns, ref, source in pending])
    return joined_key(tuple(map(str, key))), group


def written_out(entries: list[Entry]) -> list[Any]:
    """The contributions with their evidence in full."""
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
