"""The books of a spool: what became of every record that entered it, durable together with the place it is read from.

Two slots of a file that never grows are written in turn, so a write that is cut short spoils one and leaves the state
before it in the other, and a full disk cannot keep them from being written.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from agent.spool_files import write_at

SLOT_BYTES: Final = 32 * 1024
MOST_REASONS: Final = 60
"""Reasons of rejection that are told apart, as a ledger statement takes at most 64."""
OTHER_REASONS: Final = "other"

_HEAD = struct.Struct("<QII")  # sequence number, bytes, CRC-32 of both and the text


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a batch left the spool. `seq` is its place in the server's journal (0: none), `elsewhere` says that another
    run had stored it, `unsettled` that an earlier attempt may have been stored although it was never answered."""

    state: Literal["stored", "duplicate", "rejected"]
    seq: int = 0
    elsewhere: bool = False
    reason: str = ""
    unsettled: bool = False


@dataclass(slots=True)
class Books:
    """Counts of records since the run began, and how far the spool is settled.

    Every entry below `cursor` is settled, `through` is their total; `ahead` are settled ranges beyond it, as
    (first, after last, records). `head` and `head_total` are the last entry and the total of the whole spool,
    `base` and `base_number` what they were when the run began.
    """

    run: str
    base: int = 0
    base_number: int = 0
    cursor: int = 1
    through: int = 0
    head: int = 0
    head_total: int = 0
    ahead: list[tuple[int, int, int]] = field(default_factory=list)
    stored: int = 0
    duplicate: int = 0
    elsewhere: int = 0
    unsettled: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    stored_batches: int = 0
    duplicate_batches: int = 0
    rejected_batches: int = 0
    seen_seq: int = 0
    damaged_entries: int = 0
    damaged_bytes: int = 0
    torn_bytes: int = 0

    @property
    def accepted(self) -> int:
        """Records that entered the spool in this run."""
        return self.head_total - self.base

    @property
    def accepted_batches(self) -> int:
        return self.head - self.base_number

    @property
    def in_flight(self) -> int:
        """Records that are not settled: counted from the spool, not from the other books, so that these can err."""
        return self.head_total - self.through - sum(records for _, _, records in self.ahead)

    @property
    def in_flight_batches(self) -> int:
        return self.head + 1 - self.cursor - sum(end - first for first, end, _ in self.ahead)

    @property
    def unaccounted(self) -> int:
        """Records in none of the counts; anything but 0 is a defect of this program."""
        settled = self.stored + self.duplicate + sum(self.rejected.values())
        return self.accepted - settled - self.in_flight

    def is_settled(self, number: int) -> bool:
        """Whether this entry has left the spool."""
        return number < self.cursor or any(first <= number < end for first, end, _ in self.ahead)

    def settle(self, first: int, end: int, records: int, outcome: Outcome) -> None:
        """Counts the entries first to end - 1, of so many records together, as gone."""
        match outcome.state:
            case "stored":
                self.stored += records
                self.stored_batches += end - first
            case "duplicate":
                self.duplicate += records
                self.duplicate_batches += end - first
                self.elsewhere += records if outcome.elsewhere else 0
            case "rejected":
                known = outcome.reason in self.rejected or len(self.rejected) < MOST_REASONS
                reason = outcome.reason if known else OTHER_REASONS
                self.rejected[reason] = self.rejected.get(reason, 0) + records
                self.rejected_batches += end - first
                self.unsettled += records if outcome.unsettled else 0
        self.seen_seq = max(self.seen_seq, outcome.seq)
        self._advance(first, end, records)

    def lose(self, first: int, end: int, records: int, outcome: Outcome) -> None:
        """Counts as gone whatever of the entries first to end - 1, of so many records together, is not yet."""
        known = [(begin, after, count) for begin, after, count in self.ahead if begin < end and first < after]
        left = records - sum(count for _, _, count in known)
        position = first
        for begin, after, _ in [*known, (end, end, 0)]:
            if position < begin:
                # Which of several gaps had how many records nobody knows; their sum is right.
                self.settle(position, begin, left, outcome)
                self.damaged_entries += begin - position
                left = 0
            position = max(position, after)

    def disown(self, records: int, outcome: Outcome) -> None:
        """Takes a batch out of this run that was settled in the name of the run before."""
        before = self.copy()
        before.settle(self.cursor, self.cursor, -records, outcome)
        self.stored, self.duplicate, self.elsewhere = before.stored, before.duplicate, before.elsewhere
        self.rejected, self.unsettled = before.rejected, before.unsettled
        self.base += records
        self.base_number += 1
        match outcome.state:
            case "stored":
                self.stored_batches -= 1
            case "duplicate":
                self.duplicate_batches -= 1
            case "rejected":
                self.rejected_batches -= 1

    def new_run(self) -> Books:
        """Books that begin now: what is in the spool is what they have accepted."""
        fresh = replace(self, run=new_run(), base=self.head_total - self.in_flight, rejected={}, ahead=list(self.ahead))
        fresh.base_number = self.head - self.in_flight_batches
        fresh.stored = fresh.duplicate = fresh.elsewhere = fresh.unsettled = 0
        fresh.stored_batches = fresh.duplicate_batches = fresh.rejected_batches = 0
        return fresh

    def copy(self) -> Books:
        """Books of their own, for whoever reads them while these go on."""
        return replace(self, rejected=dict(self.rejected), ahead=list(self.ahead))

    def statement(self) -> dict[str, Any]:
        """The body of POST /ingest/ledger (docs/wire.md)."""
        return {
            "run": self.run,
            "accepted": self.accepted,
            "stored": self.stored,
            "duplicate": self.duplicate,
            "rejected": dict(self.rejected),
            "in_flight": self.in_flight,
            "elsewhere": self.elsewhere,
            "unsettled": self.unsettled,
            "seen_seq": self.seen_seq,
        }

    def _advance(self, first: int, end: int, records: int) -> None:
        ranges = sorted([*self.ahead, (first, end, records)])
        merged: list[tuple[int, int, int]] = []
        for begin, after, count in ranges:
            if begin == self.cursor:
                self.cursor, self.through = after, self.through + count
            elif merged and merged[-1][1] == begin:
                before = merged.pop()
                merged.append((before[0], after, before[2] + count))
            else:
                merged.append((begin, after, count))
        self.ahead = merged


