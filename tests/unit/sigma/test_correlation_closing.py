"""Correlations that time completes (absence, upper bounds, silence), and those that measure numbers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.event import DetectionEvent
from detect.sigma import SigmaDetector, arrival
from detect.sigma.correlation import CorrelationState, Firing
from tests.unit.sigma.records import SECOND, T0, TENANT, loaded
from tests.unit.sigma.test_correlation import FAIL, PASS, at_of, correlation, run, seen, steps


def tick(detector: SigmaDetector, at: float) -> list[DetectionEvent]:
    return detector.tick(T0 + round(at * SECOND))


def test_absence_is_judged_when_the_watermark_has_passed_the_window() -> None:
    body = "type: temporal\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: fail and not pass"
    detector = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body)))
    assert run(detector, [seen("fail", 0, 0), seen("fail", 5, 1, source="192.0.2.8")]) == []
    assert detector.is_waiting
    assert tick(detector, 60) == []
    assert run(detector, [seen("pass", 62, 2, source="192.0.2.8")]) == []
    (event,) = tick(detector, 66)
    assert event.matched == {"count": 1, "absent": ["pass"], "group": {"src_ip": "192.0.2.7"}, "timespan": "60s"}
    assert str(event.cause) == "1-0" and event.attributes == {}
    assert [entry.message for entry in event.evidence] == ["fail 0"]
    assert at_of(event) == (0.0, 0.0)
    assert tick(detector, 1000) == [] and not detector.is_waiting


def test_what_must_be_absent_may_not_stand_before_the_match_either_unless_the_order_says_so() -> None:
    body = "type: {}\nrules: [fail, pass]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: fail and not pass"
    anyhow = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body.format("temporal"))))
    ordered = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body.format("temporal_ordered"))))
    for detector, expected in ((anyhow, 0), (ordered, 1)):
        run(detector, [seen("pass", 0, 0), seen("fail", 59, 1)])
        assert len(tick(detector, 1000)) == expected


def test_a_burst_over_a_boundary_of_windows_is_one_burst() -> None:
    """Upper bounds are asked of the highest count around a match, not of windows that begin somewhere."""
    body = "type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 4, lte: 5}"
    at = (0, 50, 55, 65, 70)  # no window that begins at a multiple of 60 s has four of them
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    run(detector, [seen("fail", time, n) for n, time in enumerate(at)])
    (event,) = tick(detector, 1000)
    assert (at_of(event), event.matched["count"]) == ((50.0, 70.0), 4)


def test_a_burst_that_is_too_large_is_not_fewer_at_its_ends() -> None:
    body = "type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {lte: 3}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    run(detector, [seen("fail", n, n) for n in range(40)])
    run(detector, [seen("fail", 500, 50, source="192.0.2.9")])
    (event,) = tick(detector, 1000)
    assert event.matched["group"] == {"src_ip": "192.0.2.9"}


def test_silence_is_told_a_span_after_the_last_match_and_once() -> None:
    body = "type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {eq: 0}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    run(detector, [seen("fail", at, n) for n, at in enumerate((0, 59, 118, 300))])
    assert [at_of(event) for event in tick(detector, 179)] == [(118.0, 118.0)]
    assert [at_of(event) for event in tick(detector, 2000)] == [(300.0, 300.0)]
    assert tick(detector, 9000) == []


def test_a_file_sent_by_hand_gets_the_span_to_arrive_before_absence_is_told() -> None:
    """Its records are months behind the watermark: judged by it alone, each would close before the next arrives."""
    body = "type: temporal\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: fail and not pass"
    detector = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body)))
    tick(detector, 10_000)
    run(detector, [seen("fail", 0, 0)])
    assert tick(detector, 10_030) == []
    run(detector, [seen("pass", 20, 1)])
    assert tick(detector, 20_000) == []


def test_what_time_causes_feeds_the_correlations_further_out() -> None:
    inner = correlation(
        "type: temporal\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: fail and not pass", "Unanswered", "unanswered"
    )
    outer = correlation(
        "type: event_count\nrules: [unanswered]\ngroup-by: [src_ip]\ntimespan: 1h\ncondition: {gte: 2}",
        "Twice",
        "twice",
    )
    detector = SigmaDetector(TENANT, loaded(FAIL, PASS, inner, outer))
    run(detector, [seen("fail", 0, 0), seen("fail", 300, 1)])
    (event,) = tick(detector, 1000)
    assert (event.title, [entry.message for entry in event.evidence]) == ("Twice", ["fail 0", "fail 1"])


def test_a_faulty_correlation_does_not_stop_time_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [
        correlation(
            f"type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: {span}s\ncondition: {{eq: 0}}", name, name
        )
        for name, span in (("bad", 50), ("good", 60))
    ]
    detector = SigmaDetector(TENANT, loaded(FAIL, *bodies))
    run(detector, [seen("fail", 0, 3)])
    close = CorrelationState.close

    def fails_for_one(state: CorrelationState, watermark_ns: int) -> list[Firing]:
        if state.correlation.name == "bad":
            raise ZeroDivisionError("no")
        return close(state, watermark_ns)

    monkeypatch.setattr(CorrelationState, "close", fails_for_one)
    assert [event.title for event in tick(detector, 1000)] == ["good"]
    (fault,) = detector.take_faults()
    assert (fault.subject, fault.stage, fault.position) == ("bad", "correlation", 3)


def test_sums_are_exact_and_skip_what_is_no_number() -> None:
    body = "type: value_sum\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 0.3, field: n}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    given_values = ("0.1", "none", "1e999", "nan", "0x10", "0.1")
    assert run(detector, [seen("fail", n, n, n=text) for n, text in enumerate(given_values)]) == []
    (event,) = run(detector, [seen("fail", 20, 20, n="0.1")])
    assert event.matched == {"value": 0.3, "count": 3, "group": {"src_ip": "192.0.2.7"}, "timespan": "60s"}


def test_the_median_is_the_middle_and_a_percentile_lies_between_neighbours() -> None:
    median = "type: value_median\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 2.5, field: n}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(median)))
    assert run(detector, [seen("fail", n, n, n=text) for n, text in enumerate(("1", "2", "3"))]) == []
    (event,) = run(detector, [seen("fail", 9, 9, n="9")])
    assert event.matched["value"] == 2.5


def test_several_fields_are_counted_together() -> None:
    body = (
        "type: value_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 3, field: [user, port]}"
    )
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    pairs = [("a", "1"), ("a", "2"), ("a", "1"), ("b", "1")]
    events = run(detector, [seen("fail", n, n, user=user, port=port) for n, (user, port) in enumerate(pairs)])
    assert [at_of(event)[1] for event in events] == [3.0]


def test_a_sum_over_a_flood_keeps_the_newest_and_counts_what_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "MAX_VALUES", 10)
    body = "type: value_sum\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 1h\ncondition: {gte: 1000, field: n}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    run(detector, [seen("fail", n, n, n="1") for n in range(50)])
    assert detector.counters()["correlated"]["evicted"] == 40


@given(steps, st.integers(0, 60))
def test_windows_yet_to_close_are_in_the_snapshot(taken: list[tuple[str, int, str]], cut: int) -> None:
    body = "type: temporal\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: fail and not pass"
    rules = loaded(FAIL, PASS, correlation(body))
    through, resumed = SigmaDetector(TENANT, rules), SigmaDetector(TENANT, rules)
    for position, (kind, at, source) in enumerate(taken):
        if position == cut:
            resumed = SigmaDetector(TENANT, rules)
            resumed.restore(json.loads(json.dumps(through.snapshot())))
        item = seen(kind, at, position, source)
        through.observe(item)
        expected = tick(through, at - 60)
        if position >= cut:
            resumed.observe(item)
            assert tick(resumed, at - 60) == expected
            assert resumed.snapshot() == through.snapshot()
