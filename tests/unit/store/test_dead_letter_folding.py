"""However much fails, few rows tell of it, and the numbers are exact."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from detect.batch import Poison
from detect.positions import in_ranges, ranges_text
from store.dead_letters import MANY_SUBJECTS, PER_STAGE, PER_SUBJECT, Failure, folded, hour_of

HOUR = datetime(2026, 3, 1, 10, tzinfo=UTC)


def failure(seq: int, position: int, subject: str = "record", count: int = 1, hour: datetime = HOUR) -> Failure:
    return Failure(Poison(seq, position, "normalize", subject, "ValueError: odd", count), seq, hour)


failures = st.builds(
    failure,
    st.integers(1, 60),
    st.integers(0, 40),
    st.sampled_from(["record", "rule-1", "rule-2"]),
    st.integers(1, 1000),
    st.sampled_from([HOUR, HOUR + timedelta(hours=1)]),
)


@given(st.lists(failures, max_size=300), st.integers(0, PER_SUBJECT))
def test_letters_and_counts_together_are_all_that_failed(given_failures: list[Failure], stored: int) -> None:
    letters, folds = folded(given_failures, {(HOUR, "normalize", "record"): stored} if stored else {})
    total = sum(item.poison.count for item in letters) + sum(fold.count for fold in folds)
    assert total == sum(item.poison.count for item in given_failures)
    keys = [(item.poison.seq, item.poison.position, item.poison.stage, item.poison.subject) for item in letters]
    assert len(keys) == len(set(keys)), "a statement must not meet a row twice"
    per_subject = Counter((item.hour, item.poison.subject) for item in letters)
    assert all(count <= PER_SUBJECT for count in per_subject.values())
    assert len({(fold.first.hour, fold.subject) for fold in folds}) == len(folds)


def test_a_million_failures_of_one_rule_are_twenty_letters_and_one_count() -> None:
    stored: dict[object, int] = {}
    rows, counted = 0, 0
    for batch in range(100):
        letters, folds = folded([failure(batch, n, "rule-1", 10_000 // 100) for n in range(100)], stored)  # type: ignore[arg-type]
        rows += len(letters)
        stored[HOUR, "normalize", "rule-1"] = rows
        counted += sum(item.poison.count for item in letters) + sum(fold.count for fold in folds)
    assert (rows, counted) == (PER_SUBJECT, 1_000_000)


def test_a_stage_that_fails_on_ever_other_subjects_is_bounded_too() -> None:
    letters, folds = folded([failure(1, n, f"window {n}") for n in range(10_000)], {})
    assert len(letters) == PER_STAGE
    [fold] = folds
    assert (fold.subject, fold.count) == (MANY_SUBJECTS, 10_000 - PER_STAGE)


def test_the_hour_is_that_of_receipt_in_utc() -> None:
    assert hour_of(datetime(2026, 3, 1, 12, 59, 59, tzinfo=UTC)) == datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(st.sets(st.integers(0, 500)))
def test_positions_come_back_from_their_text(positions: set[int]) -> None:
    assert in_ranges(ranges_text(sorted(positions))) == positions


def test_neighbours_are_written_as_ranges_and_too_many_as_nothing() -> None:
    assert ranges_text([0, 1, 2, 3, 9, 11, 12]) == "0-3,9,11-12"
    assert ranges_text(range(0, 10_000, 2)) == ""
