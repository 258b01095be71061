"""Placeholders: lists of values that each tenant gives, or that ship with the program."""

from __future__ import annotations

import pytest

from detect.sigma import NaiveMatcher, RuleSet, load_rule_set
from detect.sigma.placeholders import shipped_lists
from tests.unit.sigma.records import record, rule_text

LISTS = """
placeholders:
  Admins: [alice, 'b*b']
  Nets: [10.0.0.0/8, 192.168.0.0/16]
  Port: 22
  Odd: ['a.b', 'c|d']
  None: []
"""


def load_with(detection: str, lists: str = LISTS) -> RuleSet:
    return load_rule_set([("a-rule.yml", rule_text(detection)), ("z-lists.yml", lists)])


def fires(item: str, **fields: object) -> bool:
    rules = load_with(f"selection:\n  {item}\ncondition: selection")
    assert rules.errors == ()
    return bool(NaiveMatcher(rules.rules).match(record(fields)))  # type: ignore[arg-type]  # values are plain


@pytest.mark.parametrize(
    ("item", "value", "expected"),
    [
        ("f|expand: '%Admins%'", "ALICE", True),
        ("f|expand: '%Admins%'", "bxxb", True),
        ("f|expand: '%Admins%'", "carol", False),
        ("f|expand: '%Port%'", 22, True),
        ("f|expand: 'x-%Admins%-y'", "x-alice-y", True),
        ("f|expand: '%Port%-%Port%'", "22-22", True),
        ("f|expand: ['%Admins%', carol]", "carol", True),
        ("f|expand: '100% of it'", "100% of it", True),
        ("f|expand: 5", 5, True),
        ("f|contains|expand: '%Admins%'", "xxalicexx", True),
        ("f|expand|contains: '%Admins%'", "xxalicexx", True),
        ("f|expand|endswith: '@%Admins%'", "x@alice", True),
        ("f|expand|base64: '%Port%'", "MjI=", True),
        ("f|cidr|expand: '%Nets%'", "192.168.3.4", True),
        ("f|cidr|expand: '%Nets%'", "11.0.0.1", False),
        ("f|expand|cidr: '%Nets%'", "10.0.0.1", True),
        ("f|re|expand: '^(%Odd%)$'", "a.b", True),
        ("f|re|expand: '^(%Odd%)$'", "axb", False),
        ("f|re|expand: '^(%Odd%)$'", "c|d", True),
        ("f|contains|all|expand: ['%Admins%', x]", "x alice", True),
        ("f|contains|all|expand: ['%Admins%', x]", "alice", False),
        ("f|expand|neq: '%Admins%'", "carol", True),
        ("f|expand|neq: '%Admins%'", "alice", False),
    ],
)
def test_a_placeholder_stands_for_any_value_of_its_list(item: str, value: object, expected: bool) -> None:
    assert fires(item, f=value) is expected


def test_an_empty_list_excludes_nothing() -> None:
    rules = load_with("a: {f: x}\nallowed: {g|expand: '%None%'}\ncondition: a and not allowed")
    assert NaiveMatcher(rules.rules).match(record({"f": "x", "g": "y"}))


def test_a_rule_that_needs_a_value_of_an_empty_list_is_inert_and_named() -> None:
    rules = load_with("a: {g|expand: '%None%'}\ncondition: a")
    assert rules.rules == ()
    assert rules.errors[0].reason.startswith("inert: with the empty lists")


def test_lists_of_the_sources_stand_before_those_that_ship() -> None:
    assert shipped_lists()["userdomain"] == ("%userdomain%",)
    (plain,) = load_with("a: {f|expand: '%userdomain%'}\ncondition: a").rules
    (given,) = load_with("a: {f|expand: '%userdomain%'}\ncondition: a", "placeholders: {userdomain: [ACME]}").rules
    assert NaiveMatcher([plain]).match(record({"f": "%USERDOMAIN%"}))
    assert NaiveMatcher([given]).match(record({"f": "acme"}))
    assert not NaiveMatcher([given]).match(record({"f": "%USERDOMAIN%"}))


def test_of_two_lists_of_a_name_the_first_path_counts_and_the_other_is_named() -> None:
    text = rule_text("a: {f|expand: '%L%'}\ncondition: a")
    sources = [("b.yml", "placeholders: {L: [two], M: [x]}"), ("a.yml", "placeholders: {L: [one]}"), ("r.yml", text)]
    rules = load_rule_set(sources)
    assert NaiveMatcher(rules.rules).match(record({"f": "one"}))
    assert [(w.path, w.reason) for w in rules.warnings] == [
        ("b.yml", "the list %L% is given before, and counts as it stands there")
    ]


def test_the_digest_names_the_lists_too() -> None:
    rule = ("r.yml", rule_text("a: {f|expand: '%L%'}\ncondition: a"))
    digests = {load_rule_set([rule, ("l.yml", f"placeholders: {{L: [{value}]}}")]).digest for value in "ab"}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ("placeholders: [a]", "must be a map"),
        ("placeholders: {L: [{a: b}]}", "must be texts or numbers"),
        ("placeholders: {L: [true]}", "must be texts or numbers"),
        ("placeholders: {'a%b': [x]}", "cannot be the name"),
        ("placeholders: {5: [x]}", "cannot be the name"),
        ("placeholders: {L: [x]}\ndetection: {}", "cannot have `detection`"),
    ],
)
def test_a_document_that_is_no_lists_is_named(lists: str, reason: str) -> None:
    rules = load_with("a: {f: x}\ncondition: a", lists)
    assert len(rules.rules) == 1
    assert (rules.errors[0].path, reason in rules.errors[0].reason) == ("z-lists.yml", True)


def test_placeholders_cannot_multiply_without_end() -> None:
    values = ", ".join(map(str, range(200)))
    rules = load_with("a: {f|expand: '%L%%L%%L%'}\ncondition: a", f"placeholders: {{L: [{values}]}}")
    assert rules.rules == ()
    assert "more than 10000 values" in rules.errors[0].reason
