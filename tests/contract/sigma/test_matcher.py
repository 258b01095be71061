"""The contract of a rule matcher: one suite over the reference and the compiled one, and their equality on anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detect.record import Logsource, NormalizedRecord
from detect.sigma import CompiledMatcher, NaiveMatcher, RuleMatcher, SigmaRule, load_rule_set
from detect.sigma import classes as value_classes
from detect.sigma import compiled as compiled_matcher
from detect.sigma.scanner import FinderShelf
from detect.sigma.scanner.aho_corasick_finder import AhoCorasickEngine
from detect.sigma.syntax import Atom, Regex
from tests.unit.sigma.records import loaded, record, rule_text

Build = Callable[[Sequence[SigmaRule]], RuleMatcher]
MATCHERS: dict[str, Build] = {
    "naive": NaiveMatcher,
    "compiled": CompiledMatcher,
    "aho-corasick": lambda rules: CompiledMatcher(rules, FinderShelf(AhoCorasickEngine())),
}


@pytest.fixture(params=list(MATCHERS.values()), ids=list(MATCHERS))
def build(request: pytest.FixtureRequest) -> Build:
    chosen: Build = request.param
    return chosen


def titles(matcher: RuleMatcher, given_record: NormalizedRecord) -> list[str]:
    return [match.rule.title for match in matcher.match(given_record)]


def test_matches_come_in_the_order_of_the_rules(build: Build) -> None:
    texts = [rule_text(f"a: {{f|contains: '{word}'}}\ncondition: a", title=word) for word in ("one", "two", "three")]
    matcher = build(loaded(*texts).rules)
    assert titles(matcher, record({"f": "three two one"})) == ["one", "two", "three"]
    assert titles(matcher, record({"f": "three one"})) == ["one", "three"]
    assert titles(matcher, record({"g": "one"})) == []


def test_a_rule_is_only_asked_about_records_of_its_log_source(build: Build) -> None:
    windows = rule_text(
        "a: {f: x}\ncondition: a", title="W", logsource="{product: windows, category: process_creation}"
    )
    linux = rule_text("a: {f: x}\ncondition: a", title="L", logsource="{product: linux}")
    matcher = build(loaded(windows, linux).rules)
    assert titles(matcher, record({"f": "x"}, logsource=Logsource("windows", "process_creation", "sysmon"))) == ["W"]
    assert titles(matcher, record({"f": "x"}, logsource=Logsource("windows", "", "security"))) == []
    assert titles(matcher, record({"f": "x"}, logsource=Logsource("linux", "", "sshd"))) == ["L"]
    assert titles(matcher, record({"f": "x"}, logsource=Logsource())) == []


def test_a_rule_of_pure_negation_is_true_of_an_empty_record(build: Build) -> None:
    matcher = build(loaded(rule_text("a: {f: x}\ncondition: not a")).rules)
    assert titles(matcher, record()) == ["A rule"]
    assert titles(matcher, record({"f": "X"})) == []


def test_matched_names_the_fields_that_made_the_rule_true(build: Build) -> None:
    text = rule_text(
        """
        a: {f|contains: evil, n: 5}
        b: {g: never}
        c: {h: absent}
        keywords: [needle]
        condition: (a or b) and not c and keywords
        """
    )
    (match,) = build(loaded(text).rules).match(record({"f": "An Evil", "n": "5", "x": "needle in it"}))
    assert match.matched == {"f": "An Evil", "n": "5", "keywords": ["needle"]}


def test_long_values_are_shortened_in_what_is_matched(build: Build) -> None:
    (match,) = build(loaded(rule_text("a: {f|contains: x}\ncondition: a")).rules).match(record({"f": "x" * 5000}))
    assert len(match.matched["f"]) == 1000


def test_one_and_true_and_the_text_are_kept_apart_in_caches(build: Build) -> None:
    """True == 1 == 1.0 as a dictionary key: the order in which they are first seen must not matter."""
    number, text, truth = (
        rule_text(f"a: {{f: {value}}}\ncondition: a", title=title)
        for value, title in (("1", "number"), ("'1'", "text"), ("true", "truth"))
    )
    expected: list[tuple[Any, list[str]]] = [
        (1, ["number", "text"]),
        (True, ["truth"]),
        (1.0, ["number", "text"]),
        ("1", ["number", "text"]),
        ("True", ["truth"]),
        ([True, 1], ["number", "text", "truth"]),
    ]
    for order in itertools.permutations(expected, 4):
        matcher = build(loaded(number, text, truth).rules)
        for value, titles_wanted in order:
            assert titles(matcher, record({"f": value})) == titles_wanted


def test_a_rule_that_raises_is_named_and_the_others_are_judged(build: Build) -> None:
    good, bad = loaded(
        rule_text("a: {f: x}\ncondition: a", title="good"), rule_text("a: {f|re: x}\ncondition: a", title="bad")
    ).rules
    broken = Atom("f", "regex", Regex("(", ""))
    fields = {name: getattr(bad, name) for name in bad.__dataclass_fields__}
    matcher = build([SigmaRule(**{**fields, "condition": broken}), good])
    assert titles(matcher, record({"f": "x"})) == ["good"]
    (fault,) = matcher.take_faults()
    assert fault.rule_id == bad.id and fault.error.startswith("BadRegex: ")
    assert matcher.take_faults() == []


def test_a_matcher_without_rules_matches_nothing(build: Build) -> None:
    assert build(()).match(record({"f": "x"}, message="x")) == ()


# --- equality of the two -------------------------------------------------------------------------------------------

# Few fragments, so that values and literals often have something to do with each other; both cases of each.
FRAGMENTS = ["a", "Ab", "abcd", "ABCD", "bcdA", "é", "\\", "5", " "]
ODD_WORDS = ["İ", "ß", "Σ", "ΑΣ", "K", "K", "*", "?", "*ab?d*", "5", "true", "", "AbCd.exe"]
word = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3).map("".join) | st.sampled_from(ODD_WORDS)
field = st.sampled_from(["f", "g", "message"])
scalar = (
    word | st.integers(-3, 6) | st.booleans() | st.none() | st.sampled_from([5.0, 4.5, "10.0.0.1", "::ffff:10.0.0.1"])
)
value = scalar | st.lists(scalar, max_size=3)
modifier = st.sampled_from(
    ["", "|contains", "|startswith", "|endswith", "|contains|all", "|cased", "|contains|cased", "|neq"]
)


@st.composite
def item(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.integers(0, 9))
    name = draw(field)
    if kind < 6:
        chosen = draw(modifier)
        literal = word if chosen else scalar
        return {name + chosen: draw(literal | st.lists(literal, min_size=1, max_size=3))}
    return draw(
        st.sampled_from(
            [
                {"|contains|cased": draw(word.filter(bool))},
                {"|startswith": draw(word.filter(bool))},
                {name + "|re": "a.?b"},
                {name + "|re|i": "^A"},
                {name + "|cidr": "10.0.0.0/8"},
                {name + "|gte": 5},
                {name + "|lt": 5},
                {name + "|exists": True},
                {name + "|exists": False},
                {name + "|fieldref": "g"},
                {name: None},
                {name + "|base64offset|contains": "abc"},
            ]
        )
    )


keywords = st.lists(word.filter(lambda text: text.strip("*") != ""), min_size=1, max_size=3)
selection = st.lists(item(), min_size=1, max_size=3).map(
    lambda items: {k: v for part in items for k, v in part.items()}
)
condition = st.sampled_from(
    [
        "a",
        "not a",
        "a and b",
        "a or b",
        "a and not b",
        "not a and not b",
        "(a or b) and c",
        "a or (b and not c)",
        "1 of them",
    ]
)


@st.composite
def rule(draw: st.DrawFn) -> str:
    detection = {name: draw(selection | keywords | st.lists(selection, min_size=1, max_size=2)) for name in "abc"}
    body = {"title": "X", "logsource": {"product": "test"}, "detection": {**detection, "condition": draw(condition)}}
    return yaml.safe_dump(body, allow_unicode=True)


events = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(["f", "g", "h", "message"]), value, max_size=4), word),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150)
@given(st.lists(rule(), min_size=1, max_size=5), events)
def test_both_agree_on_generated_rules_and_records(texts: list[str], fields: list[tuple[dict[str, Any], str]]) -> None:
    rules = load_rule_set([(f"{number}.yml", text) for number, text in enumerate(texts)]).rules
    naive, compiled = NaiveMatcher(rules), CompiledMatcher(rules)
    for values, message in [*fields, *fields]:
        given_record = record(values, message=message)
        assert compiled.match(given_record) == naive.match(given_record)
    assert naive.take_faults() == compiled.take_faults() == []


@given(
    st.sampled_from(["|contains", "|contains|cased", "|startswith", "|endswith|cased", "|all"]),
    st.lists(word.filter(lambda text: text.strip("*?") != ""), min_size=1, max_size=3),
    events,
)
@example("|contains|cased", ["Ab"], [({"f": "xAbx"}, "")])
@example("|contains|cased", ["Σ"], [({"f": "ΑΣ"}, "")])
@example("|endswith|cased", ["İ"], [({}, "aİ")])
def test_both_agree_on_keywords(chosen: str, literals: list[str], fields: list[tuple[dict[str, Any], str]]) -> None:
    body = {"title": "X", "logsource": {"product": "test"}, "detection": {"a": {chosen: literals}, "condition": "a"}}
    rules = load_rule_set([("x.yml", yaml.safe_dump(body, allow_unicode=True))]).rules
    naive, compiled = NaiveMatcher(rules), CompiledMatcher(rules)
    assert len(rules) == 1
    for values, message in fields:
        given_record = record(values, message=message)
        assert compiled.match(given_record) == naive.match(given_record)


def test_both_agree_when_caches_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_classes, "MAX_COLUMN_VALUES", 4)
    monkeypatch.setattr(value_classes, "MAX_CLASSES", 6)
    monkeypatch.setattr(compiled_matcher, "MAX_DECISIONS", 3)
    monkeypatch.setattr(compiled_matcher, "MAX_ROUTES", 2)
    texts = [rule_text(f"a: {{f|contains: '{n}'}}\nb: {{g: '{n}'}}\ncondition: a and not b") for n in range(8)]
    rules = loaded(*texts).rules
    naive, compiled = NaiveMatcher(rules), CompiledMatcher(rules)
    for number in range(300):
        given_record = record(
            {"f": str(number), "g": str(number % 9)}, logsource=Logsource("test", "", f"service{number % 5}")
        )
        assert compiled.match(given_record) == naive.match(given_record)
