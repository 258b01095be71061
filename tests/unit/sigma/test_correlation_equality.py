"""The state of correlations equals its definition: any stream, late matches, snapshots in the middle, every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.sigma import RuleSet, arrival
from detect.sigma.correlation import CorrelationState, Firing, Signal
from detect.sigma.rule import COUNTING_KINDS
from tests.unit.sigma.correlation_reference import Match, ReferenceCorrelation, Said
from tests.unit.sigma.records import SECOND, T0, loaded, record, rule_text

BASES = [rule_text(f"a: {{kind: {name}}}\ncondition: a", title=name, extra=f"name: {name}") for name in "abc"]
LATENESS = 40
BODIES = {
    "event_count gte": "type: event_count, rules: [a, b], condition: {gte: 3}",
    "event_count gt 0": "type: event_count, rules: [a], condition: {gt: 0}",
    "event_count lte": "type: event_count, rules: [a, b], condition: {lte: 2}",
    "event_count range": "type: event_count, rules: [a, b], condition: {gt: 1, lte: 3}",
    "event_count eq": "type: event_count, rules: [a, b, c], condition: {eq: 3}",
    "event_count neq": "type: event_count, rules: [a, b], condition: {neq: 2}",
    "event_count eq 0": "type: event_count, rules: [a], condition: {eq: 0}",
    "value_count gte": "type: value_count, rules: [a, b], condition: {gte: 3, field: v}",
    "value_count lt": "type: value_count, rules: [a, b], condition: {lt: 3, field: v}",
    "temporal": "type: temporal, rules: [a, b, c]",
    "temporal gte": "type: temporal, rules: [a, b, c], condition: {gte: 2}",
    "temporal lt": "type: temporal, rules: [a, b, c], condition: {lt: 2}",
    "temporal or": "type: temporal, rules: [a, b, c], condition: a and (b or c)",
    "temporal not": "type: temporal, rules: [a, b], condition: a and not b",
    "temporal not or": "type: temporal, rules: [a, b, c], condition: (a and b and not c) or (c and not a)",
    "ordered": "type: temporal_ordered, rules: [a, b, c]",
    "ordered gte": "type: temporal_ordered, rules: [a, b, c], condition: {gte: 2}",
    "ordered eq": "type: temporal_ordered, rules: [a, b, c], condition: {eq: 2}",
    "ordered or": "type: temporal_ordered, rules: [a, b, c], condition: a and b or a and c",
    "ordered not last": "type: temporal_ordered, rules: [a, b, c], condition: a and b and not c",
    "ordered not between": "type: temporal_ordered, rules: [a, b, c], condition: a and not b and c",
    "ordered not first": "type: temporal_ordered, rules: [a, b, c], condition: not a and b and c",
    "sum": "type: value_sum, rules: [a, b], condition: {gt: 10, field: v}",
    "sum below": "type: value_sum, rules: [a, b], condition: {lt: 10, field: v}",
    "average": "type: value_avg, rules: [a, b], condition: {gte: 2.5, field: v}",
    "median": "type: value_median, rules: [a, b], condition: {gte: 3, field: v}",
    "median range": "type: value_median, rules: [a, b], condition: {gte: 1, lt: 3, field: v}",
    "percentile": "type: value_percentile, rules: [a, b], condition: {gt: 4, field: v, percentile: 90}",
}
RULES: dict[str, RuleSet] = {
    name: loaded(*BASES, f"title: C\nname: c0\ncorrelation: {{{body}, timespan: 60s, group-by: [g]}}\n")
    for name, body in BODIES.items()
}

# (source, seconds since the one before, seconds that it comes late, group, value, whether time passes afterwards)
steps = st.lists(
    st.tuples(
        st.sampled_from("aaabbc"),
        st.sampled_from([0, 0, 1, 5, 20, 30, 59, 60, 61, 150]),
        st.sampled_from([0, 0, 0, 1, 20, LATENESS]),
        st.sampled_from("xxxy"),
        st.sampled_from(["1", "2", "3", "-4", "2.5", "7"]),
        st.booleans(),
    ),
    max_size=24,
)


def said(group: str, firing: Firing) -> Said:
    last = firing.contributions[-1]
    return Said(group, last.time_ns, firing.cause, float(firing.total))


def play(name: str, taken: list[tuple[Any, ...]], cut: int, **bounds: int) -> None:
    """Both see the same stream; in the middle, the state goes through a snapshot."""
    rule = RULES[name].correlations[0]
    state, reference = CorrelationState(rule, "x", **bounds), ReferenceCorrelation(rule)
    now = watermark = 0
    for position, (source, gap, late, group, value, passes) in enumerate(taken):
        now += gap
        if position == cut:
            saved = json.loads(json.dumps(state.snapshot()))
            state = CorrelationState(rule, "x", **bounds)
            state.restore(saved)
        at = max(now - late, watermark)
        observed = record({"g": group, "v": value}, at=at, position=position)
        item = observed.record
        if source in rule.sources:
            signal = Signal(source, item.time_ns, item.ref, observed, (), (), {})
            found = state.observe(signal, T0 + watermark * SECOND)
            match = Match(item.time_ns, item.ref, rule.sources.index(source), value)
            expected = reference.observe(group, match, T0 + watermark * SECOND)
            assert (None if found is None else said(group, found)) == expected
        if passes:
            watermark = max(watermark, now - LATENESS)
            pass_time(state, reference, watermark)
    pass_time(state, reference, now + 1000)
    assert state.evicted == 0


def pass_time(state: CorrelationState, reference: ReferenceCorrelation, watermark: int) -> None:
    closed = state.close(T0 + watermark * SECOND)
    state.expire(T0 + watermark * SECOND)
    assert sorted(said(item.group["g"], item) for item in closed) == sorted(reference.tick(T0 + watermark * SECOND))


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=30, deadline=None)
@given(taken=steps, cut=st.integers(0, 24))
def test_every_kind_equals_its_definition_on_any_stream(name: str, taken: list[tuple[Any, ...]], cut: int) -> None:
    play(name, taken, cut)


COUNTED_AT_ONCE = [
    name
    for name, rules in RULES.items()
    if not rules.correlations[0].closes and rules.correlations[0].kind in COUNTING_KINDS
]


@pytest.mark.parametrize("name", COUNTED_AT_ONCE)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(taken=st.lists(st.tuples(st.sampled_from("aaaaabc"), st.sampled_from([0, 1, 2, 25])), max_size=60))
def test_what_a_flooded_group_forgets_is_never_missed_while_matches_come_in_order(
    name: str, monkeypatch: pytest.MonkeyPatch, taken: list[tuple[str, int]]
) -> None:
    """With hardly any room, only what the condition needs is kept; when it fires and why must not change."""
    monkeypatch.setattr(arrival, "SPARE", 1)
    rule = RULES[name].correlations[0]
    state, reference, at = CorrelationState(rule, "x"), ReferenceCorrelation(rule), 0
    for position, (source, gap) in enumerate(taken):
        at += gap
        value = str(position % 4)
        item = record({"g": "x", "v": value}, at=at, position=position)
        if source not in rule.sources:
            continue
        found = state.observe(Signal(source, item.record.time_ns, item.record.ref, item, (), (), {}), 0)
        match = Match(item.record.time_ns, item.record.ref, rule.sources.index(source), value)
        expected = reference.observe("x", match, 0)
        assert (found and (found.contributions[-1].time_ns, found.cause)) == (
            expected and (expected.end_ns, expected.cause)
        )
    held = len(state.snapshot()["groups"][0][-1]) if state.group_count else 0
    assert held <= 2 * 8


def test_every_kind_fires_somewhere() -> None:
    """The comparison would prove nothing about a kind that never says anything."""
    bursts = ("a", "aab", "abc", "bca", "ab", "bc", "ac", "aaaaaa", "aabbcc", "c")
    for name, rules in RULES.items():
        state, count, position = CorrelationState(rules.correlations[0], "x"), 0, 0
        for number, burst in enumerate(bursts):
            for source in burst:
                position += 1
                item = record({"g": "x", "v": str(position * 7 % 6)}, at=number * 300 + position % 9, position=position)
                if source in rules.correlations[0].sources:
                    signal = Signal(source, item.record.time_ns, item.record.ref, item, (), (), {})
                    count += state.observe(signal, 0) is not None
        count += len(state.close(T0 + 10_000 * SECOND))
        assert count > 0, name
