"""Opening a spool: finding its segments and mending what a crash left in them, before anything is read or written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from agent.spool_aside import AsideFolder
from agent.spool_files import cut_at
from agent.spool_reader import Head, Segment
from agent.spool_segment import BrokenSegment, SegmentFile

logger = logging.getLogger("agent.spool")

SUFFIX: Final = ".seg"
_UNKEPT: Final = ".broken"


def find_segments(folder: Path, damaged: AsideFolder) -> list[Segment]:
    """The segments of the folder, oldest first. A file that does not begin as one is put into `damaged`, or keeps its
    bytes under another name where there is no room for it. Raises OSError."""
    found = []
    for leftover in folder.glob(f"*{SUFFIX}.new"):
        leftover.unlink()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            file = SegmentFile(path)
        except BrokenSegment as broken:
            logger.error("%s", broken)
            if damaged.keep(path.name, path.read_bytes(), {"what": "it does not begin as a segment"}):
                path.unlink()
            else:
                path.rename(path.with_suffix(_UNKEPT))
            continue
        found.append(Segment(path, file.header.first, file.header.before, file.size))
        file.close()
    return found


def mend_tail(segment: Segment, damaged: AsideFolder) -> tuple[Head, int]:
    """Cuts what a crash left after the last good entry, of which nothing can have been acknowledged; where the spool
    ends then, and how many bytes were cut. Raises OSError.

    What stays is made durable in any case: a life that was killed between writing and fsync left entries that are in
    the kernel's memory alone, and whoever repeats one is told that it is stored.
    """
    file = SegmentFile(segment.path)
    try:
        tail = file.tail(file.size)
        cut = file.raw(tail.end, file.size) if tail.whole else b""
    finally:
        file.close()
    cut_at(segment.path, tail.end)
    if tail.cut:
        if tail.whole:
            note = {"what": "the last entry is all there and damaged"}
            damaged.keep(f"{segment.path.name}-{tail.end}", cut, note)
        segment.size = tail.end
        logger.warning("cut %d bytes of a torn tail from %s", tail.cut, segment.path.name)
    return Head(tail.number, tail.total, tail.end), tail.cut
