"""Reads a spool from its oldest entry on, past whatever damage there is: every number is delivered or named as lost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.spool_books import Books, new_run
from agent.spool_segment import SEGMENT_BYTES, BrokenSegment, SegmentFile


@dataclass(frozen=True, slots=True)
class Entry:
    """One batch of the spool. `run` (hex) and `number` name it for ever; `inherited` says that it was here when the
    process began, so an earlier life may have sent it."""

    number: int
    records: int
    run: str
    payload: bytes
    inherited: bool = False

    @property
    def key(self) -> str:
        """The idempotency key of every attempt to send it."""
        return f"{self.run}-{self.number}"


@dataclass(frozen=True, slots=True)
class Lost:
    """The entries first to end - 1 cannot be read; together they had so many records. `raw` are the bytes found in
    their place (the first of them, where there are very many) and `where` says where; first = end: stray bytes only."""

    first: int
    end: int
    records: int
    where: str
    raw: bytes
    size: int


@dataclass(slots=True)
class Segment:
    """A segment file of the spool, by its path and the number of its first entry; `before` as in its header."""

    path: Path
    first: int
    before: int
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """How far the spool is written: the last entry, the total of all, and the end of the active segment."""

    number: int
    total: int
    active_end: int


def first_books(run: str, oldest: Segment | None) -> Books:
    """The books of a spool without books: of a new one, or of one that has lost them and has this oldest segment."""
    if oldest is None:
        return Books(run)
    # Nobody knows what was answered: all is sent again under the same keys, in a run of its own.
    before, number = oldest.before, oldest.first - 1
    return Books(new_run(), before, number, oldest.first, before, number, before)


_KEPT_RAW = 16 << 20


class SpoolReader:
    """Goes through `segments` (oldest first; the owner adds and removes). Not for use by two threads at once."""

    def __init__(self, segments: Sequence[Segment], cursor: int, through: int) -> None:
        """Begins at the entry `cursor`; `through` is the total of all entries before it."""
        self._segments = segments
        self._number = cursor
        self._total = through
        self._segment: Segment | None = None
        self._file: SegmentFile | None = None
        self._offset = 0

    def close(self) -> None:
        """Gives the open segment back."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def next(self, head: Head) -> Entry | Lost | None:
        """The next entry, or what is in its place; None when all has been read. Raises OSError."""
        while self._number <= head.number:
            index = self._index()
            if index is None:
                first = next(iter(self._segments), None)
                end, total = (head.number + 1, head.total) if first is None else (first.first, first.before)
                return self._lost(end, total, 0, 0, "missing segments")
            segment = self._segments[index]
            following = self._segments[index + 1] if index + 1 < len(self._segments) else None
            found = self._read(segment, following, head)
            if found is not None:
                return found
        return None

    def give_up(self, head: Head) -> Lost:
        """In place of what the disk will not give: this entry where its frame can be read, else its segment's rest."""
        index = self._index()
        if index is None:
            return self._lost(head.number + 1, head.total, 0, 0, "missing segments")
        segment = self._segments[index]
        following = self._segments[index + 1] if index + 1 < len(self._segments) else None
        end, total = (head.number + 1, head.total) if following is None else (following.first, following.before)
        frame = None
        with contextlib.suppress(OSError, BrokenSegment):
            frame = self._open(segment).frame_at(self._offset, segment.size)
        if frame is not None and frame.number == self._number:
            lost = self._lost(frame.number + 1, frame.total, frame.end, frame.end, segment.path.name)
            self._offset = frame.end
            return lost
        return self._lost(end, total, self._offset, self._offset, segment.path.name)

    def _index(self) -> int | None:
        """Which segment holds the next number, or would."""
        found = None
        for index, segment in enumerate(self._segments):
            if segment.first > self._number:
                break
            found = index
        return found

    def _read(self, segment: Segment, following: Segment | None, head: Head) -> Entry | Lost | None:
        """None: what stood here is settled or not ours to read, look again."""
        limit = following.first if following is not None else head.number + 1
        try:
            file = self._open(segment)
        except BrokenSegment:
            before = following.before if following is not None else head.total
            return self._lost(limit, before, 0, 0, segment.path.name)
        end = head.active_end if following is None else file.size
        frame = file.frame_at(self._offset, end)
        if frame is not None and frame.number < self._number:
            self._offset = frame.end
            return None
        if frame is None or frame.number != self._number:
            return self._resume(file, segment, following, end, limit, head)
        payload = file.payload(frame)
        if payload is None:
            return self._lost(frame.number + 1, frame.total, self._offset, frame.end, segment.path.name)
        self._number, self._total, self._offset = frame.number + 1, frame.total, frame.end
        return Entry(frame.number, frame.records, file.header.run.hex(), payload)

    def _resume(
        self, file: SegmentFile, segment: Segment, following: Segment | None, end: int, limit: int, head: Head
    ) -> Lost:
        """After damage: at the next good frame of this segment, or else where the next segment begins."""
        frame = file.next_frame(self._offset, end, self._number)
        if frame is not None and frame.number < limit:
            return self._lost(frame.number, frame.total - frame.records, self._offset, frame.offset, segment.path.name)
        before = following.before if following is not None else head.total
        return self._lost(limit, before, self._offset, end, segment.path.name)

    def _lost(self, end: int, total: int, start: int, stop: int, where: str) -> Lost:
        raw = self._file.raw(start, min(stop, start + _KEPT_RAW)) if self._file is not None else b""
        lost = Lost(self._number, end, total - self._total, f"{where} at byte {start}", raw, max(0, stop - start))
        self._number, self._total, self._offset = end, total, max(stop, self._offset)
        return lost

    def _open(self, segment: Segment) -> SegmentFile:
        if self._file is None or self._segment is not segment:
            self.close()
            self._file, self._segment, self._offset = SegmentFile(segment.path), segment, SEGMENT_BYTES
        return self._file
