"""Loading: a bad rule is named with its place and reason, and costs nobody else anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.record import Logsource
from detect.sigma import load_rule_set
from detect.sigma.load import MAX_SOURCE_CHARACTERS
from tests.unit.sigma.records import loaded, rule_text

GOOD = rule_text("a: {f: x}\ncondition: a", title="Good", extra="id: 5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01")


def test_a_rule_carries_its_metadata() -> None:
    text = rule_text(
        "a: {f: x}\ncondition: a",
        extra="""
        id: 5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01
        description: What it finds.
        level: high
        status: test
        author: A. Person
        license: DRL-1.1
        references: [https://example.org/a]
        falsepositives: [Tests]
        tags: [attack.credential-access, attack.initial_access, attack.t1110.001, attack.T1078, attack.s0002]
        """,
        logsource="{product: Linux, service: sshd}",
    )
    (rule,) = loaded(text).rules
    assert (rule.id, rule.title, rule.level) == ("5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01", "A rule", "high")
    assert rule.techniques == ("T1110.001", "T1078")
    assert rule.tactics == ("credential-access", "initial-access")
    assert rule.logsource == Logsource("linux", "", "sshd")
    assert (rule.author, rule.license, rule.references) == ("A. Person", "DRL-1.1", ("https://example.org/a",))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("title: X\n  bad: [", 2, "not valid YAML"),
        ("title: X\ntitle: Y\n", None, "Duplicate key"),
        ("- a\n- b\n", None, "must be a YAML map"),
        ("title: X\ndetection: {a: {f: 1}, condition: a}\n", 1, "log source"),
        ("title: X\nlogsource: {product: linux}\n", 1, "detection"),
        ("logsource: {product: test}\ndetection: {a: {f: 1}, condition: a}\n", 1, "title"),
        (rule_text("a: {f: x}\nb:\n  f|nosuch: x\ncondition: a"), 6, "Unknown modifier"),
        (rule_text("a: {f: x}\ncondition: a and nothere"), 6, "nothere"),
        (rule_text("a: {f: x}\ncondition: a | count() > 3"), 6, "pipe"),
        (rule_text("a: {f: x}\ncondition: all of nothere*"), 6, "nothere"),
        (rule_text("a:\n  f|re: '('\ncondition: a"), 5, "invalid"),
        (rule_text("a:\n  f|re: 'a(?!b)'\ncondition: a"), 5, "invalid perl operator"),
        (rule_text("off: {f: x}\ncondition: off"), 1, "put it in quotes"),
        (rule_text("a:\n  f|base64: 'a*'\ncondition: a"), 5, "wildcards"),
        (rule_text("a:\n  f|cidr: nonet\ncondition: a"), 5, "CIDR"),
        (rule_text("a:\n  f|hour: 5\ncondition: a"), 5, "time modifiers"),
        (rule_text("a:\n  f|hour|gte: 5\ncondition: a"), 5, "time modifiers"),
        (rule_text("a:\n  f|windash: '-a -b -c -d'\ncondition: a"), 5, "windash"),
        (rule_text("a: {f: x}\ncondition: a", extra="id: not-a-uuid"), 3, "UUID"),
        (rule_text("a: {f: x}\ncondition: a", extra="level: awful"), 3, "level"),
        ("action: global\ntitle: X\n", 1, "action"),
        ("title: X\nlogsource: {product: test}\nfilter: {rules: [a]}\n", 1, "filters"),
        ("title: X\n" + "#" * MAX_SOURCE_CHARACTERS, None, "longer than"),
        ("title: X\nlogsource: {product: test}\ndetection: " + "[" * 20_000, None, ""),
    ],
)
def test_a_bad_document_is_named_with_line_and_reason_and_the_others_load(
    text: str, line: int | None, reason: str
) -> None:
    rules = load_rule_set([("bad.yml", text), ("good.yml", GOOD)])
    assert [rule.title for rule in rules.rules] == ["Good"]
    (error,) = rules.errors
    assert error.path == "bad.yml"
    assert reason.lower() in error.reason.lower()
    assert line is None or error.line == line
    assert str(error).startswith("bad.yml")


def test_a_good_document_beside_a_bad_one_in_the_same_file_loads() -> None:
    rules = load_rule_set([("two.yml", GOOD + "---\n" + rule_text("a: {f|nosuch: 1}\ncondition: a"))])
    assert [rule.title for rule in rules.rules] == ["Good"]
    assert "Unknown modifier" in rules.errors[0].reason
    assert rules.errors[0].line == GOOD.count("\n") + 6


def test_a_rule_with_placeholders_is_inert_and_listed_with_what_it_lacks() -> None:
    rules = load_rule_set([("p.yml", rule_text("a:\n  f|expand: '%Admins%'\ncondition: a"))])
    assert rules.rules == ()
    assert rules.errors[0].reason == "inert: no values are given for %Admins%"


def test_yaml_that_expands_without_end_is_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    )
    rules = load_rule_set(
        [("bomb.yml", bomb + "title: X\nlogsource: {product: test}\ndetection: {s: *h, condition: s}\n")]
    )
    assert rules.rules == ()
    assert "alias" in rules.errors[0].reason


def test_of_equal_ids_the_first_path_wins_and_the_other_is_named() -> None:
    other = GOOD.replace("Good", "Other")
    rules = load_rule_set([("b.yml", other), ("a.yml", GOOD)])
    assert [rule.title for rule in rules.rules] == ["Good"]
    assert (rules.errors[0].path, "same id" in rules.errors[0].reason) == ("b.yml", True)


def test_the_digest_depends_on_content_and_not_on_order() -> None:
    sources = [("a.yml", GOOD), ("b.yml", rule_text("a: {f: y}\ncondition: a"))]
    assert load_rule_set(sources).digest == load_rule_set(sources[::-1]).digest
    assert load_rule_set(sources).digest != load_rule_set(sources[:1]).digest
    assert load_rule_set([("a", "bc")]).digest != load_rule_set([("ab", "c")]).digest


def test_the_version_follows_what_is_judged_and_not_the_tests() -> None:
    (plain,) = loaded(GOOD).rules
    (with_tests,) = loaded(GOOD + "tests: {positive: [x]}\n").rules
    (changed,) = loaded(GOOD.replace("f: x", "f: y")).rules
    assert plain.version == with_tests.version != changed.version


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("type: event_count, rules: [base], timespan: 1m, condition: {lte: 3}", "window closes"),
        ("type: event_count, rules: [base], timespan: 1m, condition: {eq: 3}", "window closes"),
        ("type: event_count, rules: [base], timespan: 1m, condition: {gte: 1, lte: 3}", "exactly one condition item"),
        ("type: event_count, rules: [base], timespan: 1m, condition: {gte: 0}", "between 1 and"),
        ("type: event_count, rules: [base], timespan: 90, condition: {gte: 3}", "90"),
        ("type: value_avg, rules: [base], timespan: 1m, condition: {gte: 3, field: f}", "value_avg"),
        ("type: value_count, rules: [base], timespan: 1m, condition: {gte: 3}", "field"),
        ("type: temporal, rules: [base], timespan: 1m, condition: base and not base", "not supported"),
        ("type: event_count, rules: [nothere], timespan: 1m, condition: {gte: 3}", "nothere"),
        ("type: event_count, rules: [loop], timespan: 1m, condition: {gte: 3}", "refers to itself"),
    ],
)
def test_a_correlation_that_cannot_be_judged_soundly_is_named(body: str, reason: str) -> None:
    base = rule_text("a: {f: x}\ncondition: a", extra="name: base")
    correlation = f"title: Loop\nname: loop\nid: 6f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c02\ncorrelation: {{{body}}}\n"
    rules = load_rule_set([("base.yml", base), ("correlation.yml", correlation)])
    assert len(rules.rules) == 1 and rules.correlations == ()
    (error,) = rules.errors
    assert error.path == "correlation.yml" and reason in error.reason


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_loads_or_is_named(text: str) -> None:
    rules = load_rule_set([("x.yml", text)])
    assert all(error.path == "x.yml" and error.reason for error in rules.errors)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
        max_leaves=12,
    )
)
def test_any_detection_loads_or_is_named(definition: object) -> None:
    import yaml

    text = yaml.safe_dump(
        {"title": "X", "logsource": {"product": "test"}, "detection": {"a": definition, "condition": "a"}}
    )
    rules = load_rule_set([("x.yml", text)])
    assert len(rules.rules) + len(rules.errors) == 1
