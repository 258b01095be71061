"""Correlations: sliding windows on event time, late matches in their place, visible bounds, state that survives."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.event import DetectionEvent
from detect.record import Entity, NormalizedRecord
from detect.sigma import SigmaDetector
from detect.sigma.correlation import CorrelationState, Signal
from tests.unit.sigma.records import SECOND, T0, TENANT, loaded, record, rule_text

FAIL = rule_text("a: {kind: fail}\ncondition: a", title="Failure", extra="name: fail")
PASS = rule_text("a: {kind: pass}\ncondition: a", title="Success", extra="name: pass")


def correlation(body: str, title: str = "Correlated", name: str = "correlated") -> str:
    lines = "\n".join(f"  {line.strip()}" for line in body.strip().splitlines())
    return f"title: {title}\nname: {name}\nlevel: high\ntags: [attack.t1110]\ncorrelation:\n{lines}\n"


def three_failures(extra: str = "", group: str = "src_ip") -> str:
    return correlation(
        f"type: event_count\nrules: [fail]\ngroup-by: [{group}]\ntimespan: 60s\ncondition: {{gte: 3}}\n{extra}"
    )


def seen(kind: str, at: float, position: int, source: str = "192.0.2.7", **fields: str) -> NormalizedRecord:
    return record({"kind": kind, "src_ip": source, **fields}, message=f"{kind} {position}", at=at, position=position)


def signal(source: str, item: NormalizedRecord) -> Signal:
    return Signal(source, item.record.time_ns, item.record.ref, item, (), (), {})


def run(detector: SigmaDetector, records: Iterable[NormalizedRecord]) -> list[DetectionEvent]:
    return [event for item in records for event in detector.observe(item)]


def at_of(event: DetectionEvent) -> tuple[float, float]:
    return (event.time_ns - T0) / SECOND, (event.end_ns - T0) / SECOND


def test_event_count_fires_at_the_bound_and_says_why() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    records = [seen("fail", at, position) for position, at in enumerate((0, 10, 20))]
    assert run(detector, records[:2]) == []
    (event,) = detector.observe(records[2])
    assert (event.kind, event.detector, event.rule_id, event.severity) == ("correlation", "sigma", "correlated", "high")
    assert at_of(event) == (0.0, 20.0)
    assert event.cause == records[2].record.ref
    assert event.matched == {"count": 3, "group": {"src_ip": "192.0.2.7"}, "timespan": "60s"}
    assert [entry.message for entry in event.evidence] == ["fail 0", "fail 1", "fail 2"]
    assert event.techniques == ("T1110",) and event.score == 70.0


@pytest.mark.parametrize(("times", "fires"), [((0, 30, 60), True), ((0, 30, 61), False), ((0, 59, 61, 100), True)])
def test_the_window_slides_and_includes_both_ends(times: tuple[float, ...], fires: bool) -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    assert bool(run(detector, [seen("fail", at, n) for n, at in enumerate(times)])) is fires


@pytest.mark.parametrize(
    ("stream", "fires"),
    [
        ([("fail", 0), ("fail", 10), ("fail", 20), ("pass", 30)], True),
        ([("fail", 0), ("fail", 10), ("fail", 20), ("pass", 15)], True),
        ([("fail", 10), ("fail", 20), ("pass", 5), ("fail", 0)], True),
        ([("fail", 10), ("fail", 20), ("fail", 5), ("pass", 30)], True),
        ([("fail", 10), ("fail", 20), ("fail", 30), ("pass", 5)], False),
        ([("fail", 0), ("fail", 1), ("fail", 2), ("pass", 62.5)], False),
    ],
)
def test_a_chain_ends_with_its_last_rule_however_late_that_comes(stream: list[tuple[str, float]], fires: bool) -> None:
    body = "type: temporal_ordered\nrules: [fail, pass]\ngroup-by: [src_ip]\ntimespan: 60s"
    detector = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body)))
    assert bool(run(detector, [seen(kind, at, place) for place, (kind, at) in enumerate(stream)])) is fires


def test_referenced_rules_stay_silent_unless_generate_is_said() -> None:
    silent = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    assert silent.observe(seen("fail", 0, 0)) == []
    loud = SigmaDetector(TENANT, loaded(FAIL, three_failures("generate: true")))
    assert [event.title for event in loud.observe(seen("fail", 0, 0))] == ["Failure"]


def test_groups_are_counted_apart_and_unknown_groups_not_at_all() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    assert run(detector, [seen("fail", n, n, source=f"192.0.2.{n}") for n in range(9)]) == []
    assert run(detector, [record({"kind": "fail"}, at=n, position=20 + n) for n in range(9)]) == []


def test_without_group_by_all_matches_are_one_group() -> None:
    body = "type: event_count\nrules: [fail]\ntimespan: 60s\ncondition: {gt: 2}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    assert len(run(detector, [seen("fail", n, n, source=f"192.0.2.{n}") for n in range(3)])) == 1


def test_a_group_fires_once_and_is_armed_again_after_the_span() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    events = run(detector, [seen("fail", n, n) for n in range(200)])
    assert [at_of(event)[1] for event in events] == [2.0, 63.0, 124.0, 185.0]
    assert len({event.id for event in events}) == 4


def test_a_late_match_completes_the_window_it_belongs_to() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    assert run(detector, [seen("fail", 0, 0), seen("fail", 100, 1), seen("fail", 50, 2)]) == []
    (event,) = detector.observe(seen("fail", 20, 3))
    assert at_of(event) == (0.0, 50.0)
    assert str(event.cause) == "1-3"


def test_a_source_that_is_far_behind_is_judged_like_any_other_and_counted() -> None:
    """A file sent by hand is months behind the live hosts; the guessing in it is guessing all the same."""
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    detector.observe(seen("fail", 200, 0))
    detector.tick(T0 + 150 * SECOND)
    (event,) = run(detector, [seen("fail", 80, 1), seen("fail", 89, 2), seen("fail", 95, 3)])
    assert event.time_ns == T0 + 80 * SECOND
    assert detector.counters()["correlated"] == {"groups": 1, "evicted": 0, "late": 2}


def test_one_record_that_meets_two_of_the_rules_counts_once() -> None:
    other = rule_text("a: {src_ip: '*'}\ncondition: a", extra="name: any")
    body = "type: event_count\nrules: [fail, any]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 3}"
    detector = SigmaDetector(TENANT, loaded(FAIL, other, correlation(body)))
    assert run(detector, [seen("fail", 0, 0), seen("fail", 1, 1)]) == []
    assert len(detector.observe(seen("fail", 2, 2))) == 1


def test_value_count_counts_distinct_values() -> None:
    body = "type: value_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 3, field: user}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    assert run(detector, [seen("fail", n, n, user="root") for n in range(50)]) == []
    assert detector.observe(seen("fail", 51, 51, user="admin")) == []
    assert detector.observe(seen("fail", 52, 52)) == []
    (event,) = detector.observe(seen("fail", 53, 53, user="guest"))
    assert event.matched["count"] == 3


def test_temporal_takes_its_rules_in_any_order_and_ordered_does_not() -> None:
    body = "type: {}\nrules: [fail, pass]\ngroup-by: [src_ip]\ntimespan: 60s"
    anyhow = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body.format("temporal"))))
    ordered = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body.format("temporal_ordered"))))
    backwards = [seen("pass", 0, 0), seen("fail", 1, 1)]
    assert len(run(anyhow, backwards)) == 1
    assert run(ordered, backwards) == []
    assert len(ordered.observe(seen("pass", 2, 2))) == 1
    assert ordered.observe(seen("pass", 100, 3)) == []


def test_a_chain_takes_the_inner_group_and_carries_its_evidence() -> None:
    outer = correlation(
        "type: temporal_ordered\nrules: [correlated, pass]\ngroup-by: [src_ip]\ntimespan: 10m", "Guessed", "guessed"
    )
    detector = SigmaDetector(TENANT, loaded(FAIL, PASS, three_failures(), outer))
    assert run(detector, [seen("fail", n, n) for n in range(4)]) == []
    assert run(detector, [seen("pass", 10, 10, source="192.0.2.8")]) == []
    (event,) = detector.observe(seen("pass", 11, 11))
    assert event.title == "Guessed"
    assert [entry.message for entry in event.evidence] == ["fail 0", "fail 1", "fail 2", "pass 11"]
    assert at_of(event) == (0.0, 11.0)


def test_aliases_name_different_fields_in_different_rules() -> None:
    body = """type: temporal
    rules: [fail, pass]
    group-by: [who]
    timespan: 60s
    aliases: {who: {fail: src_ip, pass: client}}"""
    detector = SigmaDetector(TENANT, loaded(FAIL, PASS, correlation(body)))
    detector.observe(seen("fail", 0, 0))
    assert detector.observe(record({"kind": "pass", "client": "192.0.2.9"}, at=1, position=1)) == []
    (event,) = detector.observe(record({"kind": "pass", "client": "192.0.2.7"}, at=2, position=2))
    assert event.matched["group"] == {"who": "192.0.2.7"}


def test_group_by_falls_back_to_entities() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    who = (Entity("user", "root", "target"), Entity("ip", "192.0.2.7", "source"))
    records = [record({"kind": "fail"}, at=n, position=n, entities=who) for n in range(3)]
    (event,) = run(detector, records)
    assert event.matched["group"] == {"src_ip": "192.0.2.7"}
    assert event.entities == who


def test_evidence_of_many_keeps_the_first_and_the_last() -> None:
    body = "type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 1h\ncondition: {gte: 100}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    (event,) = run(detector, [seen("fail", n, n) for n in range(100)])
    assert [entry.ref.position for entry in event.evidence] == [*range(10), *range(90, 100)]
    assert event.matched["count"] == 100


def test_groups_are_bounded_and_evictions_are_counted() -> None:
    state = CorrelationState(loaded(FAIL, three_failures()).correlations[0], "x", max_groups=10)
    for n in range(100):
        state.observe(signal("fail", seen("fail", n, n, source=f"host{n}")), 0)
    assert (state.group_count, state.evicted) == (10, 90)


@given(hosts=st.lists(st.integers(0, 7), max_size=80), cut=st.integers(0, 80), room=st.integers(1, 5))
def test_the_group_that_goes_is_the_one_touched_longest_ago_also_after_a_restart(
    hosts: list[int], cut: int, room: int
) -> None:
    rule = loaded(FAIL, three_failures()).correlations[0]
    state, order = CorrelationState(rule, "x", max_groups=room), OrderedDict[str, None]()
    evicted = 0
    for place, number in enumerate(hosts):
        if place == cut:
            saved = json.loads(json.dumps(state.snapshot()))
            state = CorrelationState(rule, "x", max_groups=room)
            state.restore(saved)
        host = f"host{number}"
        state.observe(signal("fail", seen("fail", place, place, source=host)), 0)
        order[host] = None
        order.move_to_end(host)
        if len(order) > room:
            order.popitem(last=False)
            evicted += 1
        assert [group[0] for group in state.snapshot()["groups"]] == [(name,) for name in order]
    assert state.evicted == evicted


def test_a_field_without_a_name_is_no_group_of_several_parts() -> None:
    body = "type: event_count\nrules: [fail]\ngroup-by: [src_ip, user]\ntimespan: 60s\ncondition: {gte: 1}"
    rule = loaded(FAIL, correlation(body)).correlations[0]
    odd = record({"kind": "fail", "": "a", "src_ip": "192.0.2.1", "user": "b"}, at=0, position=0)
    firing = CorrelationState(rule, "x").observe(signal("fail", odd), 0)
    assert firing is not None
    assert firing.group == {"src_ip": "192.0.2.1", "user": "b"}


def test_contributions_are_bounded_even_in_one_flooding_group() -> None:
    rules = loaded(FAIL, three_failures())
    state = CorrelationState(rules.correlations[0], "x", max_contributions=100)
    for n in range(5000):
        state.observe(signal("fail", seen("fail", n / 1000, n)), 0)
    assert len(state.snapshot()["groups"][0][-1]) <= 100
    assert state.evicted == 0


def test_time_that_has_passed_frees_groups() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    run(detector, [seen("fail", n, n, source=f"host{n}") for n in range(10)])
    detector.tick(T0 + 1000 * SECOND)
    assert detector.counters()["correlated"]["groups"] == 0


steps = st.lists(
    st.tuples(st.sampled_from(["fail", "pass"]), st.integers(0, 300), st.sampled_from(["192.0.2.1", "192.0.2.2"])),
    max_size=60,
)
CHAIN = (
    FAIL,
    PASS,
    three_failures(),
    correlation(
        "type: temporal\nrules: [correlated, pass]\ngroup-by: [src_ip]\ntimespan: 2m\ngenerate: true", "Chain", "chain"
    ),
)


@given(steps, st.integers(0, 60))
def test_a_snapshot_through_json_changes_nothing_that_follows(taken: list[tuple[str, int, str]], cut: int) -> None:
    rules = loaded(*CHAIN)
    through, resumed = SigmaDetector(TENANT, rules), SigmaDetector(TENANT, rules)
    for position, (kind, at, source) in enumerate(taken):
        if position == cut:
            resumed = SigmaDetector(TENANT, rules)
            resumed.restore(json.loads(json.dumps(through.snapshot())))
        item = seen(kind, at, position, source)
        expected = through.observe(item)
        through.tick(T0 + (at - 60) * SECOND)
        if position >= cut:
            assert resumed.observe(item) == expected
            resumed.tick(T0 + (at - 60) * SECOND)
            assert resumed.snapshot() == through.snapshot()


def test_the_match_that_ends_a_silence_counts_with_those_after_it() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    detector.observe(seen("fail", 0, 0))
    fired = []
    for place, at in enumerate((5000, 5010, 5020), start=1):
        fired += detector.observe(seen("fail", at, place))
        detector.tick(T0 + (at - 10) * SECOND)  # the watermark jumps with the first record after the silence
    assert [at_of(event) for event in fired] == [(5000.0, 5020.0)]


@given(st.lists(st.integers(0, 200), max_size=40))
def test_event_count_equals_its_definition_for_matches_in_order(times: list[int]) -> None:
    times.sort()
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    fired = [at_of(event)[1] for event in run(detector, [seen("fail", at, n) for n, at in enumerate(times)])]
    expected: list[float] = []
    for place, at in enumerate(times):
        count = sum(1 for other in times[: place + 1] if at - 60 <= other <= at)
        if count >= 3 and (not expected or at - expected[-1] > 60):
            expected.append(float(at))
    assert fired == expected


def test_unchanged_correlations_keep_their_state_when_rules_are_replaced() -> None:
    more = rule_text("a: {kind: other}\ncondition: a", title="Other", extra="name: other")
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    run(detector, [seen("fail", 0, 0), seen("fail", 1, 1)])
    detector.replace_rules(loaded(FAIL, three_failures(), more))
    assert len(detector.observe(seen("fail", 2, 2))) == 1


def test_a_correlation_whose_rule_has_changed_starts_anew() -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    run(detector, [seen("fail", 0, 0), seen("fail", 1, 1)])
    snapshot = detector.snapshot()
    changed = loaded(FAIL.replace("kind: fail", "kind|startswith: fail"), three_failures())
    detector.replace_rules(changed)
    assert detector.observe(seen("fail", 2, 2)) == []
    detector.restore(snapshot)
    assert detector.counters()["correlated"]["groups"] == 0


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {"version": 2},
        {"version": 1},
        {"version": 1, "watermark_ns": 0, "correlations": {"correlated": 3}},
    ],
)
def test_what_is_no_snapshot_is_refused(state: object) -> None:
    detector = SigmaDetector(TENANT, loaded(FAIL, three_failures()))
    with pytest.raises(ValueError, match="snapshot"):
        detector.restore(state)
