"""Loading: a bad rule is named with its place and reason, and costs nobody else anything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.record import Logsource
from detect.sigma import literals, load, load_rule_set, translate
from detect.sigma.load import MAX_SOURCE_CHARACTERS
from detect.sigma.syntax import Atom
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
        ("title: X\ntitle: Y\n", 2, "Duplicate key"),
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
        (rule_text("a:\n  f|hour: 25\ncondition: a"), 5, "between 0 and 23"),
        (rule_text("a: {f: x}\ncondition: a or"), 6, "lacks an operand"),
        (rule_text("a: {f: x}\ncondition: a a"), 6, "operator is missing"),
        (rule_text("a: {f: x}\ncondition: (a"), 6, "parenthesis"),
        (rule_text("a: {f: x}\ncondition: 2 of a*"), 6, "1 of"),
        (rule_text("a: {f: x}\ncondition: " + "(" * 60 + "a" + ")" * 60), 6, "nested more than"),
        (rule_text("a: {f: x}\ncondition: a or not a"), 6, "always true"),
        (rule_text("a: {f: x}\ncondition: []"), 4, "at least one condition"),
        (rule_text("a: {f: x}\ncondition: 5"), 6, "must be a text"),
        (rule_text("a: {}\ncondition: a"), 5, "empty"),
        (rule_text("a: {f|re: 5}\ncondition: a"), 5, "must be a text"),
        (rule_text("a: {f|re: '(a{500}){500}'}\ncondition: a"), 5, "repetition"),
        (rule_text("a:\n  f|re: '" + "a" * 20_000 + "'\ncondition: a"), 5, "longer than"),
        (rule_text("a:\n  f: [" + ",".join(map(str, range(30_000))) + "]\ncondition: a"), 7, "more than 20000 values"),
        (rule_text("a:\n  f|windash: '-a -b -c -d'\ncondition: a"), 5, "windash"),
        (rule_text("a: {f: x}\ncondition: a", extra="id: not-a-uuid"), 3, "UUID"),
        (rule_text("a: {f: x}\ncondition: a", extra="level: awful"), 3, "level"),
        ("action: global\ntitle: X\n", 1, "action"),
        ("title: X\nlogsource: {product: test}\nfilter: {rules: [a]}\n", 3, "condition"),
        ("title: X\n" + "#" * MAX_SOURCE_CHARACTERS, None, "longer than"),
        ("title: X\nlogsource: {product: test}\ndetection: " + "[" * 500_000, 3, "nested more than"),
        ("title: X\nlogsource: {product: test}\ndetection:\n  " + "- " * 400_000 + "x", 4, "nested more than"),
        ("title: X\nname: 0x" + "f" * 5000 + "\n", 2, "whole number of more than"),
        ("title: X\nid: 0x" + "f" * 5000 + "\n", 2, "whole number of more than"),
        ("title: X\ndetection: caf\udce9\n", None, "not valid YAML"),
        ("title: X\ndetection: \x00\n", None, "not valid YAML"),
        ("title: X\nlogsource: {product: 5}\ndetection: {a: {f: 1}, condition: a}\n", 2, "must be a text"),
        ("title: X\nlogsource: {definition: x}\ndetection: {a: {f: 1}, condition: a}\n", 2, "says nothing"),
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
    text = rule_text("a:\n  f|expand: '%Admins%'\nb:\n  g|expand: ['%Other%', '%Admins%']\ncondition: a and b")
    rules = load_rule_set([("p.yml", text)])
    assert rules.rules == ()
    assert rules.errors[0].reason == "inert: no values are given for %Admins%, %Other%"
    assert rules.errors[0].line == 5


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
    assert (rules.errors[0].path, rules.errors[0].line) == ("b.yml", 3)
    assert rules.errors[0].reason == "another rule loaded before has the same id: a.yml:1"


def test_an_id_is_the_same_in_capitals_and_braces() -> None:
    rules = load_rule_set([("b.yml", GOOD.replace("5f1f0ad4", "5F1F0AD4")), ("a.yml", GOOD)])
    assert [rule.id for rule in rules.rules] == ["5f1f0ad4-6b9f-4f7e-8a55-0b0f4a8f7c01"]
    assert "same id" in rules.errors[0].reason


def test_a_rule_that_asks_for_no_value_is_in_force_and_named() -> None:
    rules = load_rule_set([("x.yml", rule_text("a: {f: x}\ncondition: not a")), ("y.yml", GOOD)])
    assert len(rules.rules) == 2 and rules.errors == ()
    (warning,) = rules.warnings
    assert (warning.path, "nearly every record" in warning.reason) == ("x.yml", True)


def test_placeholders_are_counted_before_their_values_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def text_atom(field: str | None, modifiers: Sequence[str], text: str) -> Atom:
        made.append(text)
        return literals.text_atom(field, modifiers, text)

    monkeypatch.setattr(translate, "text_atom", text_atom)
    many = "placeholders: {N: [" + ",".join(f"v{number}" for number in range(5000)) + "]}"
    wanted = ", ".join(f"'%N%l{number}'" for number in range(40))
    rules = load_rule_set([("n.yml", many), ("x.yml", rule_text(f"a:\n  f|expand: [{wanted}]\ncondition: a"))])
    (error,) = rules.errors
    assert error.line == 5 and "more than 20000 values" in error.reason
    assert len(made) <= 20_000


def test_many_faults_of_a_source_are_each_named_with_their_line() -> None:
    text = rule_text("a: {f: x}\nb:\n  f|nosuch: 1\ncondition: a")
    rules = load_rule_set([("bad.yml", "---\n".join([text] * 5))])
    lines = text.count("\n") + 1
    assert [error.line for error in rules.errors] == [6 + number * lines for number in range(5)]


def test_a_rule_set_beyond_the_bound_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_DOCUMENTS", 10)
    rules = load_rule_set([(f"{n:03}.yml", rule_text("a: {f: x}\ncondition: a")) for n in range(40)])
    assert len(rules.rules) == 10
    assert [(error.path, error.reason) for error in rules.errors] == [
        ("010.yml", "the rule set has more than 10 documents: none is read from here on")
    ]


def test_a_source_of_nothing_but_faults_is_given_up() -> None:
    faults = "---\n".join([rule_text("a: {f|nosuch: 1}\ncondition: a")] * 300)
    rules = load_rule_set([("bad.yml", faults), ("worse.yml", "- a\n---\n" * 300), ("good.yml", GOOD)])
    assert [rule.title for rule in rules.rules] == ["Good"]
    assert len(rules.errors) == 202
    assert sum("not read" in error.reason for error in rules.errors) == 2


def test_merge_keys_cannot_multiply() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(900))
    text = f"a: &a {{{keys}}}\n" + "".join(f"b{n}: {{<<: *a}}\n" for n in range(20_000))
    (error,) = load_rule_set([("x.yml", text)]).errors
    assert "more than 100 merges" in error.reason and error.line == 102


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
