"""Witnesses: whatever is chosen, a rule is only true where one of them is; and rare ones are chosen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.sigma import CompiledMatcher, NaiveMatcher, follow_up
from detect.sigma.condition import at_best
from detect.sigma.naive import holds
from detect.sigma.syntax import And, Atom, Expression, Not, Or, Regex
from detect.sigma.witness import WitnessChoice
from tests.unit.sigma.records import loaded, record, rule_text

ATOMS = [Atom("f", "contains", "a"), Atom("f", "endswith", "bb"), Atom("g", "equals", "a"), Atom("g", "present")]
expressions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: And(tuple(parts)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts)))
    ),
    max_leaves=8,
)
records = st.dictionaries(st.sampled_from("fg"), st.sampled_from(["a", "abb", "bb", ""]), max_size=2).map(
    lambda fields: record({**fields})
)


@given(expressions, records)
def test_a_condition_is_true_only_where_a_witness_is(expression: Expression, judged: Any) -> None:
    witnesses = WitnessChoice([expression]).witnesses(expression)
    if holds(expression, judged) and witnesses is not None:
        assert any(holds(atom, judged) for atom in witnesses)


@given(expressions, records, st.sets(st.sampled_from(ATOMS)))
def test_the_best_that_can_become_of_a_condition_is_true_wherever_it_is(
    expression: Expression, judged: Any, answered: set[Atom]
) -> None:
    best = at_best(expression, answered)
    worst = at_best(expression, answered, best=False)
    true = holds(expression, judged)
    assert (best if isinstance(best, bool) else holds(best, judged)) >= true
    assert (worst if isinstance(worst, bool) else holds(worst, judged)) <= true


def test_a_program_that_runs_everywhere_is_no_witness_where_there_is_another() -> None:
    shell, word = Atom("Image", "endswith", "\\powershell.exe"), Atom("CommandLine", "contains", "-windowstyle hid")
    assert WitnessChoice([]).witnesses(And((shell, word))) == frozenset({word})
    assert WitnessChoice([]).witnesses(shell) == frozenset({shell})


def test_what_many_rules_ask_for_is_no_witness_where_there_is_another() -> None:
    common, rare = Atom("Image", "endswith", "\\certutil.exe"), Atom("CommandLine", "contains", "urlcache")
    assert WitnessChoice([common]).witnesses(And((common, rare))) == frozenset({common})
    assert WitnessChoice([common] * 100).witnesses(And((common, rare))) == frozenset({rare})


@pytest.mark.parametrize(
    "other",
    [
        Atom("f", "equals", "a"),
        Atom("EventID", "number", 1),
        Atom("f", "regex", Regex("a", "")),
        Atom("f", "cidr", "10.0.0.0/8"),
        Atom("f", "endswith", "\\cmd.exe"),
    ],
    ids=lambda atom: atom.operator,
)
def test_that_there_is_some_value_is_a_witness_only_where_there_is_no_other(other: Atom) -> None:
    present = Atom("g", "present")
    for condition, expected in ((And((present, other)), other), (And((Not(other), present)), present)):
        assert WitnessChoice((condition,)).witnesses(condition) == {expected}
    assert WitnessChoice((Not(other),)).witnesses(Not(other)) is None


# --- what follows a witness ----------------------------------------------------------------------------------------

RULES = loaded(
    *(
        rule_text(
            f"""
            rare: {{f|contains: 'witness number {number}'}}
            rest: {{f|endswith: ['x', '{number}'], g|contains: ['a', 'b'], h|fieldref: g}}
            message: {{message|contains: line}}
            filter: {{g|endswith: z}}
            condition: rare and (rest or message) and not filter
            """,
            title=f"rule {number}",
        )
        for number in range(6)
    )
).rules
texts = st.sampled_from(["", "a", "az", "xb", "witness number 1", "Witness NUMBER 2 x", "witness number 1, 2", None, 2])
values = texts | st.lists(texts, max_size=2)
field_maps = st.fixed_dictionaries({}, optional={"f": values, "g": values, "h": values, "message": texts})
MATCHERS = (NaiveMatcher(RULES), CompiledMatcher(RULES))


@given(st.lists(st.tuples(field_maps, st.sampled_from(["", "a line"])), min_size=1, max_size=6))
def test_following_up_changes_nothing(given_records: list[tuple[dict[str, Any], str]]) -> None:
    naive, compiled = MATCHERS
    for fields, line in given_records:
        judged = record(fields, message=line)
        assert compiled.match(judged) == naive.match(judged)


def test_only_what_a_witness_leads_to_is_looked_at_further() -> None:
    matcher = CompiledMatcher(RULES)
    matcher.match(record({"f": "no such word", "g": "a", "h": "a"}))
    [bucket] = matcher._buckets.values()
    assert bucket.whole.fields == ("f",) and not bucket.whole.followed
    matcher.match(record({"f": "a witness number 3", "g": "a", "h": "a"}))
    [made] = bucket.whole.followed.values()
    assert sorted(made.fields) == ["f", "g", "message"]


def test_odd_combinations_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_up, "MAX_WEIGHT", 100)
    naive, matcher = NaiveMatcher(RULES), CompiledMatcher(RULES)
    for number in range(64):
        words = " ".join(f"witness number {bit}" for bit in range(6) if number >> bit & 1)
        judged = record({"f": f"{words} x", "g": "a", "h": "a"})
        assert matcher.match(judged) == naive.match(judged)
        [bucket] = matcher._buckets.values()
        assert len(bucket.whole.followed) <= 8
