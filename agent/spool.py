"""The forwarder's disk spool: a bounded queue of batches in which what was acknowledged survives whatever happens.

`append` returns when its batches are on disk, `take` gives them out oldest first, `settle` books what became of them.
When the spool is full it refuses (SpoolFull): nothing in it is ever dropped to make room. A process that is killed, a
torn tail, damage in the middle and a disk that fills up are survived; what cannot be read any more is counted, in
records, and its bytes are kept in damaged/.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from agent.spool_aside import AsideFolder
from agent.spool_books import Books, BooksFile, Outcome
from agent.spool_files import hold, make_folder, sync_folder, write_at
from agent.spool_opening import SUFFIX, find_segments, mend_tail
from agent.spool_reader import Entry, Head, Lost, Segment, SpoolReader, first_books
from agent.spool_segment import (
    FRAME_BYTES,
    LARGEST_PAYLOAD,
    SEGMENT_BYTES,
    SegmentFile,
    SegmentHeader,
    encode_frame,
)

logger = logging.getLogger("agent.spool")

DAMAGED: Final = "spool_damaged"
"""The reason under which the books reject what the disk has lost."""
READS: Final = 5
"""Readings of an entry that may fail before it counts as lost."""


class SpoolError(Exception):
    """The spool cannot be opened: another process holds it, or its folder cannot be used."""


class SpoolFull(Exception):
    """Nothing can be stored now: `reason` says which bound was met, or that the disk refuses. Nothing was stored."""

    def __init__(self, reason: Literal["spool_full", "disk_full", "disk_error"], detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Sizes in bytes. `most` bounds all segments together, `segment` is where a new one begins, `least_free` is left
    to others on the file system, `aside` bounds damaged/ and poison/ each."""

    most: int = 1 << 30
    segment: int = 64 << 20
    least_free: int = 64 << 20
    aside: int = 256 << 20


