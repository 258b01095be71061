"""Snapshots that older versions stored: each goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from detect.sigma.group import held_text
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


def test_a_long_text_of_format_3_is_held_as_one_that_comes_today() -> None:
    text = "a" * 5000
    contribution = [5, "1-1", 0, text, [0], []]
    content = {"sigma": {"correlations": {"c": {"groups": [[[text, "b"], 7, 6, [], [contribution]]]}}}}
    [row] = MIGRATIONS[3](content)["sigma"]["correlations"]["c"]["groups"]
    assert row == [[held_text(text), "b"], [7], 0, 6, [], [[5, "1-1", 0, held_text(text), [0], []]]]
