"""What is told to be stored is on the disk, names and all, and not only in the kernel's memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent.spool import DAMAGED, READS, Spool, SpoolLimits
from agent.spool_books import Outcome
from agent.spool_reader import Entry
from agent.spool_segment import FRAME_BYTES, SEGMENT_BYTES, Frame, SegmentFile, encode_frame

ROOMY = SpoolLimits(least_free=0)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that were made durable, in their order; the calls themselves are real."""
    inodes: list[int] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def spying(descriptor: int, real: object = real) -> None:
            real(descriptor)  # type: ignore[operator]
            inodes.append(os.fstat(descriptor).st_ino)

        monkeypatch.setattr(os, name, spying)
    return inodes


def taken(spool: Spool) -> list[Entry]:
    return list(iter(spool.take, None))


def the_segment(folder: Path) -> Path:
    [segment] = folder.glob("*.seg")
    return segment


def test_what_a_killed_life_wrote_and_did_not_sync_is_synced_before_it_counts(
    tmp_path: Path, synced: list[int]
) -> None:
    """Its sender comes again, is recognised, and is told that the batch is stored."""
    folder = tmp_path / "spool"
    spool = Spool(folder, ROOMY)
    spool.append([(b"acknowledged", 1)])
    spool.close()
    path = the_segment(folder)
    file = SegmentFile(path)
    run = file.header.run
    file.close()
    with path.open("ab") as segment:
        segment.write(encode_frame(run, 2, 1, 2, b"written alone") + b"written alone")
    synced.clear()
    spool = Spool(folder, ROOMY)
    try:
        assert [entry.payload for entry in taken(spool)] == [b"acknowledged", b"written alone"]
        assert path.stat().st_ino in synced
    finally:
        spool.close()


def test_the_names_of_new_folders_and_segments_are_durable_before_the_first_acknowledgement(
    tmp_path: Path, synced: list[int]
) -> None:
    folder = tmp_path / "var" / "lib" / "spool"
    spool = Spool(folder, ROOMY)
    try:
        spool.append([(b"one", 1)])
        for place in (tmp_path, tmp_path / "var", tmp_path / "var" / "lib", folder, the_segment(folder)):
            assert place.stat().st_ino in synced, place
    finally:
        spool.close()


def test_a_batch_of_which_only_the_beginning_reached_the_disk_is_not_remembered_as_stored(tmp_path: Path) -> None:
    """A group is one write, and after a power cut its later pages may be there without the earlier ones."""
    folder = tmp_path / "spool"
    spool = Spool(folder, ROOMY)
    spool.append([(b"first " + b"x" * 200, 1), (b"second" + b"y" * 200, 1), (b"third " + b"z" * 200, 1)])
    spool.close()
    path = the_segment(folder)
    content = bytearray(path.read_bytes())
    second = SEGMENT_BYTES + FRAME_BYTES + 206 + FRAME_BYTES
    content[second + 100 : second + 206] = bytes(106)
    path.write_bytes(content)
    spool = Spool(folder, ROOMY)
    try:
        assert list(spool.newest(10, 6)) == [b"first ", b"third "]
        assert [entry.number for entry in taken(spool)] == [1, 3]
    finally:
        spool.close()


@pytest.mark.parametrize("bad_reads", [READS - 1, READS])
def test_a_bad_sector_is_tried_again_and_then_does_not_hold_up_what_is_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_reads: int
) -> None:
    real, failing = SegmentFile.payload, [OSError(errno.EIO, "Input/output error")] * bad_reads

    def payload(file: SegmentFile, frame: Frame) -> bytes | None:
        if frame.number == 2 and failing:
            raise failing.pop()
        return real(file, frame)

    spool = Spool(tmp_path / "spool", ROOMY)
    try:
        spool.append([(b"one", 1), (b"two", 5), (b"three", 1)])
        monkeypatch.setattr(SegmentFile, "payload", payload)
        got: list[int] = []
        errors = 0
        while len(got) < (3 if bad_reads < READS else 2):
            try:
                entry = spool.take()
            except OSError:
                errors += 1
            else:
                assert entry is not None
                got.append(entry.number)
        books = spool.books()
        assert errors == READS - 1
        assert got == ([1, 2, 3] if bad_reads < READS else [1, 3])
        assert books.rejected == ({} if bad_reads < READS else {DAMAGED: 5})
        assert books.unaccounted == 0
        assert spool.append([(b"four", 1)]) == [4]
        assert [entry.number for entry in taken(spool)] == [4]
    finally:
        spool.close()


def test_a_segment_whose_beginning_is_gone_keeps_its_bytes_also_where_damaged_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    for aside, kept in ((10, "*.broken"), (1 << 20, "damaged/*.bin")):
        spool = Spool(folder, ROOMY)
        spool.append([(b"all that is left", 1)])
        spool.close()
        path = sorted(folder.glob("*.seg"))[-1]
        content = b"\0" * 8 + path.read_bytes()[8:]
        path.write_bytes(content)
        spool = Spool(folder, SpoolLimits(least_free=0, aside=aside))
        assert [place.read_bytes() for place in folder.glob(kept)] == [content]
        for entry in taken(spool):
            spool.settle(entry, Outcome("stored"))
        assert spool.books().unaccounted == 0
        spool.close()
