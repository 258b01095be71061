"""What the bounds of correlations do: nothing is lost over them that need not be, and a restart changes nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.record import RecordRef
from detect.sigma import SigmaDetector, arrival
from detect.sigma.arrival import ChainJudge
from detect.sigma.correlation import CorrelationState, Firing, Signal
from detect.sigma.correlation_group import MAX_FIRINGS
from detect.sigma.group import MAX_TEXT, held_text
from detect.sigma.measured_window import MeasuredWindow
from detect.sigma.measures import Entry, Number, Ranked, Total, exact_value
from tests.unit.sigma.correlation_reference import Match, ReferenceCorrelation
from tests.unit.sigma.records import SECOND, T0, TENANT, loaded, record
from tests.unit.sigma.test_correlation import FAIL, correlation, run, seen, signal
from tests.unit.sigma.test_correlation_equality import BODIES, RULES

UNANSWERED = "type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {lte: 2}"


def restored(state: CorrelationState, **bounds: int) -> CorrelationState:
    twin = CorrelationState(state.correlation, state.fingerprint, **bounds)
    twin.restore(json.loads(json.dumps(state.snapshot())))
    return twin


def close(state: CorrelationState, at: float) -> list[Firing]:
    return state.close(T0 + round(at * SECOND))


def test_a_flood_that_is_cut_back_costs_no_other_group_its_verdict() -> None:
    """The matches that waited longest are gone with the cut: their group must not be taken to be due."""
    rule = loaded(FAIL, correlation(UNANSWERED)).correlations[0]
    state = CorrelationState(rule, "x", max_contributions=30)
    state.observe(signal("fail", seen("fail", 0, 0)), T0)
    for position in range(1, 40):
        state.observe(signal("fail", seen("fail", 500 + position / 100, position)), T0 + 500 * SECOND)
    state.observe(signal("fail", seen("fail", 10, 50, source="192.0.2.9")), T0 + 10 * SECOND)
    twin = restored(state, max_contributions=30)
    (firing,) = close(state, 200)
    assert firing.group == {"src_ip": "192.0.2.9"}
    assert close(twin, 200) == [firing]
    assert close(state, 9000) == close(twin, 9000)


# (source, seconds since the one before, seconds that it comes late, group, value, whether time passes afterwards)
crowds = st.lists(
    st.tuples(
        st.sampled_from("aaabc"),
        st.sampled_from([0, 0, 1, 1, 2, 30, 150]),
        st.sampled_from([0, 0, 0, 1, 20, 1000]),
        st.sampled_from("xxxy"),
        st.sampled_from(["1", "2", "3", "-4", "2.5"]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=10,
    max_size=70,
)


@pytest.mark.parametrize("name", BODIES)
@settings(max_examples=20, deadline=None)
@given(taken=crowds, cut=st.integers(5, 65))
def test_with_hardly_any_room_a_restart_changes_nothing(name: str, taken: list[tuple[Any, ...]], cut: int) -> None:
    rule, now, room = RULES[name].correlations[0], 0, {"max_contributions": 24}
    state = CorrelationState(rule, "x", **room)
    twin = state
    for position, (source, gap, late, group, value, passes) in enumerate(taken):
        now += gap
        if position == cut:
            twin = restored(state, **room)
        if source in rule.sources:
            item = record({"g": group, "v": value}, at=now - late, position=position)
            told = Signal(source, item.record.time_ns, item.record.ref, item, (), (), {})
            found = state.observe(told, T0 + now * SECOND)
            assert twin is state or twin.observe(told, T0 + now * SECOND) == found
        if passes:
            closed = close(state, now - 40)
            assert twin is state or close(twin, now - 40) == closed
            state.expire(T0 + (now - 40) * SECOND)
            if twin is not state:
                twin.expire(T0 + (now - 40) * SECOND)
        assert twin.snapshot() == state.snapshot()


def test_two_sources_of_far_apart_times_do_not_make_a_group_fire_again_and_again() -> None:
    body = "type: event_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 5m\ncondition: {gte: 3}"
    detector = SigmaDetector(TENANT, loaded(FAIL, correlation(body)))
    times = (1000, 1001, 1002, 100, 101, 102, 1010, 110, 1020, 120)
    events = run(detector, [seen("fail", at, place) for place, at in enumerate(times)])
    assert [(event.end_ns - T0) // SECOND for event in events] == [1002, 102]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.sampled_from([0, 1, 20, 61])), max_size=120),
    st.sampled_from(["event_count gte", "sum", "temporal", "average", "percentile"]),
    st.integers(0, 120),
)
def test_any_number_of_sources_of_far_apart_times_equals_its_definition(
    taken: list[tuple[int, int]], name: str, cut: int
) -> None:
    """More of them than firings are remembered: both forget the same ones."""
    rule = RULES[name].correlations[0]
    state, reference = CorrelationState(rule, "x"), ReferenceCorrelation(rule)
    clocks = {who: who * 10_000 for who in range(11)}
    assert len(clocks) > MAX_FIRINGS
    for position, (who, gap) in enumerate(taken):
        if position == cut:
            state = restored(state)
        clocks[who] += gap
        value, source = str(position % 7), "aab"[position % 3]
        item = record({"g": "x", "v": value}, at=clocks[who], position=position)
        found = state.observe(Signal(source, item.record.time_ns, item.record.ref, item, (), (), {}), 0)
        match = Match(item.record.time_ns, item.record.ref, rule.sources.index(source), value)
        expected = reference.observe("x", match, 0)
        assert (found and (found.contributions[-1].time_ns, found.cause, found.total)) == (
            expected and (expected.end_ns, expected.cause, expected.measure)
        )


LONG = "a" * MAX_TEXT


def test_texts_of_any_length_are_told_apart_and_held_short() -> None:
    body = "type: value_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 60s\ncondition: {gte: 3, field: user}"
    state = CorrelationState(loaded(FAIL, correlation(body)).correlations[0], "x")
    firing = None
    for place, (end, user) in enumerate((("x", 1), ("y", 2), ("x", 1), ("x", 2), ("x", 3))):
        item = seen("fail", place, place, source=LONG * 100 + end, user=f"{LONG * 100}{user}")
        firing = state.observe(signal("fail", item), 0)
    assert firing is not None and [entry.ref.position for entry in firing.contributions] == [0, 2, 3, 4]
    assert firing.group["src_ip"].startswith("a" * 400) and len(firing.group["src_ip"]) == MAX_TEXT
    assert len(json.dumps(state.snapshot())) < 5000


def test_a_list_as_group_or_a_value_of_several_fields_is_held_short_too() -> None:
    body = "type: value_count\nrules: [fail]\ngroup-by: [who]\ntimespan: 60s\ncondition: {gte: 1, field: [u, v]}"
    state = CorrelationState(loaded(FAIL, correlation(body)).correlations[0], "x")
    item = record({"kind": "fail", "who": [LONG, LONG], "u": LONG, "v": "\udce9" * MAX_TEXT})
    firing = state.observe(signal("fail", item), 0)
    assert firing is not None and len(firing.group["who"]) == len(firing.contributions[0].value) == MAX_TEXT


@given(st.text(max_size=20), st.integers(0, 60))
def test_what_is_held_of_a_text_is_held_as_it_is(text: str, times: int) -> None:
    held = held_text(text * times)
    assert held_text(held) == held and len(held) <= MAX_TEXT
    assert held == text * times or len(text * times) > MAX_TEXT


def test_a_group_of_witnesses_is_not_cut_back_at_every_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of the values is a witness for as long as it does not come again: the cut makes no room among them."""
    body = "type: value_count\nrules: [fail]\ngroup-by: [src_ip]\ntimespan: 1h\ncondition: {gte: 40, field: user}"
    monkeypatch.setattr(arrival, "SPARE", 1)
    state = CorrelationState(loaded(FAIL, correlation(body)).correlations[0], "x", max_contributions=200)
    twin, held = state, []
    for place in range(600):
        told = signal("fail", seen("fail", place / 10, place, user=f"u{place}" if place < 38 else "one"))
        assert state.observe(told, 0) is None
        assert twin is state or (twin.observe(told, 0), twin.snapshot()) == (None, state.snapshot())
        held.append(len(state.snapshot()["groups"][0][-1]))
        if place == 100:
            twin = restored(state, max_contributions=200)
    cuts = [place for place, (before, after) in enumerate(pairwise(held)) if after < before]
    assert cuts and min(after - before for before, after in pairwise(cuts)) >= 40
    assert max(held) <= 3 * 41


