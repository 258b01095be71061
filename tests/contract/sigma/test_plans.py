"""Rules divided by EventID and Channel: only those that can be true are looked at, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detect.record import Logsource
from detect.sigma import CompiledMatcher, NaiveMatcher, plan
from detect.sigma.condition import decider, remaining
from detect.sigma.explanation import Explainer
from detect.sigma.naive import explain, holds
from detect.sigma.program import RuleProgram
from detect.sigma.scanner import FinderShelf
from detect.sigma.scanner.aho_corasick_finder import AhoCorasickEngine
from detect.sigma.syntax import And, Atom, Expression, FieldReference, Not, Or, Pattern, Regex
from tests.unit.sigma.records import loaded, record, rule_text

NUMBERS = (1, 4624, 4688, 4689)
CONDITIONS = (
    "a and b", "a and not b", "a or b", "not a and b", "a", "not (a or b)", "a and k", "k or (a and c)", "c and a",
    "a and r", "not r and a", "s or (a and r)", "m and a", "not k and a",
)  # fmt: skip


def divided_rules() -> list[str]:
    """Rules of one service for several kinds of event, of every shape of condition."""
    return [
        rule_text(
            f"""
            a: {{EventID: {number}, Channel: {"Security" if number > 1 else "Sysmon"}}}
            b: {{f|contains: ['ab', '{number}']}}
            c: {{g: null}}
            k: ['needle', 'x*{number}']
            r: {{f|fieldref: g}}
            s: {{f|fieldref|endswith: message}}
            m: {{message|contains: 'line'}}
            condition: {condition}
            """,
            title=f"{number} {condition}",
        )
        for number in NUMBERS
        for condition in CONDITIONS
    ]


RULES = loaded(*divided_rules()).rules
numbers = st.sampled_from([*NUMBERS, "4688", "4624", 7, None, True, 1.0, [4688, 1], [], {"#text": "1"}])
channels = st.sampled_from(["Security", "security", "Sysmon", "other", None, ["Sysmon"]])
words = st.sampled_from(["ab", "AB4688", "needle", "", "x 4689", 4688, None, ["ab", 1], True])
field_maps = st.fixed_dictionaries(
    {}, optional={"EventID": numbers, "Channel": channels, "f": words, "g": words, "message": words}
)


@pytest.fixture(scope="module")
def matchers() -> tuple[NaiveMatcher, list[CompiledMatcher]]:
    return NaiveMatcher(RULES), [CompiledMatcher(RULES), CompiledMatcher(RULES, FinderShelf(AhoCorasickEngine()))]


@settings(max_examples=150, deadline=None)
@given(field_maps, st.sampled_from(["", "a line", "needle"]))
@example({"EventID": [4688], "Channel": "Security", "message": None, "f": ["AB"]}, "line")
@example({"EventID": True, "Channel": ["Sysmon"], "f": "ab"}, "")
def test_dividing_changes_nothing(
    matchers: tuple[NaiveMatcher, list[CompiledMatcher]], fields: dict[str, Any], line: str
) -> None:
    naive, compiled = matchers
    given_record = record(fields, message=line)
    expected = naive.match(given_record)
    for matcher in compiled:
        for _ in range(2):
            assert matcher.match(given_record) == expected


def test_rules_that_cannot_be_true_and_their_fields_are_not_looked_at() -> None:
    texts = [
        rule_text(f"a: {{EventID: {number}}}\nb: {{field{number}|contains: abc}}\ncondition: a and b")
        for number in range(100, 120)
    ]
    matcher = CompiledMatcher(loaded(*texts).rules)
    assert len(matcher.match(record({"EventID": 105, "field105": "xABCx", "field106": "abc"}))) == 1
    [bucket] = matcher._buckets.values()
    assert bucket.switches == ("EventID",)
    assert [made.fields for made in bucket.plans() if made is not bucket.whole] == [("field105",)]


def test_no_sender_can_make_plans_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_PLANS", 3)
    texts = [rule_text(f"a: {{EventID: {number}}}\nb: {{f: x}}\ncondition: a and not b") for number in range(20)]
    rules = loaded(*texts).rules
    naive, matcher = NaiveMatcher(rules), CompiledMatcher(rules)
    for number in [*range(25), *range(25)]:
        for value in ("x", "y"):
            given_record = record({"EventID": number, "f": value})
            assert matcher.match(given_record) == naive.match(given_record)
    [bucket] = matcher._buckets.values()
    assert len(bucket.plans()) == 4


def test_a_service_name_that_a_sender_makes_up_costs_no_bucket() -> None:
    matcher = CompiledMatcher(RULES)
    for number in range(50):
        matcher.match(record({"EventID": 1}, logsource=Logsource("test", "", f"made up {number}")))
    assert len(matcher._buckets) == 1


# --- conditions ----------------------------------------------------------------------------------------------------

ATOMS = [
    Atom("f", "contains", "ab"),
    Atom("f", "equals", "ab"),
    Atom("g", "number", 5),
    Atom("g", "present"),
    Atom(None, "contains", "needle"),
    Atom("h", "regex", Regex("b+", "")),
]
expressions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: And(tuple(parts)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts)))
    ),
    max_leaves=8,
)
values = st.sampled_from(["ab", "xAB", "5", 5, "", "needle", None, ["ab", "5"], ["x"]])
records = st.dictionaries(st.sampled_from("fgh"), values, max_size=3).map(lambda fields: record({**fields}))


@given(expressions, records, st.sets(st.sampled_from(ATOMS)))
def test_a_condition_decided_from_its_atoms_is_the_condition(
    expression: Expression, given_record: Any, known: set[Atom]
) -> None:
    numbered = {atom: number for number, atom in enumerate(ATOMS)}
    truths = frozenset(number for atom, number in numbered.items() if holds(atom, given_record))
    expected = holds(expression, given_record)
    assert decider(expression, numbered)(truths) == expected
    left = remaining(expression, {atom: numbered[atom] in truths for atom in known})
    assert (left if isinstance(left, bool) else holds(left, given_record)) == expected
    if expected:
        assert Explainer(expression, numbered).explain(truths).of(given_record) == explain(expression, given_record)


def test_what_the_scanners_do_not_know_is_left_to_the_reference() -> None:
    reference = Atom(None, "fieldref", FieldReference("g", "equals"))
    texts = [rule_text("a: {f: x}\ncondition: a", title=title) for title in ("open", "direct", "broken", "plain")]
    rules = list(loaded(*texts).rules)
    conditions: list[Expression] = [
        And((ATOMS[0], reference)),
        Not(reference),
        Or((ATOMS[0], Atom("f", "regex", Regex("(", "")))),
        Atom("f", "pattern", Pattern((("x",), ()))),
    ]
    made = [_with(rule, condition) for rule, condition in zip(rules, conditions, strict=True)]
    program = RuleProgram(made)
    assert (program.open, program.direct) == ({0}, {1, 2})
    naive, matcher = NaiveMatcher(made), CompiledMatcher(made)
    for fields in ({"f": "xab", "g": "XAB"}, {"f": "ab"}, {"f": "q", "g": "q"}, {}):
        given_record = record({**fields})
        assert matcher.match(given_record) == naive.match(given_record)
        assert matcher.take_faults() == naive.take_faults()


def _with(rule: Any, condition: Expression) -> Any:
    fields = {name: getattr(rule, name) for name in rule.__dataclass_fields__}
    return type(rule)(**{**fields, "condition": condition})