class Spool:
    """One folder, one process. Any thread may call any method; `append` and `flush` wait for the disk."""

    def __init__(self, folder: Path, limits: SpoolLimits | None = None) -> None:
        """Opens the spool or makes a new one, and mends what a crash left. Raises SpoolError."""
        self.folder = folder
        self._limits = limits or SpoolLimits()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._appending = threading.Lock()
        self._flushing = threading.Lock()
        self._closed = False
        self._dirty = False
        self._wakes = 0
        self._failed_reads = 0
        self._segments: list[Segment] = []
        self._books = Books(run="")
        self._head = Head(0, 0, 0)
        self._active = -1
        self._run = os.urandom(16)
        self._held = -1
        try:
            make_folder(folder)
            self._held = hold(folder / "lock")
            self.poison = AsideFolder(folder / "poison", self._limits.aside)
            self.damaged = AsideFolder(folder / "damaged", self._limits.aside)
            self._file = BooksFile(folder / "books")
            self._open_segments()
        except (OSError, ValueError, TypeError, KeyError) as error:
            if self._held >= 0:
                os.close(self._held)
            raise SpoolError(f"the spool in {folder} cannot be used: {error}") from error

    def append(self, batches: Sequence[tuple[bytes, int]]) -> list[int]:
        """Stores (payload, records) pairs; their numbers, once they are on disk together.

        When not all fit, the first of them are stored and fewer numbers come back; raises SpoolFull when none fits.
        """
        with self._appending:
            fitting = self._fitting(batches)
            self._roll_for(sum(FRAME_BYTES + len(payload) for payload, _ in fitting))
            number, total = self._head.number, self._head.total
            frames: list[bytes] = []
            numbers: list[int] = []
            for payload, records in fitting:
                number, total = number + 1, total + records
                frames += (encode_frame(self._run, number, records, total, payload), payload)
                numbers.append(number)
            self._write(b"".join(frames))
            with self._changed:
                end = self._head.active_end + sum(map(len, frames))
                self._head = Head(number, total, end)
                self._books.head, self._books.head_total = number, total
                self._segments[-1].size = end
                self._dirty = True
                self._changed.notify_all()
            return numbers

    def take(self, wait_s: float = 0.0) -> Entry | None:
        """The oldest entry that was not taken in this life, or None when there is none within the time.

        Raises OSError when the disk cannot be read; an entry for which that was so READS times counts as lost.
        """
        deadline = time.monotonic() + wait_s
        with self._changed:
            wakes = self._wakes
            while not self._closed:
                found = self._read()
                if isinstance(found, Lost):
                    self._lose(found)
                elif found is None:
                    left = deadline - time.monotonic()
                    if left <= 0 or wakes != self._wakes or not self._changed.wait(left):
                        return None
                elif not self._books.is_settled(found.number):
                    inherited = found.number <= self._inherited
                    return Entry(found.number, found.records, found.run, found.payload, inherited)
            return None

    def newest(self, most: int, prefix: int) -> Iterator[bytes]:
        """The first `prefix` bytes of the good payloads in the last two segments, at most `most`, oldest first.

        A damaged one is left out, though its first bytes be good: it may never have been whole on the disk, and then
        its sender comes with it again.
        """
        with self._lock:
            segments, end = self._segments[-2:], self._head.active_end
        found: deque[bytes] = deque(maxlen=most)
        for segment in segments:
            file = SegmentFile(segment.path)
            try:
                for frame in file.frames(end if segment is segments[-1] else file.size):
                    payload = file.payload(frame)
                    if payload is not None:
                        found.append(payload[:prefix])
            finally:
                file.close()
        return iter(found)

    def settle(self, entry: Entry, outcome: Outcome, run: str = "") -> None:
        """Books what became of an entry that was taken; it leaves the disk with a later flush. `run` is the one in
        whose name it was sent, where that can be another than now."""
        with self._changed:
            if not self._books.is_settled(entry.number):
                self._books.settle(entry.number, entry.number + 1, entry.records, outcome)
                if run not in {"", self._books.run}:
                    self._books.disown(entry.records, outcome)
                self._dirty = True
            self._changed.notify_all()

    def saw(self, seq: int) -> None:
        """Notes the highest place of the server's journal that was heard of."""
        with self._lock:
            if seq > self._books.seen_seq:
                self._books.seen_seq = seq
                self._dirty = True

    def begin_run(self) -> None:
        """Begins new books, when the old ones contradict what the server was told before (a spool restored)."""
        with self._lock:
            self._books = self._books.new_run()
            self._dirty = True

    def flush(self) -> Books:
        """Makes the books durable and deletes segments that are done; what is returned is on disk. Raises OSError."""
        with self._flushing:
            with self._lock:
                books, dirty = self._books.copy(), self._dirty
                self._dirty = False
            if dirty:
                try:
                    self._file.write(books)
                except OSError:
                    self._dirty = True
                    raise
            self._delete_before(books.cursor)
            return books

    def books(self) -> Books:
        """The books of this moment; they may be ahead of the disk."""
        with self._lock:
            return self._books.copy()

    def used(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return sum(segment.size for segment in self._segments)

    @property
    def run(self) -> str:
        """The run that the books are of: X-Agent-Run."""
        return self._books.run

    @property
    def most(self) -> int:
        """The bound of `used`."""
        return self._limits.most

    def wait_empty(self, wait_s: float) -> bool:
        """Whether every entry is settled, after at most this time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._books.in_flight_batches == 0 or self._closed, wait_s)

    def wake(self) -> None:
        """Lets those who wait in `take` go without an entry."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Flushes and lets another process open the spool."""
        with self._appending:
            if self._closed:
                return
            try:
                self.flush()
            finally:
                with self._changed:
                    self._closed = True
                    self._changed.notify_all()
                    self._reader.close()
                if self._active >= 0:
                    os.close(self._active)
                self._file.close()
                os.close(self._held)

    def _open_segments(self) -> None:
        books = self._file.read()
        self._segments += find_segments(self.folder, self.damaged)
        if books is None:
            books = first_books(self._run.hex(), self._segments[0] if self._segments else None)
        self._books = books
        tail = Head(0, 0, 0)
        if self._segments:
            tail, cut = mend_tail(self._segments[-1], self.damaged)
            books.torn_bytes += cut
        if tail.number >= books.head:
            self._head = tail
        else:
            # The end of the spool is gone from the disk: numbers go on after those that were given out.
            self._head = Head(books.head, books.head_total, tail.active_end)
        # Every life writes segments of its own, under a name of its own: in a spool that was restored from a copy a
        # number is given out again, and the server must not take its batch for the one it knows.
        books.head, books.head_total = self._head.number, self._head.total
        self._inherited = books.head
        self._dirty = True
        self._reader = SpoolReader(self._segments, books.cursor, books.through)
        self.flush()

    def _fitting(self, batches: Sequence[tuple[bytes, int]]) -> Sequence[tuple[bytes, int]]:
        if self._closed:
            raise SpoolFull("disk_error", "the spool is closed")
        room = self._room()
        if room < FRAME_BYTES + len(batches[0][0]):
            self._make_room()
            room = self._room()
        fits = 0
        for payload, _ in batches:
            room -= FRAME_BYTES + len(payload)
            if room < 0 or len(payload) > LARGEST_PAYLOAD:
                break
            fits += 1
        if not fits:
            raise SpoolFull("spool_full", f"the spool holds its {self._limits.most:,} bytes: the server must take some")
        return batches[:fits]

    def _room(self) -> int:
        """Bytes that may be added now."""
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize - self._limits.least_free
        if free <= 0:
            raise SpoolFull("disk_full", f"less than {self._limits.least_free:,} bytes are free at {self.folder}")
        return min(free, self._limits.most - self.used())

    def _make_room(self) -> None:
        """A segment goes when all of it is done, so the active one is ended early if that is all that it needs."""
        try:
            self.flush()
            if self._books.in_flight_batches == 0 and self._head.active_end > SEGMENT_BYTES:
                self._roll()
                self.flush()
        except OSError as error:
            raise SpoolFull("disk_error", f"the disk refuses: {error}") from error

    def _roll_for(self, size: int) -> None:
        end = self._head.active_end
        if self._active < 0 or (end + size > self._limits.segment and end > SEGMENT_BYTES):
            try:
                self._roll()
            except OSError as error:
                raise SpoolFull("disk_error", f"no new segment can be made: {error}") from error

    def _roll(self) -> None:
        made = self._new_segment()
        if self._active >= 0:
            os.close(self._active)
        self._active = made

    def _new_segment(self) -> int:
        """Makes the next segment durable, with its name, and the place of the next entry; its descriptor."""
        first = self._head.number + 1
        path = self.folder / f"{first:020d}{SUFFIX}"
        fresh = path.with_name(f"{path.name}.new")
        made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(made, SegmentHeader(self._run, first, self._head.total).encode())
            os.fsync(made)
            fresh.replace(path)
            sync_folder(self.folder)
        except OSError:
            os.close(made)
            raise
        with self._lock:
            # One without entries has the same name, and has just been replaced.
            if self._segments and self._segments[-1].path == path:
                self._segments.pop()
            self._segments.append(Segment(path, first, self._head.total, SEGMENT_BYTES))
            self._head = Head(self._head.number, self._head.total, SEGMENT_BYTES)
        return made

    def _write(self, content: bytes) -> None:
        try:
            write_at(self._active, content, self._head.active_end)
            os.fdatasync(self._active)
        except OSError as error:
            self._retreat()
            raise SpoolFull("disk_error", f"the spool cannot be written: {error}") from error

    def _retreat(self) -> None:
        """After a failed write nobody knows what is on disk: the next entries go to a new segment, and the reader
        takes nothing from this one that has a number of the next."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._active, self._head.active_end)
            os.fsync(self._active)
        with contextlib.suppress(OSError):
            os.close(self._active)
        self._active = -1

    def _read(self) -> Entry | Lost | None:
        try:
            found = self._reader.next(self._head)
        except OSError:
            self._failed_reads += 1
            if self._failed_reads < READS:
                raise
            # A bad sector stays one, and whatever waits behind it would wait for ever.
            logger.exception("an entry of the spool could not be read %d times", READS)
            found = self._reader.give_up(self._head)
        self._failed_reads = 0
        return found

    def _lose(self, lost: Lost) -> None:
        self._books.lose(lost.first, lost.end, lost.records, Outcome("rejected", reason=DAMAGED, unsettled=True))
        self._books.damaged_bytes += lost.size
        self._dirty = True
        entries = (lost.first, lost.end - 1, lost.where, lost.records)
        logger.error("entries %d to %d cannot be read (%s): %d records", *entries)
        note = {key: value for key, value in asdict(lost).items() if key != "raw"}
        self.damaged.keep(f"entry-{lost.first}", lost.raw, {"what": note})

    def _delete_before(self, cursor: int) -> None:
        with self._lock:
            while len(self._segments) > 1 and self._segments[1].first <= cursor:
                self._segments[0].path.unlink(missing_ok=True)
                del self._segments[0]
