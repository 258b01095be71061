"""Value classes: whatever the index and the caches do, a class holds exactly the atoms that are true of the value."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from detect.sigma.classes import FieldClasses
from detect.sigma.syntax import Atom, Pattern, Regex
from detect.sigma.values import atom_holds

FRAGMENTS = ["a", "Ab", "abcd", "ABCD", "bcdA", "é", "Σ", "İ", "5", "."]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join)


@st.composite
def string_atoms(draw: st.DrawFn) -> Atom:
    operator = draw(st.sampled_from(["equals", "contains", "startswith", "endswith"]))
    cased = draw(st.booleans())
    literal = draw(texts.filter(bool))
    return Atom("f", operator, literal if cased else literal.lower(), cased)


@st.composite
def pattern_atoms(draw: st.DrawFn) -> Atom:
    pieces = st.lists(texts.filter(bool).map(str.lower) | st.integers(1, 2), max_size=2).map(tuple)
    return Atom("f", "pattern", Pattern(tuple(draw(st.lists(pieces, min_size=2, max_size=4)))))


other_atoms = st.sampled_from(
    [
        Atom("f", "present"),
        Atom("f", "number", 5),
        Atom("f", "gte", 5),
        Atom("f", "regex", Regex("b.d", "i")),
        Atom("f", "regex", Regex("^A", "")),
        Atom("f", "cidr", "10.0.0.0/8"),
    ]
)
values = texts | st.sampled_from(["5", "5.0", "10.1.2.3", "abcd" * 600])


@given(st.lists(string_atoms() | pattern_atoms() | other_atoms, min_size=1, max_size=12), st.lists(values, max_size=8))
@example([Atom("f", "contains", "abcd")], ["xABCDx"])
@example([Atom("f", "contains", "abc"), Atom("f", "contains", "abcde")], ["xABCx", "abcdef"])
@example([Atom("f", "startswith", "ab"), Atom("f", "endswith", "ab")], ["ABx", "xAB", "ab"])
def test_a_class_holds_exactly_what_is_true(atoms: list[Atom], given_values: list[str]) -> None:
    numbered = list(enumerate(atoms))
    classes = FieldClasses(numbered)
    for value in [*given_values, *given_values]:
        expected = {number for number, atom in numbered if atom_holds(atom, value)}
        assert classes.truths(classes.class_of_text(value)) == expected


@given(st.lists(string_atoms(), min_size=1, max_size=6), st.lists(texts, max_size=4))
def test_a_list_has_the_truths_of_all_its_elements(atoms: list[Atom], elements: list[str]) -> None:
    numbered = list(enumerate(atoms))
    classes = FieldClasses(numbered)
    expected = {number for number, atom in numbered if any(atom_holds(atom, element) for element in elements)}
    assert classes.truths(classes.class_of(list(elements))) == expected