class BooksFile:
    """Keeps books on disk. Not for use by two threads at once. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sequence = 0
        if os.fstat(self._file).st_size < 2 * SLOT_BYTES:
            os.posix_fallocate(self._file, 0, 2 * SLOT_BYTES)
            os.fsync(self._file)

    def read(self) -> Books | None:
        """The newest books that are whole, or None."""
        newest: Books | None = None
        for slot in range(2):
            raw = os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES)
            sequence, size, stated = _HEAD.unpack_from(raw)
            text = raw[_HEAD.size : _HEAD.size + size]
            if sequence > self._sequence and len(text) == size and _checksum(sequence, text) == stated:
                self._sequence, newest = sequence, _decoded(text)
        return newest

    def write(self, books: Books) -> None:
        """Returns when the books are on disk."""
        text = json.dumps(asdict(books), separators=(",", ":")).encode()
        if len(text) > SLOT_BYTES - _HEAD.size:
            raise ValueError(f"books of {len(text)} bytes do not fit their slot")
        sequence = self._sequence + 1
        slot = _HEAD.pack(sequence, len(text), _checksum(sequence, text)) + text
        write_at(self._file, slot, (sequence % 2) * SLOT_BYTES)
        os.fdatasync(self._file)
        self._sequence = sequence

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._file)


def new_run() -> str:
    """A name for a run that nobody has used: 32 hex digits."""
    return secrets.token_hex(16)


def _checksum(sequence: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(struct.pack("<QI", sequence, len(text))))


def _decoded(text: bytes) -> Books:
    fields = json.loads(text)
    fields["ahead"] = [(first, end, records) for first, end, records in fields["ahead"]]
    return Books(**fields)