def test_the_witnesses_of_a_long_chain_are_those_that_lead_to_its_ends() -> None:
    names = [f"r{number}" for number in range(60)]
    bases = [FAIL.replace("name: fail", f"name: {name}") for name in names]
    body = f"type: temporal_ordered\nrules: [{', '.join(names)}]\ngroup-by: [src_ip]\ntimespan: 1h"
    judge = ChainJudge(loaded(*bases, correlation(body)).correlations[0], 60)
    steps = [5, *range(60)]
    entries: list[Entry] = [(place, RecordRef(1, place), step, "", (), ()) for place, step in enumerate(steps)]
    assert judge.witnesses(entries) == set(range(1, 61))
    broken = [*entries[:30], *entries[31:]]
    assert judge.witnesses(broken) == set(range(1, 30))


class CountedTotal(Total):
    """Counts what it is asked to do."""

    def __init__(self, steps: list[Entry]) -> None:
        super().__init__(average=False)
        self.steps = steps

    def add(self, entry: Entry) -> None:
        self.steps.append(entry)
        super().add(entry)

    def remove(self, entry: Entry) -> None:
        self.steps.append(entry)
        super().remove(entry)


def numbers(*values: tuple[int, str]) -> list[Entry]:
    return [(time_ns, RecordRef(1, place), 0, value, (), ()) for place, (time_ns, value) in enumerate(values)]


