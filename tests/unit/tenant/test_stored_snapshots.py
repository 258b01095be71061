"""Snapshots that older versions stored: each goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from detect.snapshot import FORMAT, UnknownSnapshotFormat, pack_snapshot, snapshot_format, unpack_snapshot
from detect.snapshot_evidence import evidence_columns, in_journal_order, read_columns
from detect.snapshot_migrations import MIGRATIONS
from tests.unit.tenant.stored_snapshots.story import MIDDLE, detector, journal, said

FOLDER = Path(__file__).parent / "stored_snapshots"
STORED = sorted(FOLDER.glob("format-*.snapshot"))


def test_every_format_has_a_stored_snapshot_and_a_migration_to_the_next() -> None:
    assert [snapshot_format(path.read_bytes()) for path in STORED] == list(range(1, FORMAT + 1))
    assert sorted(MIGRATIONS) == list(range(1, FORMAT))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_snapshot_goes_on_to_exactly_what_was_said_then(path: Path) -> None:
    told = detector()
    told.restore(path.read_bytes())
    assert told.seq == MIDDLE
    expected = orjson.loads(path.with_suffix(".said.json").read_bytes())
    assert any(output["events"] for output in expected), "a silent story would prove nothing"
    assert [said(told.observe(batch)) for batch in journal()[MIDDLE:]] == expected


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_migrated_snapshot_equals_one_of_today(path: Path) -> None:
    migrated, today = detector(), detector()
    migrated.restore(path.read_bytes())
    for batch in journal()[:MIDDLE]:
        today.observe(batch)
    assert migrated.snapshot() == today.snapshot()


def test_a_newer_format_is_refused_by_its_number() -> None:
    newer = pack_snapshot(FORMAT + 1, {"tenant": b""})
    with pytest.raises(
        UnknownSnapshotFormat, match=f"format {FORMAT + 1}, this program reads format {FORMAT}"
    ) as error:
        detector().restore(newer)
    assert error.value.found == FORMAT + 1


def test_content_that_no_migration_understands_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="of format 1 cannot be migrated"):
        detector().restore(pack_snapshot(1, {"sigma": None}))


def test_evidence_stands_once_in_the_order_of_the_journal() -> None:
    told = detector()
    for batch in journal()[:MIDDLE]:
        told.observe(batch)
    content = unpack_snapshot(FORMAT, told.snapshot())
    evidence = read_columns(content["evidence"])
    assert len(set(evidence)) == len(evidence) > 0
    assert evidence == in_journal_order(evidence[::-1])
    assert evidence_columns(evidence) == content["evidence"]
    assert len(told.snapshot()) < len(STORED[0].read_bytes()), "format 1 wrote it out in every place"


def test_a_captured_state_is_packed_as_it_was_though_the_detector_goes_on() -> None:
    told = detector()
    for batch in journal()[:MIDDLE]:
        told.observe(batch)
    expected, captured = told.snapshot(), told.capture()
    for batch in journal()[MIDDLE:]:
        told.observe(batch)
    assert captured.pack() == expected != told.snapshot()
    assert captured.seq == MIDDLE
