"""What may stand in a column: any text, any time, any number."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.values import bounded, iso_time, json_text, key_text, nanoseconds, text, timestamp

anything = st.text(st.characters(exclude_categories=()))


@given(anything, st.integers(1, 64))
def test_text_is_valid_bounded_and_keeps_what_is_fit(value: str, limit: int) -> None:
    fit = text(value, limit)
    assert "\0" not in fit
    assert len(fit.encode()) <= limit
    if "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value):
        assert value.startswith(fit)
        assert fit == value or len(fit.encode()) > limit - 4


@given(anything, anything)
def test_long_keys_are_cut_but_stay_apart(one: str, two: str) -> None:
    start = "x" * 2000
    assert len(key_text(start + one).encode()) <= 1024
    if key_text(one, 10**9) != key_text(two, 10**9):
        assert key_text(start + one) != key_text(start + two)
    assert key_text("short") == "short"


@given(st.integers(-(2**80), 2**80))
def test_any_time_becomes_one_that_postgres_and_python_hold(value: int) -> None:
    time = timestamp(value)
    assert 1 <= time.year <= 9999
    if 1 < time.year < 9999:
        assert nanoseconds(time) == value // 1000 * 1000


def test_times_are_exact_to_the_microsecond() -> None:
    time = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)
    assert nanoseconds(time) == 1_772_600_767_891_234_000
    assert timestamp(1_772_600_767_891_234_567) == time
    assert iso_time(time) == "2026-03-04T05:06:07.891234Z"
    assert iso_time(timestamp(-(2**63) * 1000)) == "0001-01-01T00:00:00.000000Z"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(anything, inner),
    max_leaves=20,
)


@given(json_values)
def test_json_text_is_json_without_what_the_operators_refuse(value: object) -> None:
    encoded = json_text(value)
    encoded.encode()
    decoded = json.loads(encoded)
    if isinstance(value, str):
        assert decoded == value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() or "\ufffd" in decoded
    assert "\0" not in json.dumps(decoded, ensure_ascii=False)
    assert "\\u0000" not in encoded.replace("\\\\", "")


def test_nesting_without_end_ends() -> None:
    value: list[object] = []
    for _ in range(5000):
        value = [value]
    assert "nested too deeply" in json_text(value)


@pytest.mark.parametrize(("value", "expected"), [(float("nan"), 0), (float("inf"), 100), (-1e300, 0), (42.5, 42.5)])
def test_a_score_is_within_its_bounds(value: float, expected: float) -> None:
    assert bounded(value, 0, 100) == expected
