"""Sigma filters: a condition that is added to many rules."""

from __future__ import annotations

import pytest

from detect.sigma import NaiveMatcher, RuleSet, load_rule_set
from tests.unit.sigma.records import record, rule_text

ONE = rule_text("a: {f: x}\ncondition: a", title="One", extra="id: 5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01\nname: one")
TWO = rule_text("a: {f: x}\ncondition: a", title="Two", extra="name: two", logsource="{product: test, service: s}")
FAR = rule_text("a: {f: x}\ncondition: a", title="Far", extra="name: far", logsource="{product: other}")


def filter_text(
    rules: str, body: str = "selection: {User: adm}, condition: not selection", product: str = "test"
) -> str:
    return (
        f"title: Filter\nid: 9f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01\nlogsource: {{product: {product}}}\n"
        f"filter: {{rules: {rules}, {body}}}\n"
    )


def load_with(*filters: str) -> RuleSet:
    rules = [("1.yml", ONE), ("2.yml", TWO), ("3.yml", FAR)]
    return load_rule_set([*rules, *((f"0-filter{number}.yml", text) for number, text in enumerate(filters))])


def test_a_filter_is_joined_to_the_rules_it_names_and_to_no_other() -> None:
    rules = load_with(filter_text("[one]"))
    assert rules.errors == rules.warnings == ()
    one, two, _ = rules.rules
    assert one.filters == ("9f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01",) and two.filters == ()
    matcher = NaiveMatcher([one])
    assert matcher.match(record({"f": "x", "User": "root"}))
    assert not matcher.match(record({"f": "x", "User": "ADM"}))
    assert not matcher.match(record({"f": "y", "User": "root"}))


@pytest.mark.parametrize(
    ("reference", "titles"),
    [
        ("any", ["One", "Two"]),
        ("ANY", ["One", "Two"]),
        ("[]", ["One", "Two"]),
        ("two", ["Two"]),
        ("[two, one]", ["One", "Two"]),
        ("5F1F0AD4-6B9F-4F7E-8A55-0B0F4A8F7C01", ["One"]),
    ],
)
def test_rules_are_named_by_id_or_name_or_meant_by_their_log_source(reference: str, titles: list[str]) -> None:
    assert [rule.title for rule in load_with(filter_text(reference)).rules if rule.filters] == titles


def test_filters_add_up() -> None:
    more = filter_text("any", "a: {User: x}, b: {User: y}, condition: not 1 of them").replace("9f1f", "8f1f")
    one = load_with(filter_text("any"), more).rules[0]
    seen = {user: bool(NaiveMatcher([one]).match(record({"f": "x", "User": user}))) for user in ("adm", "x", "y", "z")}
    assert seen == {"adm": False, "x": False, "y": False, "z": True}


def test_a_filtered_rule_is_another_version_and_a_changed_filter_yet_another() -> None:
    versions = {load_with().rules[0].version}
    for body in (
        "selection: {User: adm}, condition: not selection",
        "selection: {User: bob}, condition: not selection",
    ):
        versions.add(load_with(filter_text("[one]", body)).rules[0].version)
    assert len(versions) == 3


def test_names_inside_a_filter_are_its_own() -> None:
    """The rule's `a` and the filter's `a` are two detections."""
    one = load_with(filter_text("[one]", "a: {User: adm}, condition: not a")).rules[0]
    assert NaiveMatcher([one]).match(record({"f": "x", "User": "z"}))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (filter_text("[one]", "selection: {User: adm}"), 4, "exactly one condition"),
        (filter_text("[one]", "selection: {User: adm}, condition: [selection]"), 4, "exactly one condition"),
        (filter_text("[one]", "selection: {User|nosuch: adm}, condition: selection"), 4, "Unknown modifier"),
        (filter_text("[one]", "selection: {User: adm}, condition: other"), 4, "other"),
        (filter_text("5"), 4, "must name its rules"),
        (filter_text("[5]"), 4, "must name its rules"),
        (filter_text("[one]").replace("rules: [one], ", ""), 4, "must name its rules"),
        ("title: F\nlogsource: {product: test}\nfilter: [x]\n", 3, "map"),
        ("title: F\nfilter: {rules: any, a: {f: x}, condition: a}\n", 1, "log source"),
        (filter_text("any", "a: {f|expand: '%Nowhere%'}, condition: not a"), 4, "%Nowhere%"),
    ],
)
def test_a_filter_that_cannot_be_applied_is_named_and_the_rules_stand_without_it(
    text: str, line: int, reason: str
) -> None:
    rules = load_with(text)
    assert [rule.filters for rule in rules.rules] == [(), (), ()]
    (error,) = rules.errors
    assert (error.path, error.line) == ("0-filter0.yml", line)
    assert reason in error.reason


def test_what_a_filter_names_in_vain_is_told() -> None:
    rules = load_with(filter_text("[one, gone, far]"))
    assert [rule.title for rule in rules.rules if rule.filters] == ["One"]
    assert [warning.line for warning in rules.warnings] == [1, 1]
    assert "'gone', which is no detection rule" in rules.warnings[0].reason
    assert "'far', but its log source" in rules.warnings[1].reason


def test_an_id_belongs_to_one_document_be_it_a_rule_or_a_filter() -> None:
    rules = load_with(filter_text("any").replace("9f1f0ad4", "5f1f0ad4"))
    assert [rule.title for rule in rules.rules] == ["Two", "Far"]
    assert "same id" in rules.errors[0].reason
