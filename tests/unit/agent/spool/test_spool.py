"""The spool keeps what it acknowledged: oldest first, once each, whatever happens to the process or the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spool import DAMAGED, Spool, SpoolError, SpoolFull, SpoolLimits
from agent.spool_books import SLOT_BYTES, BooksFile, Outcome
from agent.spool_reader import Entry
from agent.spool_segment import FRAME_BYTES, SEGMENT_BYTES

SMALL = SpoolLimits(most=1 << 20, segment=600, least_free=0, aside=1 << 20)
STORED = Outcome("stored")

payloads = st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 50)), min_size=1, max_size=12)


@contextmanager
def opened(folder: Path, limits: SpoolLimits = SMALL) -> Iterator[Spool]:
    spool = Spool(folder, limits)
    try:
        yield spool
    finally:
        spool.close()


@contextmanager
def a_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "spool"


def rest(spool: Spool) -> list[Entry]:
    return list(iter(spool.take, None))


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


@given(st.lists(payloads, min_size=1, max_size=5), st.data())
def test_what_was_acknowledged_comes_out_in_order_over_any_number_of_lives(
    groups: list[list[tuple[bytes, int]]], data: st.DataObject
) -> None:
    put: list[tuple[bytes, int]] = []
    got: list[tuple[bytes, int]] = []
    with a_folder() as folder:
        for group in groups:
            with opened(folder) as spool:
                put += group[: len(spool.append(group))]
                for _ in range(data.draw(st.integers(0, len(put) - len(got)))):
                    entry = spool.take()
                    assert entry is not None
                    got.append((entry.payload, entry.records))
                    spool.settle(entry, STORED)
        with opened(folder) as spool:
            got += [(entry.payload, entry.records) for entry in rest(spool)]
            books = spool.books()
            assert (books.accepted, books.unaccounted) == (sum(records for _, records in put), 0)
    assert got == put


@given(payloads, payloads, st.data())
def test_a_file_cut_at_any_byte_loses_only_what_was_written_after_that_byte(
    first: list[tuple[bytes, int]], second: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    """The second group was written and never acknowledged: the process died before fsync came back."""
    roomy = SpoolLimits(segment=1 << 20, least_free=0)
    with a_folder() as folder:
        with opened(folder, roomy) as spool:
            spool.append(first)
            [segment] = segments(folder)
            acknowledged = segment.stat().st_size
            books = (folder / "books").read_bytes()
            spool.append(second)
        whole = segment.stat().st_size
        (folder / "books").write_bytes(books)
        cut = data.draw(st.integers(acknowledged, whole))
        os.truncate(segment, cut)
        ends = [acknowledged + sum(FRAME_BYTES + len(p) for p, _ in second[:n]) for n in range(len(second) + 1)]
        survivors = sum(1 for end in ends[1:] if end <= cut)
        with opened(folder, roomy) as spool:
            expected = [payload for payload, _ in (first + second)[: len(first) + survivors]]
            assert [entry.payload for entry in rest(spool)] == expected
            assert spool.books().torn_bytes == cut - ends[survivors]
            assert spool.books().damaged_entries == 0
            [number] = spool.append([(b"next", 1)])
            assert number == len(first) + survivors + 1
            assert [entry.payload for entry in rest(spool)] == [b"next"]


def test_every_cut_of_one_segment_keeps_every_acknowledged_entry(tmp_path: Path) -> None:
    """The same, byte by byte, over all of a segment, its header included."""
    source = tmp_path / "source"
    with opened(source, SpoolLimits(least_free=0)) as spool:
        for number in range(4):
            spool.append([(bytes([number]) * 40, 1)])
    [segment] = segments(source)
    frame = FRAME_BYTES + 40
    for cut in range(SEGMENT_BYTES, segment.stat().st_size + 1):
        copy = tmp_path / "copy"
        shutil.copytree(source, copy)
        (copy / "books").unlink()
        os.truncate(copy / segment.name, cut)
        with opened(copy) as spool:
            whole = (cut - SEGMENT_BYTES) // frame
            assert [entry.number for entry in rest(spool)] == list(range(1, whole + 1)), cut
        shutil.rmtree(copy)


@given(payloads, st.integers(0, 10**6), st.integers(1, 255))
def test_one_damaged_byte_costs_one_entry_which_is_counted_and_kept(
    batches: list[tuple[bytes, int]], place: int, change: int
) -> None:
    batches = [*batches, (b"the last", 1)]
    with a_folder() as folder:
        with opened(folder, SpoolLimits(segment=1 << 20, least_free=0)) as spool:
            spool.append(batches)
        [segment] = segments(folder)
        content = bytearray(segment.read_bytes())
        last = FRAME_BYTES + len(b"the last")
        place = SEGMENT_BYTES + place % (len(content) - SEGMENT_BYTES - last)
        content[place] ^= change
        segment.write_bytes(content)
        starts = [SEGMENT_BYTES + sum(FRAME_BYTES + len(p) for p, _ in batches[:n]) for n in range(len(batches))]
        hurt = max(n for n, start in enumerate(starts) if start <= place)
        with opened(folder) as spool:
            left = rest(spool)
            assert [entry.number for entry in left] == [n + 1 for n in range(len(batches)) if n != hurt]
            books = spool.books()
            assert books.rejected == {DAMAGED: batches[hurt][1]}
            assert (books.unsettled, books.damaged_entries) == (batches[hurt][1], 1)
            assert books.unaccounted == 0
            assert spool.damaged.count() == 1
        kept = (folder / "damaged" / f"entry-{hurt + 1}.bin").read_bytes()
        assert kept == bytes(content[starts[hurt] : starts[hurt + 1]])


@given(st.binary(max_size=2000), st.data())
def test_any_bytes_in_place_of_a_segment_s_end_are_survived(noise: bytes, data: st.DataObject) -> None:
    with a_folder() as folder:
        with opened(folder, SpoolLimits(segment=1 << 20, least_free=0)) as spool:
            spool.append([(b"a" * 100, 5), (b"b" * 100, 6), (b"c" * 100, 7)])
        [segment] = segments(folder)
        content = segment.read_bytes()
        segment.write_bytes(content[: data.draw(st.integers(0, len(content)))] + noise)
        with opened(folder) as spool:
            got = rest(spool)
            assert [entry.number for entry in got] == sorted({entry.number for entry in got})
            books = spool.books()
            assert (books.accepted, books.unaccounted) == (18, 0), "the books know what the disk has lost"
            assert sum(books.rejected.values()) + sum(entry.records for entry in got) == 18


def test_segments_that_vanish_are_named_in_records(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        for number in range(12):
            spool.append([(b"x" * 200, number + 1)])
    [first, second, *others, last] = segments(tmp_path / "spool")
    assert len(others) >= 2
    second.unlink()
    last.unlink()
    with opened(tmp_path / "spool") as spool:
        numbers = [entry.number for entry in rest(spool)]
        books = spool.books()
        lost = sum(number for number in range(1, 13) if number not in numbers)
        assert books.rejected == {DAMAGED: lost}
        assert (books.accepted, books.unaccounted, books.head) == (78, 0, 12)
        assert spool.append([(b"next", 1)]) == [13]
    assert first.exists() is True


def test_a_full_spool_refuses_and_takes_again_once_the_server_has_taken_some(tmp_path: Path) -> None:
    limits = SpoolLimits(most=4000, segment=1000, least_free=0)
    with opened(tmp_path / "spool", limits) as spool:
        stored = 0
        with pytest.raises(SpoolFull) as full:
            for _ in range(100):
                stored += len(spool.append([(b"x" * 100, 1)] * 3))
        assert full.value.reason == "spool_full"
        assert stored == (4000 - len(segments(tmp_path / "spool")) * SEGMENT_BYTES) // (FRAME_BYTES + 100)
        assert spool.used() <= 4000
        for entry in rest(spool):
            spool.settle(entry, STORED)
        assert spool.append([(b"x" * 100, 1)]) == [stored + 1], "nothing was dropped, and there is room at once"
        assert spool.books().stored == stored


def test_of_a_group_that_does_not_fit_the_first_are_stored(tmp_path: Path) -> None:
    with opened(tmp_path / "spool", SpoolLimits(most=1000, segment=4000, least_free=0)) as spool:
        assert spool.append([(b"x" * 300, 1)] * 9) == [1, 2]
        assert [entry.number for entry in rest(spool)] == [1, 2]


def test_a_disk_without_room_is_a_refusal_and_harms_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "spool", SpoolLimits(least_free=1 << 60)) as spool:
        with pytest.raises(SpoolFull) as full:
            spool.append([(b"x", 1)])
        assert full.value.reason == "disk_full"
    with opened(tmp_path / "spool") as spool:
        assert spool.append([(b"x", 1)]) == [1]


FILL = """
import resource, sys
from pathlib import Path
from agent.spool import Spool, SpoolFull, SpoolLimits
spool = Spool(Path(sys.argv[1]), SpoolLimits(segment=1 << 20, least_free=0))
acknowledged = []
# A file may not grow beyond this: the write that would comes back short, as it does on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
refused = 0
for number in range(200):
    try:
        acknowledged += spool.append([(number.to_bytes(2, "big") * 2000, 1)])
    except SpoolFull as full:
        assert full.reason == "disk_error", full.reason
        refused += 1
