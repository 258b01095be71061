"""Rules and records of strangers: whatever they hold, loading ends, judging ends, and both matchers agree."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.sigma import CompiledMatcher, NaiveMatcher, load_rule_set
from detect.sigma.condition_text import BadCondition, parsed_condition
from detect.sigma.modifiers import KNOWN
from detect.sigma.time_parts import part_of
from tests.unit.sigma.records import record, rule_text

names = st.lists(st.sampled_from(sorted(KNOWN)), max_size=3).map("|".join)
odd = st.sampled_from(
    ["", "*", "a*b", "%L%", "-x /y", "10.0.0.0/8", "(a+)+$", "\\", "a\u0301", "\U0001f600", "\x7f", "true", "g"]
)
literal = st.none() | st.booleans() | st.integers(-5, 70) | st.floats(-9, 9) | odd | st.text(max_size=6)
item = st.tuples(st.sampled_from(["f", "g", "", "f.g h", "message"]), names, literal | st.lists(literal, max_size=3))
hostile = (
    odd | st.text(max_size=8) | st.sampled_from(["2026-11-22T03:00:00Z", "\ud800", "a" * 5000, "1e999", "0x10", "g"])
)
values = st.dictionaries(
    st.sampled_from(["f", "g", "f.g h", "message"]), hostile | st.integers() | st.lists(hostile, max_size=2)
)
words = st.lists(
    st.sampled_from(["a", "b", "and", "or", "not", "NOT", "(", ")", "1 of them", "all of *", "1", "of", "|", "x*"]),
    max_size=9,
).map(" ".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(item, min_size=1, max_size=3), words, st.lists(values, min_size=1, max_size=3))
def test_any_items_load_or_are_named_and_are_judged_alike(
    items: list[tuple[str, str, Any]], condition: str, records: list[dict[str, Any]]
) -> None:
    detection = {f"{field}|{chain}" if chain else field: value for field, chain, value in items}
    sources = [
        (f"{number}.yml", yaml.safe_dump(body, allow_unicode=True))
        for number, body in enumerate(
            {
                "title": "X",
                "logsource": {"product": "test"},
                "detection": {"a": detection, "b": {"g": 1}, "condition": text},
            }
            for text in (condition, "a", "b and not a")
        )
    ]
    rules = load_rule_set([*sources, ("lists.yml", "placeholders: {L: [g, 5]}")])
    assert len(rules.rules) + len(rules.errors) == 3
    assert all(error.reason and error.line for error in rules.errors)
    naive, compiled = NaiveMatcher(rules.rules), CompiledMatcher(rules.rules)
    for fields in records:
        given_record = record(fields, message="a line")
        assert compiled.match(given_record) == naive.match(given_record)
    assert naive.take_faults() == compiled.take_faults() == []


@settings(max_examples=200)
@given(st.text(max_size=40) | words)
def test_any_condition_is_read_or_refused(text: str) -> None:
    try:
        parsed_condition(text)
    except BadCondition as error:
        assert str(error)


@pytest.mark.parametrize("text", ["(" * 5000, "not " * 5000 + "a", "a or " * 30_000 + "a", "(a)" * 5000])
def test_a_condition_cannot_make_reading_endless(text: str) -> None:
    rules = load_rule_set([("x.yml", rule_text(f"a: {{f: x}}\ncondition: '{text}'"))])
    assert rules.rules == () and len(rules.errors) == 1


@given(st.text(max_size=50) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{0,12}Z?", fullmatch=True))
def test_a_text_has_a_part_of_a_time_or_none(text: str) -> None:
    for part, low, high in (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("week", 1, 53), ("month", 1, 12)):
        number = part_of(text, part)
        assert number is None or low <= number <= high


def test_a_pattern_that_would_take_for_ever_does_not() -> None:
    """`(a+)+$` takes an engine that backtracks 2 to the power of the length."""
    rules = load_rule_set([("x.yml", rule_text("a: {f|re: '^(a+)+$'}\ncondition: a"))])
    assert NaiveMatcher(rules.rules).match(record({"f": "a" * 50_000 + "!"})) == ()
    assert NaiveMatcher(rules.rules).match(record({"f": "a" * 50_000}))
