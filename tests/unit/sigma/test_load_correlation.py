"""Correlation documents: what is accepted and what it comes to; what is refused, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.sigma import RuleSet, SigmaCorrelation, load_rule_set
from detect.sigma.correlation_order import ResolvingOrder, circular
from detect.sigma.rule import Alternative, Bound
from tests.unit.sigma.records import rule_text

BASE_ID = "7f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c09"
BASES = [("base.yml", rule_text("a: {f: x}\ncondition: a", extra=f"name: base\nid: {BASE_ID}"))] + [
    (f"{name}.yml", rule_text("a: {f: x}\ncondition: a", extra=f"name: {name}")) for name in ("b", "c")
]


def load_with(body: str, extra: str = "") -> RuleSet:
    text = f"title: Loop\nname: loop\nid: 6f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c02\n{extra}correlation:\n" + "".join(
        f"  {line}\n" for line in body.split("; ")
    )
    return load_rule_set([*BASES, ("correlation.yml", text)])


def read(body: str, extra: str = "") -> SigmaCorrelation:
    rules = load_with(body, extra)
    assert rules.errors == ()
    return rules.correlations[0]


COUNT = "type: event_count; rules: [base]; timespan: 1m; condition: "
TEMPORAL = "type: temporal; timespan: 1m; condition: "
SUM = "type: value_sum; rules: [base]; timespan: 1m; condition: "


@pytest.mark.parametrize(
    ("body", "bounds", "closes"),
    [
        (COUNT + "{gte: 3}", [("gte", 3)], False),
        (COUNT + "{gt: 3}", [("gte", 4)], False),
        (COUNT + "{gte: 3.0}", [("gte", 3)], False),
        (COUNT + "{neq: 0}", [("gte", 1)], False),
        (COUNT + "{lte: 3}", [("lte", 3)], True),
        (COUNT + "{eq: 3}", [("gte", 3), ("lte", 3)], True),
        (COUNT + "{neq: 3}", [("neq", 3)], True),
        (COUNT + "{eq: 0}", [("eq", 0)], True),
        (COUNT + "{lt: 1}", [("eq", 0)], True),
        (COUNT + "{gt: 100, lte: 200}", [("gte", 101), ("lte", 200)], True),
        (COUNT + "{gte: 2, lt: 9, neq: 5}", [("gte", 2), ("lte", 8), ("neq", 5)], True),
        ("type: temporal; rules: [base, b]; timespan: 1m", [("gte", 2)], False),
        (SUM + "{gt: -1.5, field: f}", [("gt", -1.5)], False),
        (SUM + "{gt: 1, lt: 2, field: f}", [("gt", 1), ("lt", 2)], True),
    ],
)
def test_bounds_and_whether_time_must_pass(body: str, bounds: list[tuple[str, float]], closes: bool) -> None:
    correlation = read(body)
    assert list(map(tuple, correlation.bounds)) == bounds
    assert correlation.closes is closes
    assert correlation.awaits_silence is (bounds == [("eq", 0)])


@pytest.mark.parametrize(
    ("condition", "alternatives"),
    [
        ("base and not b", [(["base"], ["b"])]),
        ("base AND b AND c", [(["base", "b", "c"], [])]),
        ("base or b", [(["base"], []), (["b"], [])]),
        ("base or base and b", [(["base"], [])]),
        ("base and not (b or c)", [(["base"], ["b", "c"])]),
        ("base and not (b and c)", [(["base"], ["b"]), (["base"], ["c"])]),
        ("(base or b) and c", [(["base", "c"], []), (["b", "c"], [])]),
        (f"{BASE_ID} and b", [(["base", "b"], [])]),
        ("base and b or b and not b", [(["base", "b"], [])]),
    ],
)
def test_a_condition_over_rules_comes_to_alternatives(
    condition: str, alternatives: list[tuple[list[str], list[str]]]
) -> None:
    names = {"base": BASE_ID}
    expected = {
        Alternative(tuple(names.get(n, n) for n in present), tuple(names.get(n, n) for n in absent))
        for present, absent in alternatives
    }
    assert set(read(TEMPORAL + condition).alternatives) == expected


def test_the_order_is_that_of_the_rules_and_else_of_the_condition() -> None:
    listed = read("type: temporal_ordered; rules: [c, b]; timespan: 1m; condition: b and c")
    assert listed.sources == ("c", "b") and listed.alternatives == (Alternative(("c", "b"), ()),)
    assert read("type: temporal_ordered; timespan: 1m; condition: b and c").sources == ("b", "c")


def test_generate_is_read_in_both_of_its_places() -> None:
    inside, outside = COUNT + "{gte: 3}; generate: true", COUNT + "{gte: 3}"
    assert read(inside).generate and read(outside, "generate: true\n").generate and not read(outside).generate
    assert load_with(outside).silent == {BASE_ID} and load_with(inside).silent == frozenset()


def test_a_rule_is_referred_to_by_name_or_id_in_any_case() -> None:
    for reference in ("base", BASE_ID, BASE_ID.upper()):
        assert read(COUNT.replace("[base]", f"[{reference}]") + "{gte: 3}").sources == (BASE_ID,)


def test_of_equal_names_the_first_counts_and_the_others_are_named() -> None:
    twin = rule_text("a: {f: y}\ncondition: a", extra="name: base\nid: 8f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c09")
    rules = load_rule_set([*BASES, ("twin.yml", twin)])
    assert [warning.path for warning in rules.warnings] == ["twin.yml"]
    assert BASE_ID in rules.warnings[0].reason


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        (COUNT + "{gte: 0}", 8, "between 1 and"),
        (COUNT + "{gte: 2.5}", 8, "whole number"),
        (COUNT + "{gte: many}", 8, "needs a number"),
        (COUNT + "{gte: .inf}", 8, "needs a number"),
        (COUNT + "{gte: " + "9" * 400 + "}", 8, "needs a number"),
        (SUM + "{gte: " + "9" * 400 + ", field: f}", 8, "needs a number"),
        (TEMPORAL + "1 of nothere*", 7, "'1 of nothere*' names nothing"),
        (TEMPORAL + " or ".join(f"r{number}" for number in range(101)), 7, "more than 100 rules"),
        (COUNT + "{gte: 9, lte: 3}", 8, "nothing can meet"),
        (COUNT + "{gte: 3, lt: 4, neq: 3}", 8, "nothing can meet"),
        (COUNT + "{gte: 3, eq: 4, neq: 4}", 8, "nothing can meet"),
        (COUNT + "{gte: 200000}", 8, "nothing can meet"),
        (COUNT + "{lte: 20000}", 8, "cannot ask for more than 9000"),
        (COUNT + "{gte: 3, field: f}", 8, "counts no field"),
        (COUNT + "{atleast: 3}", 8, "atleast"),
        (COUNT + "{}", 8, "must compare"),
        (COUNT + "base and b", 4, "temporal"),
        ("type: event_count; rules: [base]; timespan: 1m", 4, "must have a condition"),
        ("type: event_count; rules: []; timespan: 1m; condition: {gte: 3}", 6, "at least one rule"),
        ("type: event_count; rules: [base, base]; timespan: 1m; condition: {gte: 3}", 6, "twice"),
        (f"type: event_count; rules: [base, {BASE_ID}]; timespan: 1m; condition: {{gte: 3}}", 1, "twice"),
        ("type: event_count; rules: {a: b}; timespan: 1m; condition: {gte: 3}", 6, "list"),
        ("type: event_count; rules: [base]; timespan: 90; condition: {gte: 3}", 7, "90"),
        ("type: event_count; rules: [base]; timespan: 2y; condition: {gte: 3}", 7, "longer than a year"),
        ("type: event_count; rules: [base]; condition: {gte: 3}", 4, "timespan"),
        ("type: event_count; rules: [base]; timespan: 1m; condition: {gte: 3}; window: 5", 9, "window"),
        ("type: value_count; rules: [base]; timespan: 1m; condition: {gte: 3}", 8, "field"),
        ("type: value_max; rules: [base]; timespan: 1m; condition: {gte: 3, field: f}", 5, "value_max"),
        (SUM + "{gte: 3, lt: 3, field: f}", 8, "nothing can meet"),
        (SUM + "{gte: 3, field: [f, g]}", 8, "one field"),
        (SUM + "{gte: 3, field: f, percentile: 5}", 8, "no percentile"),
        (SUM.replace("sum", "percentile") + "{gte: 3, field: f}", 8, "percentile"),
        (SUM.replace("sum", "percentile") + "{gte: 3, field: f, percentile: 101}", 8, "percentile"),
        ("type: temporal; rules: [base, b]; timespan: 1m; condition: {gte: 3}", 8, "counts its rules"),
        (TEMPORAL + "base and not base", 7, "contradicts itself"),
        (TEMPORAL + "not base", 7, "when nothing happens"),
        (TEMPORAL + "base or not b", 7, "when nothing happens"),
        (TEMPORAL + "base and (b", 7, "parenthesis"),
        ("type: temporal; rules: [base]; timespan: 1m; condition: base and b", 8, "not among"),
        ("type: temporal; rules: [base, b]; timespan: 1m; condition: base", 8, "says nothing of 'b'"),
        (COUNT + "{gte: 3}; aliases: {who: {other: f}}; group-by: [who]", 1, "not among"),
        (COUNT + "{gte: 3}; aliases: [who]", 4, "aliases"),
        (COUNT.replace("[base]", "[nothere]") + "{gte: 3}", 1, "not loaded: nothere"),
        (COUNT.replace("[base]", "[loop]") + "{gte: 3}", 1, "refers to itself"),
    ],
)
def test_what_cannot_be_judged_is_named_with_line_and_reason(body: str, line: int, reason: str) -> None:
    rules = load_with(body)
    assert len(rules.rules) == 3 and rules.correlations == ()
    (error,) = rules.errors
    assert (error.path, error.rule_id) == ("correlation.yml", "6f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c02")
    assert reason in error.reason
    assert error.line == line


def test_a_circle_of_correlations_is_named_at_each_and_what_hangs_on_it_too() -> None:
    def text(name: str, source: str) -> tuple[str, str]:
        body = f"{{type: event_count, rules: [{source}], timespan: 1m, condition: {{gte: 3}}}}"
        return f"{name}.yml", f"title: {name}\nname: {name}\ncorrelation: {body}\n"

    rules = load_rule_set([*BASES, text("x", "y"), text("y", "x"), text("z", "x"), text("fine", "base")])
    assert [correlation.name for correlation in rules.correlations] == ["fine"]
    reasons = {error.path: error.reason for error in rules.errors}
    assert reasons == {
        "x.yml": "refers to itself, through y",
        "y.yml": "refers to itself, through x",
        "z.yml": "refers to correlations that cannot be resolved: x",
    }


def test_of_what_hangs_together_only_the_circles_refer_to_themselves() -> None:
    graph = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["e"], "e": ["f"], "f": ["e"], "g": ["g"], "h": ["g", "a"]}
    assert circular(graph) == {"a", "b", "c", "e", "f", "g"}


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=8, max_size=8))
def test_the_order_is_level_by_level_and_leaves_out_what_never_can_come(edges: list[list[int]]) -> None:
    graph = {str(place): [str(target) for target in targets] for place, targets in enumerate(edges)}
    odd = {"3"}
    levels: list[list[str]] = []
    resolved: set[str] = set()
    while level := [
        key for key in graph if resolved.issuperset(graph[key]) and not any(key in each for each in levels)
    ]:
        levels.append(level)
        resolved.update(key for key in level if key not in odd)
    order, found = ResolvingOrder(graph), []
    for key in order:
        found.append(key)
        if key in odd:
            order.put_off(key)
    assert found == [key for level in levels for key in level]
    reached = {key: set(graph[key]) for key in graph}
    for _ in graph:
        reached = {key: ahead.union(*(graph[other] for other in ahead)) for key, ahead in reached.items()}
    assert circular(graph) == {key for key, ahead in reached.items() if key in ahead}


def test_a_long_chain_of_correlations_is_resolved_at_once() -> None:
    """Pass by pass it would take a time that grows with the square of its length."""
    graph = {str(place): [str(place + 1)] for place in range(50_000)} | {"50000": []}
    assert list(ResolvingOrder(graph))[::-1] == list(graph)
    assert circular(graph | {"50000": ["0"]}) == graph.keys()


def test_a_condition_cannot_come_to_alternatives_without_end() -> None:
    names = [f"r{number}" for number in range(40)]
    bases = [(f"{name}.yml", rule_text("a: {f: x}\ncondition: a", extra=f"name: {name}")) for name in names]
    pairs = " and ".join(f"({a} or {b})" for a, b in zip(names[::2], names[1::2], strict=True))
    text = f"title: X\ncorrelation: {{type: temporal, timespan: 1m, condition: {pairs}}}\n"
    (error,) = load_rule_set([*bases, ("x.yml", text)]).errors
    assert "more than 256 alternatives" in error.reason


def test_bounds_compare_as_they_are_written() -> None:
    assert read(SUM + "{gte: 0.3, field: f}").bounds == (Bound("gte", 0.3),)


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [("90s", 90), ("5m", 300), ("2h", 7200), ("3d", 259_200), ("1w", 604_800), ("1M", 2_629_746), ("1y", 31_556_952)],
)
def test_units_of_a_timespan(stated: str, seconds: int) -> None:
    assert read(COUNT.replace("1m", stated) + "{gte: 3}").span_ns == seconds * 10**9