print(len(acknowledged), refused)
got = 0
while (entry := spool.take()) is not None:
    got += 1
assert got == len(acknowledged)
spool.close()
"""


def test_a_write_that_fails_half_way_stores_nothing_of_it_and_all_of_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    done = subprocess.run([sys.executable, "-c", FILL, str(folder)], capture_output=True, text=True, check=True)
    acknowledged, refused = map(int, done.stdout.split())
    assert refused >= 3
    assert acknowledged + refused == 200
    with opened(folder) as spool:
        assert [entry.number for entry in rest(spool)] == list(range(1, acknowledged + 1))
        assert spool.books().unaccounted == 0


def test_settled_segments_leave_the_disk_when_the_books_are_durable(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with opened(folder) as spool:
        spool.append([(b"x" * 200, 1)])
        for _ in range(9):
            spool.append([(b"x" * 200, 1)])
        before = segments(folder)
        for entry in rest(spool)[:-1]:
            spool.settle(entry, STORED)
        assert segments(folder) == before, "not before a flush"
        spool.flush()
        assert len(segments(folder)) == 1
    with opened(folder) as spool:
        assert [entry.number for entry in rest(spool)] == [10]


@given(st.permutations(range(8)), st.integers(0, 8))
def test_settling_in_any_order_survives_a_crash_and_sends_only_what_is_left(order: list[int], done: int) -> None:
    with a_folder() as folder:
        with opened(folder) as spool:
            spool.append([(bytes([n]), n + 1) for n in range(8)])
            entries = rest(spool)
            for place in order[:done]:
                spool.settle(entries[place], STORED)
            spool.settle(entries[order[0]], STORED)  # a second answer to one batch changes nothing
        with opened(folder) as spool:
            left = {place + 1 for place in ({*order} - {*order[:done], order[0]})}
            assert {entry.number for entry in rest(spool)} == left
            books = spool.books()
            assert (books.in_flight, books.in_flight_batches, books.unaccounted) == (sum(left), len(left), 0)


def test_books_survive_a_write_that_was_cut_short(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        spool.append([(b"a", 3), (b"b", 4)])
        one, two = rest(spool)
        spool.settle(one, STORED)
        spool.flush()
        kept = (tmp_path / "spool" / "books").read_bytes()
        spool.settle(two, Outcome("duplicate", seq=7, elsewhere=True))
        spool.flush()
        newest = (tmp_path / "spool" / "books").read_bytes()
    slot = 0 if kept[:SLOT_BYTES] != newest[:SLOT_BYTES] else 1
    for cut in (0, 9, 40, 200):
        torn = bytearray(newest)
        torn[slot * SLOT_BYTES + cut : (slot + 1) * SLOT_BYTES] = os.urandom(SLOT_BYTES - cut)
        path = tmp_path / f"books-{cut}"
        path.write_bytes(torn)
        file = BooksFile(path)
        books = file.read()
        assert books is not None
        assert (books.stored, books.duplicate, books.seen_seq) == (3, 0, 0), cut
        file.write(books)
        file.close()


def test_without_books_everything_is_sent_again_under_the_same_keys_in_a_new_run(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with opened(folder) as spool:
        spool.append([(b"a", 3), (b"b", 4)])
        keys = [entry.key for entry in rest(spool)]
        run = spool.books().run
    (folder / "books").unlink()
    with opened(folder) as spool:
        again = rest(spool)
        assert [entry.key for entry in again] == keys
        assert all(entry.inherited for entry in again), "an earlier life may have sent them"
        books = spool.books()
        assert books.run != run
        assert (books.accepted, books.in_flight, books.unaccounted) == (7, 7, 0)


def test_a_new_run_accepts_what_lies_in_the_spool(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        spool.append([(b"a", 3), (b"b", 4), (b"c", 5)])
        first, second, third = rest(spool)
        spool.settle(second, STORED)
        run = spool.books().run
        spool.begin_run()
        books = spool.books()
        assert books.run != run
        assert (books.accepted, books.accepted_batches, books.stored, books.in_flight) == (8, 2, 0, 8)
        spool.settle(first, STORED)
        spool.settle(third, Outcome("rejected", reason="http_413", unsettled=True))
        assert spool.books().statement() == {
            "run": books.run,
            "accepted": 8,
            "stored": 3,
            "duplicate": 0,
            "rejected": {"http_413": 5},
            "in_flight": 0,
            "elsewhere": 0,
            "unsettled": 5,
            "seen_seq": 0,
        }


def test_reasons_beyond_the_limit_are_counted_together(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        spool.append([(b"", 1)] * 100)
        for entry in rest(spool):
            spool.settle(entry, Outcome("rejected", reason=f"reason_{entry.number}"))
        rejected = spool.books().rejected
        assert len(rejected) == 61
        assert rejected["other"] == 40


def test_one_spool_has_one_process(tmp_path: Path) -> None:
    with opened(tmp_path / "spool"), pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path / "spool")
    with opened(tmp_path / "spool") as spool:
        assert spool.take() is None


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file")


def test_the_newest_payloads_can_be_looked_at_without_taking_them(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        for number in range(20):
            spool.append([(b"%02d-" % number + b"x" * 97, 1)])
        assert list(spool.newest(3, 2)) == [b"17", b"18", b"19"]
        assert len(rest(spool)) == 20


def test_a_spool_restored_from_a_copy_gives_out_no_key_again(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        spool.append([(b"one", 1)])
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    keys = []
    for folder in ("spool", "copy"):
        with opened(tmp_path / folder) as spool:
            assert spool.append([(folder.encode(), 1)]) == [2]
            entries = rest(spool)
            assert [entry.payload for entry in entries] == [b"one", folder.encode()]
            keys.append([entry.key for entry in entries])
    assert keys[0][0] == keys[1][0], "the same batch"
    assert keys[0][1] != keys[1][1], "another one, though it has the same number"