def test_a_window_that_is_moved_a_little_costs_little() -> None:
    entries, steps = numbers(*((place, "1") for place in range(1000))), list[Entry]()
    window = MeasuredWindow(lambda: CountedTotal(steps), 500)
    assert window.number_at(entries, 990) == 501
    steps.clear()
    late: Entry = (987, RecordRef(2, 0), 0, "1", (), ())
    entries.insert(988, late)
    window.make_place(988, late)
    assert [window.number_at(entries, end) for end in (988, 989, 991)] == [502, 502, 502]
    assert len(steps) < 20


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["1", "2.5", "-3", "7"])), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 40), st.booleans()), max_size=20),
    st.booleans(),
)
def test_a_window_that_is_moved_measures_what_one_made_anew_does(
    values: list[tuple[int, str]], moves: list[tuple[int, int, bool]], ranked: bool
) -> None:
    entries = sorted(numbers(*values))

    def new() -> Ranked | Total:
        return Ranked(90) if ranked else Total(average=True)

    window, span = MeasuredWindow(new, 10), 10
    for number, (place, time_ns, comes) in enumerate(moves):
        if comes:
            late: Entry = (time_ns, RecordRef(2, number), 0, "4", (), ())
            at = sum(entry < late for entry in entries)
            entries.insert(at, late)
            window.make_place(at, late)
        end = place % len(entries)
        held = [entry for entry in entries[: end + 1] if entry[0] >= entries[end][0] - span]
        assert window.number_at(entries, end) == fresh(new(), held)
        assert (window.start, window.stop) == (end + 1 - len(held), end + 1)


def fresh(measure: Ranked | Total, held: list[Entry]) -> Number:
    for entry in held:
        measure.add(entry)
    return measure.number(0)


@pytest.mark.parametrize(("text", "value"), [("+007", 7), ("-3", -3), ("1e2", 100), ("9" * 40, 10**40 - 1)])
def test_values_are_exact(text: str, value: int) -> None:
    assert exact_value(text) == value
