"""Distinct counts are exact while small, near enough when large, and the same however they were put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.rollup.sketch import EXACT_LIMIT, DistinctSketch, ValueHasher

hashes = st.integers(min_value=0, max_value=2**64 - 1)
many_hashes = st.lists(hashes, max_size=3 * EXACT_LIMIT)


@given(st.sets(hashes, max_size=EXACT_LIMIT))
def test_few_values_are_counted_exactly_and_listed(values: set[int]) -> None:
    sketch = DistinctSketch([*values, *values])
    assert sketch.count() == len(values)
    assert sketch.listed() == sorted(values)


@pytest.mark.parametrize("size", [65, 200, 1000, 2500, 5000, 50_000])
def test_many_values_are_estimated_within_four_standard_errors(size: int) -> None:
    hasher = ValueHasher(b"key")
    sketch = DistinctSketch(hasher(f"value-{number}") for number in range(size))
    assert sketch.listed() is None
    assert abs(sketch.count() - size) <= 4 * 0.033 * size


@given(many_hashes, many_hashes)
def test_a_merge_is_the_sketch_of_the_union(left: list[int], right: list[int]) -> None:
    merged = DistinctSketch(left)
    merged.merge(DistinctSketch(right))
    assert merged.snapshot() == DistinctSketch([*right, *left]).snapshot()


@given(many_hashes)
def test_the_state_depends_neither_on_order_nor_on_repetition(values: list[int]) -> None:
    assert DistinctSketch(values).snapshot() == DistinctSketch([*reversed(values), *values]).snapshot()


@given(many_hashes, hashes)
def test_a_restored_sketch_goes_on_as_the_original(values: list[int], more: int) -> None:
    original = DistinctSketch(values)
    restored = DistinctSketch.restored(original.snapshot())
    original.add(more)
    restored.add(more)
    assert restored.snapshot() == original.snapshot()


@pytest.mark.parametrize("state", [b"", b"x", b"d123", b"e123", b"e" + bytes(8 * (EXACT_LIMIT + 1))])
def test_what_is_no_sketch_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="no sketch"):
        DistinctSketch.restored(state)


def test_hashes_are_the_same_everywhere_and_differ_between_keys() -> None:
    assert ValueHasher(b"one")("alice") == ValueHasher(b"one")("alice") == 0x29122D0D05502620
    assert ValueHasher(b"one")("alice") != ValueHasher(b"two")("alice")


@given(st.lists(st.text(), max_size=20))
def test_the_cache_of_hashes_changes_no_result(values: list[str]) -> None:
    shared = ValueHasher(b"key")
    assert [shared(value) for value in values * 2] == [ValueHasher(b"key")(value) for value in values * 2]
