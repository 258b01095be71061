"""Expressions and values made to be awkward: the compiled matcher says of each exactly what the reference says."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from detect.sigma import CompiledMatcher, NaiveMatcher, SigmaRule
from detect.sigma.syntax import And, Atom, Expression, FieldReference, Not, Or, Pattern, Regex, TimePart
from tests.unit.sigma.records import loaded, record, rule_text

# Letters whose lower case is another length, depends on its neighbours, or is another script's; what UTF-8 cannot hold.
PIECES = [
    *("a", "AB", "abcd", "ABCD", "K", "K", "k", "İ", "i̇", "ß", "ẞ", "SS", "Σ", "σ", "ς", "ΑΣ", "ſ"),
    *("\ud800", "\udfff", "\x00", "é", "É", "\u202e", "\U0001f600", "\\", "*", "?", " ", "\n", "-", "–"),
    *("5", "5.0", "05", "0x10", "+5", "1e3", "true", "False", "10.0.0.1", "::ffff:10.0.0.1", "2026-11-22T09:14:03Z"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
LONG = st.builds(lambda text, times, tail: text * times + tail, TEXTS, st.sampled_from([300, 1025, 5000, 33000]), TEXTS)
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 1.0, -1, 5, 5.0, 5.5, 1e300, float("inf"), float("nan"), 2**64, -(2**70), b"ab\xff"])
    | TEXTS
)
VALUES = st.recursive(
    SCALARS | LONG,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=5,
)
FIELDS = st.sampled_from(["f", "g", "message"])
LITERALS = TEXTS.map(str.lower)


@st.composite
def patterns(draw: st.DrawFn, cased: bool) -> Pattern:
    piece = (TEXTS if cased else LITERALS).filter(bool) | st.integers(1, 2)
    segments = draw(st.lists(st.lists(piece, max_size=2).map(tuple), min_size=1, max_size=4))
    inner = [segment for segment in segments[1:-1] if segment]
    return Pattern((segments[0], *inner, *segments[1:][-1:]))


@st.composite
def atoms(draw: st.DrawFn) -> Atom:
    field = draw(FIELDS | st.none())
    kinds = ["equals", "contains", "startswith", "endswith", "pattern", "regex"]
    kinds += ["cidr", "number", "gt", "lte", "present", "fieldref", "timepart"] if field is not None else []
    kind: Any = draw(st.sampled_from(kinds))
    cased = draw(st.booleans())
    match kind:
        case "equals" | "contains" | "startswith" | "endswith":
            return Atom(field, kind, draw(TEXTS if cased else LITERALS), cased)
        case "pattern":
            return Atom(field, kind, draw(patterns(cased)), cased)
        case "regex":
            expressions = ["a.?b", "^A", "b$", "(?i)ß", "[^a]K", "\\bk\\b", "x*", "(a|AB)+c?", "\\x00", "."]
            return Atom(field, kind, Regex(draw(st.sampled_from(expressions)), draw(st.sampled_from(["", "i", "ims"]))))
        case "cidr":
            return Atom(field, kind, draw(st.sampled_from(["10.0.0.0/8", "10.0.0.1/32", "::/0", "fe80::/10"])))
        case "number" | "gt" | "lte":
            return Atom(field, kind, draw(st.sampled_from([0, 1, 5, -1, 5.5, 16, 1000, 2**64])))
        case "fieldref":
            mode: Any = draw(st.sampled_from(["equals", "contains", "startswith", "endswith"]))
            return Atom(field, kind, FieldReference(draw(FIELDS), mode))
        case "timepart":
            return Atom(field, kind, TimePart("hour", draw(st.sampled_from(["equals", "gte"])), 9))
        case _:
            return Atom(field, "present")


EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    atoms(),
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, min_size=1, max_size=3).map(tuple).map(And)
        | st.lists(inner, min_size=1, max_size=3).map(tuple).map(Or)
    ),
    max_leaves=6,
)
EVENTS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(["f", "g", "h", "message"]), VALUES, max_size=4), TEXTS),
    min_size=1,
    max_size=5,
)
(TEMPLATE,) = loaded(rule_text("a: {f: x}\ncondition: a")).rules


def rule(number: int, condition: Expression) -> SigmaRule:
    fields = {name: getattr(TEMPLATE, name) for name in TEMPLATE.__dataclass_fields__}
    return SigmaRule(**{**fields, "id": f"rule {number}", "condition": condition})


@settings(max_examples=100, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=6), EVENTS)
@example(
    [Atom("f", "equals", "1"), Atom("f", "number", 1), Atom("f", "equals", "true")],
    [({"f": v}, "") for v in (1, True, 1.0, "1", [True, 1])],
)
@example([Atom("f", "contains", "i̇")], [({"f": "İ"}, ""), ({"f": "\u0130stanbul"}, "")])
@example([Atom("f", "endswith", "σ"), Atom("f", "endswith", "ς")], [({"f": "ΑΣ"}, ""), ({"f": "ΑΣ x"}, "")])
@example([Atom(None, "contains", "k")], [({}, "\u212a"), ({"h": ["\u212a", {"x": "\ud800k"}]}, "")])
@example([Atom("f", "contains", "\ud800")], [({"f": "a\ud800b"}, "")])
@example([Atom("f", "pattern", Pattern(((1,),)))], [({"f": "\U0001f600"}, ""), ({"f": "é"}, ""), ({"f": ""}, "")])
@example([Not(Atom("f", "present"))], [({"f": []}, ""), ({"f": [None, {}]}, ""), ({"f": [[]]}, ""), ({}, "")])
def test_both_agree_on_awkward_values(conditions: list[Expression], events: list[tuple[dict[str, Any], str]]) -> None:
    rules = [rule(number, condition) for number, condition in enumerate(conditions)]
    naive, compiled = NaiveMatcher(rules), CompiledMatcher(rules)
    # Twice, so that the second time everything comes out of the caches.
    for fields, message in [*events, *events]:
        given_record = record(fields, message=message)
        assert compiled.match(given_record) == naive.match(given_record)
    assert naive.take_faults() == compiled.take_faults() == []


@settings(max_examples=30, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=4), st.lists(EVENTS, min_size=2, max_size=3))
def test_what_came_before_makes_no_difference(
    conditions: list[Expression], streams: list[list[tuple[dict[str, Any], str]]]
) -> None:
    rules = [rule(number, condition) for number, condition in enumerate(conditions)]
    together = CompiledMatcher(rules)
    for fields, message in (event for stream in streams for event in stream):
        given_record = record(fields, message=message)
        assert together.match(given_record) == CompiledMatcher(rules).match(given_record)
