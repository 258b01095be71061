"""The contract of engines that find literals, and of the scanners above them: one suite over all engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.otlp_values import any_value, attribute
from detect.batch import Batch
from detect.normalize import default_normalizer
from detect.otlp import decode
from detect.sigma.regex import BadRegex, compiled
from detect.sigma.regex import found as found_by_re2
from detect.sigma.scanner import (
    Anchor,
    AnchoredLiteral,
    FieldScanner,
    FinderEngine,
    FinderShelf,
    KeywordScanner,
    usable_engine,
)
from detect.sigma.scanner.aho_corasick_finder import AhoCorasickEngine
from detect.sigma.scanner.engine import FEW_LITERALS
from detect.sigma.scanner.plain_finder import PlainEngine, PlainFinder
from detect.sigma.scanner.plain_pattern import is_plain, is_plain_text, shortest
from detect.sigma.syntax import Atom, Pattern, Regex
from detect.sigma.values import atom_holds, searchable_texts
from tests.unit.sigma.records import record

ENGINES: dict[str, FinderEngine] = {"plain": PlainEngine(), "aho-corasick": AhoCorasickEngine()}
if usable_engine().name.startswith("hyperscan"):
    ENGINES["hyperscan"] = usable_engine()

FRAGMENTS = ["a", "Ab", "abcd", "ABCD", "bcdA", "é", "É", "Σ", "ΑΣ", "İ", "ß", "K", "ſ", "5", ".", "\x00", "\n", "\\"]
ODD = ["", " ", "\ud800", "\udc00x", "x\x00y", "::ffff:10.0.0.1", "10.1.2.3", "10.1.2.3:80", "-5", "5.0", "1e3", "😀"]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join) | st.sampled_from(ODD)
literals = texts.filter(bool)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> FinderEngine:
    return ENGINES[request.param]


@pytest.fixture(autouse=True)
def every_list_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists too are given to the engine that is tested."""
    monkeypatch.setattr("detect.sigma.scanner.engine.FEW_LITERALS", 0)


# --- finders -------------------------------------------------------------------------------------------------------


def found(engine: FinderEngine, sought: list[AnchoredLiteral], data: bytes, *, caseless: bool = False) -> set[int]:
    return set(engine.build(sought, caseless=caseless).find(data))


def test_a_literal_is_found_where_its_anchor_wants_it(engine: FinderEngine) -> None:
    sought = [
        AnchoredLiteral(1, b"ab", "within"),
        AnchoredLiteral(2, b"ab", "start"),
        AnchoredLiteral(3, b"ab", "end"),
    ]
    assert found(engine, sought, b"ab") == {1, 2, 3}
    assert found(engine, sought, b"xabx") == {1}
    assert found(engine, sought, b"abx") == {1, 2}
    assert found(engine, sought, b"xab") == {1, 3}
    assert found(engine, sought, b"xab\n") == {1}
    assert found(engine, sought, b"abxab") == {1, 2, 3}
    assert found(engine, sought, b"AB") == set()
    assert found(engine, sought, b"") == set()


def test_literals_within_literals_are_all_found(engine: FinderEngine) -> None:
    words = [b"a", b"ab", b"abc", b"bc", b"c", b"bcd"]
    sought = [AnchoredLiteral(number, word, "within") for number, word in enumerate(words)]
    assert found(engine, sought, b"xabcx") == {0, 1, 2, 3, 4}


def test_any_bytes_can_be_sought(engine: FinderEngine) -> None:
    words = [b"\x00", b"\xff\xfe", b".*", b"(", b"\\", b"\xed\xa0\x80", b"\n\r", bytes(range(256))]
    sought = [AnchoredLiteral(number, word, "within") for number, word in enumerate(words)]
    for number, word in enumerate(words):
        assert number in found(engine, sought, b"<" + word + b">")
    assert found(engine, sought, b"plain") == set()


