"""A bucket grants its rate over any time, its burst at once, and one batch larger than the burst."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.ingest.token_bucket import TokenBucket


def test_a_full_bucket_grants_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=50, now=0)
    assert [bucket.take(0, 10) for _ in range(5)] == [0] * 5
    assert bucket.take(0, 10) == pytest.approx(0.1)
    assert bucket.take(0.1, 1) == 0


def test_a_batch_larger_than_the_burst_passes_once_and_is_earned_back() -> None:
    bucket = TokenBucket(rate=10, burst=50, now=0)
    assert bucket.take(0, 1050) == 0
    assert bucket.take(0, 1) == pytest.approx(100)
    assert bucket.take(99, 1) == pytest.approx(1)
    assert bucket.take(100.5, 1) == 0


def test_a_refused_amount_costs_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=0)
    bucket.take(0, 11)
    waits = [bucket.take(0, 100) for _ in range(20)]
    assert waits == [waits[0]] * 20


def test_what_was_given_back_can_be_taken_again_but_never_exceeds_the_burst() -> None:
    bucket = TokenBucket(rate=10, burst=50, now=0)
    bucket.take(0, 60)
    bucket.charge(0, -60)
    assert bucket.level(0) == 50
    bucket.charge(0, -1000)
    assert bucket.level(0) == 50


def test_a_changed_rate_keeps_the_debt() -> None:
    bucket = TokenBucket(rate=10, burst=50, now=0)
    bucket.take(0, 150)
    bucket.change(0, rate=100, burst=500)
    assert bucket.wait_s(0) == pytest.approx(1)
    full = TokenBucket(rate=10, burst=50, now=0)
    full.change(0, rate=1, burst=5)
    assert full.level(0) == 5


def test_time_that_goes_back_earns_nothing() -> None:
    bucket = TokenBucket(rate=10, burst=50, now=100)
    bucket.take(100, 50)
    assert bucket.level(0) == 0
    assert bucket.level(100) == 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_a_bucket_that_could_never_fill_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst, 0)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), min_size=1, max_size=80),
    st.floats(1, 100),
    st.floats(1, 200),
)
def test_no_order_of_requests_gets_more_than_the_rate(
    steps: list[tuple[float, int]], rate: float, burst: float
) -> None:
    bucket, now, granted, largest = TokenBucket(rate, burst, 0), 0.0, 0, 0
    for pause, amount in steps:
        now += pause
        wait = bucket.take(now, amount)
        if wait == 0:
            granted += amount
            largest = max(largest, amount)
        else:
            # Whoever waits as told finds it open, whatever it brings.
            assert bucket.take(now + wait + 1e-6, 0) == 0
            now += wait + 1e-6
        assert granted <= burst + rate * now + largest + 1e-6
