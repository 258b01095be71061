"""The form of a spool segment on disk: a header, then entries in frames that can each be found and checked alone.

    segment  magic 8 | run 16 | number of the first entry u64 | records before it u64 | CRC-32 of these u32
    frame    marker 4 | payload bytes u32 | number u64 | records u32 | total u64 | payload's CRC-32 u32 | CRC-32 u32

Little endian. `total` counts all records of the spool up to and with this entry, so whoever reads a good entry after a
damaged one knows exactly how many records are between. The last CRC-32 is over the frame's other fields and the run, so
a frame of another spool in a block that was used before is no frame here. The marker lets a reader find the next
good entry after bytes that are none.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAGIC: Final = b"TSSPOOL1"
MARKER: Final = b"\xf5TSE"
LARGEST_PAYLOAD: Final = 1 << 30
"""Bytes; a frame that states more is no frame."""

_SEGMENT = struct.Struct("<8s16sQQ")
_FRAME = struct.Struct("<4sIQIQI")
_CRC = struct.Struct("<I")
SEGMENT_BYTES: Final = _SEGMENT.size + _CRC.size
FRAME_BYTES: Final = _FRAME.size + _CRC.size
_SEARCH_STEP = 1 << 20


class BrokenSegment(Exception):
    """The file does not begin with a segment's header."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself. `run` is the spool's 16 bytes; `before` counts the records of all entries before
    `first`."""

    run: bytes
    first: int
    before: int

    def encode(self) -> bytes:
        """SEGMENT_BYTES bytes."""
        fields = _SEGMENT.pack(MAGIC, self.run, self.first, self.before)
        return fields + _CRC.pack(zlib.crc32(fields))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose own fields are good, at `offset` of its segment; its payload may still be damaged."""

    offset: int
    length: int
    number: int
    records: int
    total: int
    payload_crc: int

    @property
    def payload_at(self) -> int:
        return self.offset + FRAME_BYTES

    @property
    def end(self) -> int:
        """The offset of the next frame."""
        return self.offset + FRAME_BYTES + self.length


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a segment's good entries end. `number` and `total` are of the last one (or of what came before the
    segment), `end` is its end, `cut` the bytes after it, and `whole` says that they hold all of an entry's bytes."""

    end: int
    number: int
    total: int
    cut: int
    whole: bool


def encode_frame(run: bytes, number: int, records: int, total: int, payload: bytes) -> bytes:
    """The frame's bytes, without the payload that follows them."""
    fields = _FRAME.pack(MARKER, len(payload), number, records, total, zlib.crc32(payload))
    return fields + _CRC.pack(zlib.crc32(fields, zlib.crc32(run)))


class SegmentFile:
    """A segment opened for reading. Raises BrokenSegment, OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.header = self._read_header()
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._file)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._file).st_size

    def frame_at(self, offset: int, end: int) -> Frame | None:
        """The frame at this place, if a whole one is there and ends by `end`."""
        raw = os.pread(self._file, FRAME_BYTES, offset)
        if len(raw) < FRAME_BYTES or raw[:4] != MARKER:
            return None
        frame = self._frame(raw, offset)
        return frame if frame is not None and frame.end <= end else None

    def payload(self, frame: Frame) -> bytes | None:
        """The entry's bytes, or None when they are not those that were written."""
        found = os.pread(self._file, frame.length, frame.payload_at)
        if len(found) != frame.length or zlib.crc32(found) != frame.payload_crc:
            return None
        return found

    def raw(self, start: int, end: int) -> bytes:
        """The bytes between two places, as they are."""
        return os.pread(self._file, max(0, end - start), start)

    def next_frame(self, start: int, end: int, least: int) -> Frame | None:
        """The first frame at or after `start` with a number of at least `least`; how a reader gets past damage."""
        position = start
        while position + FRAME_BYTES <= end:
            window = os.pread(self._file, min(_SEARCH_STEP, end - position) + len(MARKER) - 1, position)
            found = window.find(MARKER)
            while found >= 0:
                frame = self.frame_at(position + found, end)
                if frame is not None and frame.number >= least:
                    return frame
                found = window.find(MARKER, found + 1)
            position += _SEARCH_STEP
        return None

    def frames(self, end: int) -> Iterator[Frame]:
        """The frames up to `end` in their order, past damage."""
        position, least = SEGMENT_BYTES, self.header.first
        while (frame := self.frame_at(position, end) or self.next_frame(position, end, least)) is not None:
            yield frame
            position, least = frame.end, frame.number + 1

    def tail(self, end: int) -> Tail:
        """Reads and checks every entry up to `end`; what may be cut is what no good entry follows."""
        good_end, number, total = SEGMENT_BYTES, self.header.first - 1, self.header.before
        for frame in self.frames(end):
            if self.payload(frame) is not None:
                good_end, number, total = frame.end, frame.number, frame.total
        whole = self.frame_at(good_end, end) is not None
        return Tail(good_end, number, total, end - good_end, whole)

    def _frame(self, raw: bytes, offset: int) -> Frame | None:
        fields = raw[: _FRAME.size]
        [stated] = _CRC.unpack_from(raw, _FRAME.size)
        if zlib.crc32(fields, zlib.crc32(self.header.run)) != stated:
            return None
        _, length, number, records, total, payload_crc = _FRAME.unpack(fields)
        if length > LARGEST_PAYLOAD:
            return None
        return Frame(offset, length, number, records, total, payload_crc)

    def _read_header(self) -> SegmentHeader:
        raw = os.pread(self._file, SEGMENT_BYTES, 0)
        if len(raw) == SEGMENT_BYTES and raw[: len(MAGIC)] == MAGIC:
            [stated] = _CRC.unpack_from(raw, _SEGMENT.size)
            if zlib.crc32(raw[: _SEGMENT.size]) == stated:
                _, run, first, before = _SEGMENT.unpack_from(raw)
                return SegmentHeader(run, first, before)
        raise BrokenSegment(f"{self.path} does not begin as a spool segment")