def test_several_literals_may_have_one_number(engine: FinderEngine) -> None:
    sought = [AnchoredLiteral(7, b"one", "within"), AnchoredLiteral(7, b"two", "end")]
    assert found(engine, sought, b"one") == found(engine, sought, b"two") == {7}
    assert found(engine, sought, b"two.") == set()


def test_without_regard_to_the_case_of_ascii_letters(engine: FinderEngine) -> None:
    sought = [AnchoredLiteral(1, b"mimi[katz", "within"), AnchoredLiteral(2, b"\xc3\xa9", "within")]
    assert found(engine, sought, b"xMimi[KATZx", caseless=True) == {1}
    assert found(engine, sought, "É".encode(), caseless=True) == set()


def test_a_dump_finds_the_same_and_a_damaged_one_is_refused(engine: FinderEngine) -> None:
    sought = [AnchoredLiteral(n, b"word%d" % n, "end" if n % 2 else "within") for n in range(FEW_LITERALS + 5)]
    dump = engine.build(sought).dump()
    restored = engine.restore(sought, dump) if dump else engine.build(sought)
    assert restored is not None
    assert set(restored.find(b"word1 word2 word3")) == {2, 3}
    assert engine.restore(sought, b"") is None
    assert engine.restore(sought, dump[: len(dump) // 2]) is None


@given(st.data())
def test_every_engine_finds_what_is_there(data: st.DataObject) -> None:
    words = data.draw(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=8))
    anchors: st.SearchStrategy[Anchor] = st.sampled_from(["within", "start", "end"])
    sought = [AnchoredLiteral(number, word, data.draw(anchors)) for number, word in enumerate(words)]
    text = b"".join(data.draw(st.lists(st.sampled_from([*words, b"-"]) | st.binary(max_size=2), max_size=5)))
    expected = set(PlainEngine().build(sought).find(text))
    for engine in ENGINES.values():
        assert set(engine.build(sought).find(text)) == expected


def test_a_shelf_builds_each_list_once_and_from_dumps_where_it_can(engine: FinderEngine) -> None:
    sought = [AnchoredLiteral(n, b"word%d" % n, "within") for n in range(20)]
    shelf = FinderShelf(engine)
    assert shelf.finder(sought) is shelf.finder(list(sought))
    again = FinderShelf(engine, shelf.dumps())
    assert set(again.finder(sought).find(b"word7")) == {7}
    wrong = FinderShelf(engine, dict.fromkeys(shelf.dumps(), b"damaged"))
    assert set(wrong.finder(sought).find(b"word7")) == {7}


# --- regular expressions -------------------------------------------------------------------------------------------

PATTERN_PIECES = [
    "a", "b", "A", "é", "[ab]", "[^a]", "[-/–]", ".", "\\d", "\\w", "\\W", "\\s", "\\S", "\\b", "\\.", "\\x41", "\\t",
    "(?:a|b)", "(ab)?", "a{2}", "b{1,3}?", "[ab]{2,}", "a*", "b+?", "^", "$", "|", "(?i)", "(?s:.)", "(?P<n>a)", "[]a]",
]  # fmt: skip
PATTERN_TEXTS = ["a", "b", "A", "B", "é", "–", "K", "ſ", " ", "\n", "\t", ".", "1", "_", "\x0b", "\x0c", "\r"]


@given(
    st.lists(st.sampled_from(PATTERN_PIECES), min_size=1, max_size=5).map("".join),
    st.sampled_from(["", "i", "s", "is"]),
    st.lists(st.sampled_from(PATTERN_TEXTS), max_size=6).map("".join),
)
@example("a$", "", "a\n")
@example("[^a]", "", "\n")
@example("(ab)?$", "", "")
def test_what_is_plain_is_found_wherever_re2_finds_it(pattern: str, flags: str, text: str) -> None:
    regex = Regex(pattern, flags)
    try:
        compiled(regex)
    except BadRegex:
        return
    assert len(text) >= shortest(regex) or not found_by_re2(regex, text)
    if not is_plain(regex) or not is_plain_text(text) or not found_by_re2(regex, text):
        return
    for engine in ENGINES.values():
        known = FinderShelf(engine).pattern_finder(dict.fromkeys((7, 8, 9), regex))
        assert known is None or 7 not in known[1] or 7 in known[0].find(text.encode())


@pytest.mark.parametrize(
    "pattern",
    ["(?m)^a", "\\pL", "\\Qa.b\\E", "a{,3}", "[[:alpha:]]", "\\Ca", "a\\vb", "(?U)a+", ".{65}", "[a\\v]", "\u212a(?i)"],
)
def test_what_engines_read_differently_is_not_plain(pattern: str) -> None:
    assert not is_plain(Regex(pattern, "m" if pattern == "(?m)^a" else ""))


@pytest.mark.parametrize(
    ("pattern", "least"),
    [(".{1000,}", 1000), ("(.){200,}", 200), ("a{3}|b", 0), ("(a{9})?", 0), ("a{5}b{7,9}", 7), ("[{9}]", 0), ("a", 0)],
)
def test_a_pattern_of_long_repetitions_needs_a_long_text(pattern: str, least: int) -> None:
    assert shortest(Regex(pattern, "")) == least


def test_a_pattern_that_the_engine_refuses_spoils_no_other() -> None:
    class Choosy(PlainEngine):
        def build_patterns(self, patterns: Mapping[int, Regex]) -> PlainFinder:  # type: ignore[override]  # it can
            if 2 in patterns:
                raise ValueError("too large")
            return PlainFinder([AnchoredLiteral(number, b"x", "within") for number in patterns])

    patterns = {number: Regex(f"x{number}", "") for number in range(6)}
    known = FinderShelf(Choosy()).pattern_finder(patterns)
    assert known is not None and known[1] == {0, 1, 3, 4, 5}
    assert FinderShelf(PlainEngine()).pattern_finder(patterns) is None


# --- scanners ------------------------------------------------------------------------------------------------------


@st.composite
def string_atoms(draw: st.DrawFn, field: str | None = "f") -> Atom:
    operator = draw(st.sampled_from(["equals", "contains", "startswith", "endswith"]))
    cased = draw(st.booleans())
    literal = draw(literals)
    return Atom(field, operator, literal if cased else literal.lower(), cased)  # type: ignore[arg-type]  # see above


@st.composite
def pattern_atoms(draw: st.DrawFn, field: str | None = "f") -> Atom:
    cased = draw(st.booleans())
    words = literals if cased else literals.map(str.lower)
    pieces = st.lists(words | st.integers(1, 2), max_size=2).map(tuple)
    return Atom(field, "pattern", Pattern(tuple(draw(st.lists(pieces, min_size=1, max_size=4)))), cased)


def other_atoms(field: str | None = "f") -> st.SearchStrategy[Atom]:
    return st.sampled_from(
        [
            Atom(field, "present"),
            Atom(field, "contains", ""),
            Atom(field, "equals", ""),
            Atom(field, "number", 5),
            Atom(field, "gte", 5),
            Atom(field, "lt", 0.5),
            Atom(field, "regex", Regex("b.d", "i")),
            Atom(field, "regex", Regex("^A", "")),
            Atom(field, "regex", Regex("s.?k", "i")),
            Atom(field, "regex", Regex("(?i)abcd$", "")),
            Atom(field, "cidr", "10.0.0.0/8"),
            Atom(field, "cidr", "::/1"),
            Atom(field, "contains", "x" * 600),
            Atom(field, "endswith", "y" + "x" * 600),
            Atom(field, "pattern", Pattern((("z",), ("y" + "x" * 600,)))),
            Atom(field, "regex", Regex("[a-d]{3}", "")),
            Atom(field, "regex", Regex("(?i)^x+$", "s")),
            Atom(field, "regex", Regex("a.{2,}", "")),
            Atom(field, "regex", Regex(".{600,}", "")),
        ]
    )


values = texts | st.sampled_from(["ABCDEF" * 300, "x" * 600, "y" + "x" * 601, "zy" + "x" * 600, "SK", "ſK"])


@pytest.mark.parametrize("name", list(ENGINES))
@given(
    st.lists(string_atoms() | pattern_atoms() | other_atoms(), min_size=1, max_size=12), st.lists(values, max_size=6)
)
@example([Atom("f", "contains", "abcd")], ["xABCDx"])
@example([Atom("f", "startswith", "ab"), Atom("f", "endswith", "ab")], ["ABx", "xAB", "ab", "AB\n"])
@example([Atom("f", "regex", Regex("k1", "i")), Atom("f", "regex", Regex("s1", "i"))], ["K1", "ſ1"])
@example([Atom("f", "equals", "ss"), Atom("f", "contains", "i")], ["ß", "İ"])
@example([Atom("f", "pattern", Pattern((("a", 1, "b"), ())))], ["aéb", "aéé"])
def test_a_scanner_says_of_every_text_what_is_true(name: str, atoms: list[Atom], given_values: list[str]) -> None:
    numbered = dict(enumerate(atoms))
    scanner = FieldScanner(numbered, FinderShelf(ENGINES[name]))
    for value in given_values:
        assert scanner.truths(value) == {number for number, atom in numbered.items() if atom_holds(atom, value)}


field_values = (
    values | st.integers(-10, 10) | st.booleans() | st.none() | st.sampled_from([5.0, 4.5, 2**70]) | st.floats()
)


@pytest.mark.parametrize("name", list(ENGINES))
@given(
    st.lists(string_atoms(None) | pattern_atoms(None) | other_atoms(None), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from("fgh"), field_values | st.lists(field_values, max_size=2), max_size=3),
    values,
)
@example([Atom(None, "contains", "tru"), Atom(None, "contains", "5")], {"f": True, "g": 55}, "")
@example([Atom(None, "contains", "-inf"), Atom(None, "contains", "-i")], {"f": float("-inf")}, "")
@example([Atom(None, "contains", "ας")], {"f": "ΑΣ", "g": "x"}, "")
@example([Atom(None, "contains", "kiwi")], {"f": "KİWI", "g": "Kiwi"}, "")
@example([Atom(None, "contains", "ab")], {"f": "a", "g": "b"}, "")
@example([Atom(None, "contains", "f")], {"f": "x"}, "")
def test_keywords_are_sought_in_every_text(name: str, atoms: list[Atom], fields: dict[str, object], line: str) -> None:
    numbered = dict(enumerate(atoms))
    scanner = KeywordScanner(numbered, FinderShelf(ENGINES[name]))
    given_record = record(fields, message=line)  # type: ignore[arg-type]  # field values of every kind
    expected = {
        number
        for number, atom in numbered.items()
        if any(atom_holds(atom, text) for text in searchable_texts(given_record))
    }
    assert scanner.truths(given_record) == expected


def escaped(text: str) -> str:
    """JSON of a text with every character as an escape."""
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'


json_words = st.sampled_from(
    ["mimi::katz", "MIMI::KATZ", "x\\perfc.dat", 'a"needle"', "needle", "{needle", "\u212aiwi", "kiwi", "1000.0,", ""]
)
json_values = json_words | st.sampled_from([5, True, None, 1e3]) | st.lists(json_words, max_size=2)
JSON_KEYWORDS = [
    Atom(None, "contains", "mimi::katz"),
    Atom(None, "contains", "x\\perfc.dat"),
    Atom(None, "contains", '"needle'),
    Atom(None, "contains", "kiwi"),
    Atom(None, "pattern", Pattern(((), ("needle",), ("x",), ()))),
    Atom(None, "regex", Regex("wolf|needle", "i")),
]


@given(
    st.dictionaries(
        st.sampled_from("fgh"), json_values | st.dictionaries(st.sampled_from("ab"), json_values, max_size=2)
    ),
    st.booleans(),
    st.sampled_from([{}, {"log.file.path": "needle"}, {"note": "needle"}, {"f": "needle"}]),
    st.booleans(),
)
@example({"f": "x\\perfc.dat", "g": {"a": "x\\perfc.dat"}}, False, {}, False)
@example({"f": "mimi::katz"}, True, {}, True)
@example({"f": "KIW\u0130", "g": "\u212aIWI"}, True, {}, False)
@example({}, False, {"note": "needle"}, True)
def test_keywords_of_an_event_that_was_sent_as_json(
    fields: dict[str, Any], escape: bool, attributes: dict[str, Any], is_read: bool
) -> None:
    event = {"EventID": 1, "Channel": "Security", **fields}
    parts = (
        f"{json.dumps(name)}: "
        + (escaped(value) if escape and isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in event.items()
    )
    body = "{" + " , ".join(parts) + "}"
    normalizer, plain = default_normalizer(), record({})
    given = {"body": json.loads(body), "sent": body} if is_read else {"body": body}
    sent = msgspec.structs.replace(plain.record, attributes=attributes, **given)
    views = [normalizer.normalize(sent) for _ in range(2)]
    says_more = "note" in attributes or ("f" in attributes and "f" not in event)
    assert views[1].sent == ("" if says_more else body)
    numbered = dict(enumerate(JSON_KEYWORDS))
    for engine in ENGINES.values():
        scanner = KeywordScanner(numbered, FinderShelf(engine))
        for view in views:
            sought = list(searchable_texts(view))
            expected = {number for number, atom in numbered.items() if any(atom_holds(atom, text) for text in sought)}
            assert scanner.truths(view) == expected


map_values = json_words | st.sampled_from([5, True, None, 1e3, b"mimi::katz", b"\xffkiwi", b"\xfbZI\x9e"])


@given(
    st.dictionaries(
        st.sampled_from("fgh"),
        map_values | st.lists(map_values, max_size=2) | st.dictionaries(st.sampled_from("ab"), map_values, max_size=2),
    ),
    st.sampled_from([{}, {"log.file.path": "needle"}, {"note": "needle"}]),
)
@example({"f": "mimi::katz", "g": ["KIWI"]}, {})
@example({"f": {"a": None}, "g": "x"}, {})
@example({"f": {"a": b"\xfbZI\x9e"}}, {})
@example({"f": [{"a": None}]}, {})
@example({}, {"note": "needle"})
def test_keywords_of_an_event_that_was_sent_as_a_map(fields: dict[str, Any], attributes: dict[str, str]) -> None:
    event = {"EventID": 1, "Channel": "Security", **fields}
    request = ExportLogsServiceRequest()
    sent = request.resource_logs.add().scope_logs.add().log_records.add(body=any_value(event))
    sent.attributes.extend(attribute(key, value) for key, value in attributes.items())
    [decoded] = decode(Batch(1, 0, "otlp_protobuf", request.SerializeToString()))
    normalizer = default_normalizer()
    views = [normalizer.normalize(decoded) for _ in range(2)]
    listed = [item for value in fields.values() if isinstance(value, list) for item in value]
    holds_map = any(isinstance(value, dict) for value in [*fields.values(), *listed])
    assert bool(views[1].sent) == (not holds_map and "note" not in attributes)
    # To a rule, a map inside is JSON, with its null and its bytes in base64.
    numbered = dict(enumerate([*JSON_KEYWORDS, Atom(None, "contains", "null"), Atom(None, "contains", "+1pjng")]))
    for engine in ENGINES.values():
        scanner = KeywordScanner(numbered, FinderShelf(engine))
        for view in views:
            sought = list(searchable_texts(view))
            expected = {number for number, atom in numbered.items() if any(atom_holds(atom, text) for text in sought)}
            assert scanner.truths(view) == expected
