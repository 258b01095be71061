"""What each modifier and value type of Sigma 2.1 means: an item, fields that meet it, fields that do not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sigma.rule import SigmaDetectionItem

from detect.sigma import NaiveMatcher, load_rule_set
from detect.sigma.literals import text_atom, value_expression
from tests.unit.sigma.records import loaded, record, rule_text

Fields = dict[str, Any]


def fires(item: str, fields: Fields, message: str = "") -> bool:
    rules = loaded(rule_text(f"selection:\n  {item}\ncondition: selection"))
    return bool(NaiveMatcher(rules.rules).match(record(fields, message=message)))


CASES: list[tuple[str, Fields, bool]] = [
    # plain values ignore case and compare the whole value
    ("f: Cmd.exe", {"f": "CMD.EXE"}, True),
    ("f: cmd.exe", {"f": "cmd.exe "}, False),
    ("f: ''", {"f": ""}, True),
    ("f: ''", {"f": "x"}, False),
    ("f: ''", {}, False),
    ("f|cased: Cmd", {"f": "Cmd"}, True),
    ("f|cased: Cmd", {"f": "cmd"}, False),
    ("f|contains|cased: Cmd", {"f": "a Cmd b"}, True),
    ("f|contains|cased: Cmd", {"f": "a cmd b"}, False),
    ("f|contains: mid", {"f": "a MID b"}, True),
    ("f|startswith: ab", {"f": "ABc"}, True),
    ("f|startswith: ab", {"f": "cab"}, False),
    ("f|endswith: '\\a.exe'", {"f": "C:\\A.EXE"}, True),
    ("f|endswith: a", {"f": "ab"}, False),
    # lists are alternatives unless `all`
    ("f: [a, b]", {"f": "B"}, True),
    ("f|contains|all: [a, b]", {"f": "xaxbx"}, True),
    ("f|contains|all: [a, b]", {"f": "xax"}, False),
    # wildcards
    ("f: a*c", {"f": "abbbc"}, True),
    ("f: a*c", {"f": "abbbcd"}, False),
    ("f: a?c", {"f": "abc"}, True),
    ("f: a?c", {"f": "ac"}, False),
    ("f: a?c", {"f": "aéc"}, True),
    ("f: '*a*b*c*'", {"f": "..a..b..c.."}, True),
    ("f: '*a*b*c*'", {"f": "..c..b..a.."}, False),
    ("f: '*ab*ba*'", {"f": "aba"}, False),
    ("f: 'ab*ba'", {"f": "aba"}, False),
    ("f: '*a??d*'", {"f": "xxa1 ab2d"}, True),
    ("f: '??'", {"f": "ab"}, True),
    ("f: '??'", {"f": "abc"}, False),
    ("f: '*'", {"f": ""}, True),
    ("f: '*'", {}, False),
    ("f: '*'", {"f": None}, False),
    # escapes
    (r"f: 'a\*b'", {"f": "a*b"}, True),
    (r"f: 'a\*b'", {"f": "axb"}, False),
    (r"f: 'a\?b'", {"f": "a?b"}, True),
    (r"f: 'C:\Temp\'", {"f": "c:\\temp\\"}, True),
    (r"f: 'a\\b'", {"f": "a\\b"}, True),
    (r"f: 'a\\*b'", {"f": "a\\xyb"}, True),
    # numbers, booleans, null
    ("f: 4688", {"f": 4688}, True),
    ("f: 4688", {"f": "4688"}, True),
    ("f: 4688", {"f": 4688.0}, True),
    ("f: 4688", {"f": "0x1250"}, False),
    ("f: '4688'", {"f": 4688}, True),
    ("f: '0x10'", {"f": "0X10"}, True),
    ("f: 1", {"f": True}, False),
    ("f: true", {"f": True}, True),
    ("f: true", {"f": "True"}, True),
    ("f: true", {"f": 1}, False),
    ("f: false", {"f": False}, True),
    ("f: null", {}, True),
    ("f: null", {"f": None}, True),
    ("f: null", {"f": []}, True),
    ("f: null", {"f": ""}, False),
    ("f: [null, a]", {}, True),
    # comparisons read decimal numbers only
    ("f|gt: 5", {"f": "6"}, True),
    ("f|gt: 5", {"f": 5}, False),
    ("f|gte: 5", {"f": 5}, True),
    ("f|lt: 5", {"f": "4.5"}, True),
    ("f|lt: 5", {"f": "1_0"}, False),
    ("f|lte: 5", {"f": "nan"}, False),
    ("f|gt: 5", {"f": "inf"}, False),
    ("f|gt: 0", {"f": True}, False),
    ("f|gt: 0x10", {"f": 17}, True),
    ("f|lte: -0.5", {"f": "-0.5"}, True),
    ("f|gt|all: [1, 5]", {"f": 3}, False),
    ("f|gt|all: [1, 5]", {"f": 6}, True),
    ("f|neq: 5", {"f": "5"}, False),
    ("f|neq: 5", {"f": 6}, True),
    ("f|gt: 5", {}, False),
    # neq is "not any", so it is true of a missing field
    ("f|neq: a", {"f": "b"}, True),
    ("f|neq: a", {"f": "A"}, False),
    ("f|neq: a", {}, True),
    ("f|neq: [a, b]", {"f": "b"}, False),
    # exists
    ("f|exists: true", {"f": ""}, True),
    ("f|exists: true", {}, False),
    ("f|exists: false", {}, True),
    ("f|exists: false", {"f": "x"}, False),
    # regular expressions search, and mind the case unless told otherwise
    ("f|re: b+c", {"f": "abbcd"}, True),
    ("f|re: B", {"f": "abc"}, False),
    ("f|re|i: B", {"f": "abc"}, True),
    ("f|re: a.c", {"f": "a\nc"}, False),
    ("f|re|s: a.c", {"f": "a\nc"}, True),
    ("f|re: ^b", {"f": "a\nb"}, False),
    ("f|re|m: ^b", {"f": "a\nb"}, True),
    ("f|re|i|s: A.C", {"f": "xa\ncx"}, True),
    ("f|re|ignorecase|multiline: ^B", {"f": "a\nb"}, True),
    ("f|re|contains: ^b", {"f": "bc"}, True),
    ("f|re: [x, ^b$]", {"f": "b"}, True),
    ("f|re|all: [a, b]", {"f": "ba"}, True),
    ("f|re|all: [a, b]", {"f": "b"}, False),
    ("f|re|neq: a", {"f": "b"}, True),
    # cidr
    ("f|cidr: 10.0.0.0/8", {"f": "10.1.2.3"}, True),
    ("f|cidr: 10.0.0.0/8", {"f": "11.1.2.3"}, False),
    ("f|cidr: 10.0.0.0/8", {"f": "::ffff:10.1.1.1"}, True),
    ("f|cidr: 10.0.0.0/8", {"f": "10.1.1.1:80"}, False),
    ("f|cidr: fe80::/10", {"f": "fe80::1"}, True),
    ("f|cidr: fe80::/10", {"f": "10.1.2.3"}, False),
    # encodings
    ("f|base64: foobar", {"f": "Zm9vYmFy"}, True),
    ("f|base64|contains: foobar", {"f": "xx Zm9vYmFy xx"}, True),
    ("f|base64offset|contains: /bin/sh", {"f": "echo YSAvYmluL3No | base64 -d"}, True),
    ("f|base64offset|contains: /bin/sh", {"f": "echo L2Jpbi9iYXNo"}, False),
    ("f|wide|base64offset|contains: ping", {"f": "cABpAG4AZwA="}, True),
    ("f|utf16|base64|contains: a", {"f": "//5hAA=="}, True),
    ("f|utf16le|base64|contains: a", {"f": "YQA="}, True),
    ("f|utf16be|base64|contains: a", {"f": "AGE="}, True),
    ("f|wide: ab", {"f": "a\0b\0"}, True),
    ("f|utf16be: ab", {"f": "\0a\0b"}, True),
    ("f|base64offset|contains: /bin/sh", {"f": "echo ysavymlul3no"}, True),
    ("f|base64offset|contains|cased: /bin/sh", {"f": "echo ysavymlul3no"}, False),
    ("f|base64offset|contains|cased: /bin/sh", {"f": "echo YSAvYmluL3No"}, True),
    # windash
    ("f|windash|contains: ' -enc '", {"f": "powershell /enc x"}, True),
    ("f|windash|contains: ' -enc '", {"f": "powershell –enc x"}, True),
    ("f|windash|contains: ' -enc '", {"f": "powershell +enc x"}, False),
    ("f|windash|contains: ' -enc '", {"f": "powershell \u2014enc x"}, True),
    ("f|windash|contains: ' -enc '", {"f": "powershell \u2015enc x"}, True),
    ("f|windash|contains: ' /enc '", {"f": "powershell -enc x"}, True),
    ("f|windash|contains|all: [' -a ', ' -b ']", {"f": "x /a -b y"}, True),
    ("f|windash|contains|all: [' -a ', ' -b ']", {"f": "x /a y"}, False),
    ("f|windash: a-b", {"f": "a/b"}, False),
    # fieldref
    ("f|fieldref: g", {"f": "User", "g": "user"}, True),
    ("f|fieldref: g", {"f": "a", "g": "b"}, False),
    ("f|fieldref: g", {"f": "a"}, False),
    ("f|fieldref|startswith: g", {"f": "abc", "g": "ab"}, True),
    ("f|fieldref|endswith: g", {"f": "abc", "g": "ab"}, False),
    ("f|fieldref|contains: g", {"f": "xaby", "g": "ab"}, True),
    ("f|fieldref|neq: g", {"f": "a", "g": "b"}, True),
    ("f|fieldref|neq: g", {"f": "a", "g": "A"}, False),
    ("f|fieldref|neq: g", {"f": "a"}, True),
    ("f|fieldref|cased: g", {"f": "User", "g": "user"}, False),
    ("f|cased|fieldref: g", {"f": "User", "g": "User"}, True),
    ("f|fieldref|endswith: g", {"f": "xAB", "g": "ab"}, True),
    ("f|fieldref: [g, h]", {"f": "a", "g": "b", "h": "a"}, True),
    ("f|fieldref|all: [g, h]", {"f": "a", "g": "b", "h": "a"}, False),
    # parts of a time, as the value writes them
    ("f|hour: 3", {"f": "2026-11-22T03:59:00Z"}, True),
    ("f|hour: 3", {"f": "2026-11-22 03:59:00.123"}, True),
    ("f|hour: 3", {"f": "2026-11-22T03:59:00+05:00"}, True),
    ("f|hour: 22", {"f": "2026-11-22T03:59:00+05:00"}, False),
    ("f|hour: 3", {"f": "22/Nov/2026:03:59:00 +0000"}, True),
    ("f|hour: 9", {"f": 1795338000}, True),
    ("f|hour: 9", {"f": "1795338000000"}, True),
    ("f|hour: 9", {"f": "1795338000.25"}, True),
    ("f|hour: 0", {"f": "2026-11-22"}, False),
    ("f|hour|gte: 22", {"f": "2026-11-22T23:00:00Z"}, True),
    ("f|hour|lt: 6", {"f": "2026-11-22T23:00:00Z"}, False),
    ("f|hour|neq: 5", {"f": "2026-11-22T23:00:00Z"}, True),
    ("f|hour|neq: 5", {}, True),
    ("f|hour: [1, 23]", {"f": "2026-11-22T23:00:00Z"}, True),
    ("f|minute: 59", {"f": "2026/11/22 03:59"}, True),
    ("f|day: 22", {"f": "2026-11-22"}, True),
    ("f|week: 47", {"f": "2026-11-22"}, True),
    ("f|week: 53", {"f": "2027-01-01"}, True),
    ("f|month: 11", {"f": "2026-11-22T00:00:00Z"}, True),
    ("f|year|gt: 2025", {"f": "2026-11-22T00:00:00Z"}, True),
    ("f|day: 31", {"f": "2026-02-31"}, False),
    ("f|month: 12", {"f": "2026-13-01"}, False),
    ("f|hour: 3", {"f": "at three o'clock"}, False),
    ("f|hour: 3", {"f": "2026-11-22T03:59:00Z" + " " * 50}, False),
    # a value that is a list: any element for a positive atom, each atom of its own for `all`
    ("f: b", {"f": ["a", "b"]}, True),
    ("f|contains|all: [a, b]", {"f": ["xa", "xb"]}, True),
    ("f|neq: b", {"f": ["a", "b"]}, False),
    ("f: 5", {"f": [4, 5]}, True),
    ("f: c", {"f": [["a"], {"k": "c"}]}, True),
]


@pytest.mark.parametrize(("item", "fields", "expected"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_item(item: str, fields: Fields, expected: bool) -> None:
    assert fires(item, fields) is expected


@pytest.mark.parametrize(
    ("detection", "fields", "message", "expected"),
    [
        ("keywords: [evil]", {"f": "an EVIL thing"}, "", True),
        ("keywords: [evil]", {}, "an evil line", True),
        ("keywords: [evil]", {"evil": "name of a field"}, "", False),
        ("keywords: ['ev*il']", {"f": "xevvvilx"}, "", True),
        ("keywords: [4625]", {"f": 4625}, "", True),
        (r"keywords: ['a\b']", {"f": "xa\\bx"}, "", True),
        ("keywords:\n  '|all': [one, two]", {"f": "one", "g": "two"}, "", True),
        ("keywords:\n  '|all': [one, two]", {"f": "one"}, "", False),
        ("keywords:\n  '|startswith': [one]", {"f": "one two"}, "", True),
        ("keywords:\n  '|startswith': [one]", {"f": "two one"}, "", False),
        ("keywords:\n  '|re': 'o.e'", {"f": "two one"}, "", True),
    ],
)
def test_keywords_are_sought_in_the_message_and_in_every_value(
    detection: str, fields: Fields, message: str, expected: bool
) -> None:
    rules = loaded(rule_text(f"{detection}\ncondition: keywords"))
    assert bool(NaiveMatcher(rules.rules).match(record(fields, message=message))) is expected


@pytest.mark.parametrize(
    ("condition", "fields", "expected"),
    [
        ("a and not b", {"x": "1"}, True),
        ("a and not b", {"x": "1", "y": "1"}, False),
        ("not b", {}, True),
        ("a or b", {"y": "1"}, True),
        ("not (a or b)", {"y": "1"}, False),
        ("1 of sel_*", {"s2": "1"}, True),
        ("all of sel_*", {"s2": "1"}, False),
        ("all of sel_*", {"s1": "1", "s2": "1"}, True),
        ("1 of them", {"s1": "1"}, True),
        ("any of them", {"s1": "1"}, True),
        ("1 of *_2", {"s2": "1"}, True),
        ("1 of s*_*", {"s1": "1"}, True),
        ("1 of them", {"h": "1"}, False),
        ("1 of _hid*", {"h": "1"}, True),
        ("_hidden", {"h": "1"}, True),
        ("a AND NOT b", {"x": "1"}, True),
        ("not a and b", {"y": "1"}, True),
        ("not not a", {"x": "1"}, True),
        ("a or b and sel_1", {"x": "1"}, True),
        ("(a or b) and sel_1", {"x": "1"}, False),
        ("((a or (b and (sel_1)))) and not (sel_2)", {"y": "1", "s1": "1"}, True),
        ("not(a or b)", {}, True),
        ("not 1 of sel_* and not all of them", {}, True),
        ("all of them", {"x": "1", "y": "1", "s1": "1", "s2": "1"}, True),
        ("a and not 1 of sel_*", {"x": "1", "s1": "1"}, False),
    ],
)
def test_conditions(condition: str, fields: Fields, expected: bool) -> None:
    detection = (
        f"a: {{x: 1}}\nb: {{y: 1}}\nsel_1: {{s1: 1}}\nsel_2: {{s2: 1}}\n_hidden: {{h: 1}}\ncondition: {condition}"
    )
    rules = loaded(rule_text(detection))
    assert bool(NaiveMatcher(rules.rules).match(record(fields))) is expected


def test_several_conditions_are_alternatives() -> None:
    rules = loaded(rule_text("a: {x: 1}\nb: {y: 1}\ncondition: [a, b]"))
    matcher = NaiveMatcher(rules.rules)
    assert matcher.match(record({"y": 1})) and matcher.match(record({"x": 1})) and not matcher.match(record({"z": 1}))


def test_a_list_of_maps_is_a_choice_of_maps() -> None:
    rules = loaded(rule_text("a:\n  - {x: 1, y: 1}\n  - {z: 1}\ncondition: a"))
    matcher = NaiveMatcher(rules.rules)
    assert matcher.match(record({"z": 1})) and matcher.match(record({"x": 1, "y": 1}))
    assert not matcher.match(record({"x": 1}))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("f|nosuch: x", "Unknown modifier 'nosuch'"),
        ("f|contains|contains: x", "given twice"),
        ("f|i: x", "'i' is a flag of `re`"),
        ("f|contains|re: x", "'re' must come before 'contains'"),
        ("f|re|windash: x", "'re' cannot stand together with 'windash'"),
        ("f|cidr|contains: 10.0.0.0/8", "'cidr' cannot stand together with 'contains'"),
        ("f|cidr: 10.0.0.1/8", "CIDR"),
        ("f|exists|neq: true", "'exists' cannot stand together"),
        ("f|exists: yes please", "the modifier for exists cannot take the value 'yes please'"),
        ("f|gt|lt: 5", "'gt' cannot stand together with 'lt'"),
        ("f|gt: many", "greaterthan"),
        ("f|gte: '5'", "cannot take the value '5'"),
        ("f|hour|day: 5", "'hour' cannot stand together with 'day'"),
        ("f|gte|hour: 5", "'gte' must come after the part of the time"),
        ("f|minute: 60", "between 0 and 59"),
        ("f|week|lt: 54", "between 1 and 53"),
        ("f|hour: noon", "cannot take the value 'noon'"),
        ("f|contains: 5", "the modifier for contains cannot take the value '5'"),
        ("f|contains|base64: x", "'base64' must come before contains"),
        ("f|base64|wide: x", "'wide' must come before base64"),
        ("f|base64|base64offset: x", "exclude each other"),
        ("f|wide|utf16be: x", "exclude each other"),
        ("f|wide|base64: \u20ac", "ascii"),
        ("f|base64offset: a*", "wildcards"),
        ("f|fieldref: a*", "wildcards"),
        ("f|fieldref|windash: g", "'fieldref' cannot stand together with 'windash'"),
        ("f|windash: '-a -b -c -d'", "windash"),
        ("'|exists': true", "'exists' needs a field"),
        ("'|gt': 5", "'gt' needs a field"),
        ("'|fieldref': g", "'fieldref' needs a field"),
        ("'|hour': 5", "'hour' needs a field"),
        ("f|contains: []", "has no values"),
        ("f: {g: x}", "Unsupported type"),
        ("f: [[x]]", "Unsupported type"),
        ("f: 2026-11-22", "Unsupported type"),
        ("f|re: 'a(?=b)'", "invalid perl operator"),
        ("f|re: '(a)\\1'", "invalid escape"),
    ],
)
def test_modifiers_that_mean_nothing_together_are_refused_in_words(item: str, reason: str) -> None:
    rules = load_rule_set([("x.yml", rule_text(f"selection:\n  {item}\ncondition: selection"))])
    assert rules.rules == ()
    assert reason.lower() in rules.errors[0].reason.lower()
    assert rules.errors[0].line == 5


@given(
    st.text(alphabet="ab\\*?\u03a3\u0391 ", max_size=12),
    st.sampled_from(["", "|contains", "|startswith", "|endswith", "|cased"]),
)
@example("\u0391\\\u03a3", "")
@example("a\\\\*", "|endswith")
def test_texts_are_read_as_pysigma_reads_them(text: str, modifiers: str) -> None:
    item = SigmaDetectionItem.from_mapping(f"f{modifiers}", text)
    (value,) = item.value
    names = tuple(modifiers.split("|")[1:])
    assert text_atom("f", names, text) == value_expression("f", value, names)


def test_case_is_folded_by_lower_on_both_sides() -> None:
    """Not casefold and not re.IGNORECASE: the Kelvin sign lowers to k, the sharp s stays itself."""
    assert fires("f: \u212a", {"f": "k"})
    assert fires("f|contains: STRASSE", {"f": "strasse"})
    assert not fires("f|contains: STRASSE", {"f": "stra\u00dfe"})


def test_lone_surrogates_and_nul_are_ordinary_characters() -> None:
    assert fires("f|contains: b", {"f": "a\ud800b\0"})
    assert fires("f|re: b", {"f": "a\ud800b"})


def test_many_wildcards_do_not_backtrack() -> None:
    """The same value takes a translation to `.*a.*a…` longer than any test may run."""
    assert not fires("f: '" + "*a" * 40 + "*b'", {"f": "a" * 20_000})


def test_message_falls_back_to_the_line_a_person_reads() -> None:
    assert fires("message|contains: evil", {}, message="an evil line")
    assert not fires("message|contains: evil", {"message": "a good line"}, message="an evil line")
