"""Value classes: for one field, which atoms are true of a value, found by index and remembered for values seen before.

A class is the set of the field's atoms that are true of a value; equal sets are one class with one number. Values
repeat in logs, so most are answered by one dictionary lookup. Caches have two generations of bounded size: hostile
unique values cost time, never memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from detect.sigma.regex_literals import folded, required_texts
from detect.sigma.syntax import Atom, Pattern, Regex
from detect.sigma.values import atom_holds, number_of, text_of, texts_of

GRAM = 4
FEW_LITERALS = 64
MAX_CACHED_VALUES = 20_000
MAX_CACHED_CHARACTERS = 2_000_000
MAX_VALUE_CHARACTERS = 1024
MAX_CLASSES = 20_000


class LiteralIndex:
    """Finds the atoms that ignore case and whose literals may be in a text, by one rare gram of each literal."""

    def __init__(self, atoms: Sequence[tuple[int, Atom]]) -> None:
        """`atoms` with their numbers; each has a literal text that every value it is true of contains."""
        pieces = [(number, _longest_literal(atom)) for number, atom in atoms]
        frequency: dict[str, int] = {}
        for _, piece in pieces:
            for gram in _grams(piece):
                frequency[gram] = frequency.get(gram, 0) + 1
        self._by_gram: dict[str, list[tuple[int, str]]] = {}
        # Looking for few literals one by one is quicker than cutting the text into grams.
        few = len({piece for _, piece in pieces}) <= FEW_LITERALS
        self._short = [(number, piece) for number, piece in pieces if few or len(piece) < GRAM]
        for number, piece in pieces:
            if not few and len(piece) >= GRAM:
                rarest = min(sorted(_grams(piece)), key=frequency.__getitem__)
                self._by_gram.setdefault(rarest, []).append((number, piece))
        self._keys = frozenset(self._by_gram)

    def candidates(self, lowered: str) -> list[int]:
        """Numbers of the atoms whose literal is in the text."""
        found = [number for number, piece in self._short if piece in lowered]
        if self._keys and len(lowered) >= GRAM:
            for gram in self._keys & _grams(lowered):
                found.extend(number for number, piece in self._by_gram[gram] if piece in lowered)
        return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=24).digest()


def _grams(text: str) -> set[str]:
    return {text[start : start + GRAM] for start in range(len(text) - GRAM + 1)}


def _longest_literal(atom: Atom) -> str:
    literal = atom.literal
    if isinstance(literal, Pattern):
        pieces = [piece for segment in literal.segments for piece in segment if isinstance(piece, str)]
        return max(pieces, key=len, default="")
    return literal if isinstance(literal, str) else ""


class FieldClasses:
    """The classes of one field's values. `missing` is the class of a value that has no text."""

    def __init__(self, atoms: Sequence[tuple[int, Atom]]) -> None:
        self.forget()
        self._always = [number for number, atom in atoms if atom.operator == "present"]
        self._equal: dict[str, list[int]] = {}
        self._equal_number: dict[float, list[int]] = {}
        self._starts: dict[int, dict[str, list[int]]] = {}
        self._ends: dict[int, dict[str, list[int]]] = {}
        within, self._others = [], []
        self._sought: list[tuple[int, Atom, frozenset[str]]] = []
        for number, atom in atoms:
            if not self._index(number, atom):
                if not atom.cased and atom.operator in ("contains", "pattern") and _longest_literal(atom):
                    within.append((number, atom))
                elif isinstance(atom.literal, Regex) and (texts := required_texts(atom.literal)):
                    self._sought.append((number, atom, texts))
                elif atom.operator != "present":
                    self._others.append((number, atom))
        self._within = LiteralIndex(within)
        self._patterns = {number: atom for number, atom in within if atom.operator == "pattern"}

    missing = 0

    def forget(self) -> None:
        """Drop all classes and remembered values. Class numbers given out before mean nothing afterwards."""
        self._sets: list[frozenset[int]] = [frozenset()]
        self._numbers: dict[frozenset[int], int] = {frozenset(): 0}
        self._young: dict[str | bytes, int] = {}
        self._old: dict[str | bytes, int] = {}
        self._young_characters = 0

    def _index(self, number: int, atom: Atom) -> bool:
        literal = atom.literal
        if atom.operator == "number" and isinstance(literal, int | float):
            self._equal_number.setdefault(literal, []).append(number)
        elif atom.cased or not isinstance(literal, str):
            return False
        elif atom.operator == "equals":
            self._equal.setdefault(literal, []).append(number)
        elif atom.operator == "startswith":
            self._starts.setdefault(len(literal), {}).setdefault(literal, []).append(number)
        elif atom.operator == "endswith":
            self._ends.setdefault(len(literal), {}).setdefault(literal, []).append(number)
        else:
            return False
        return True

    def class_of(self, value: Any) -> int:
        """The class of a field value that is not None."""
        if isinstance(value, list | tuple | dict):
            truths: frozenset[int] = frozenset()
            for text in texts_of(value):
                truths |= self._sets[self.class_of_text(text)]
            return self._intern(truths)
        return self.class_of_text(text_of(value))

    def class_of_text(self, text: str) -> int:
        """The class of a text. Two generations: what was not seen during a whole generation is forgotten."""
        # A long value is remembered by its digest, so that a cache of script blocks stays small.
        key = text if len(text) <= MAX_VALUE_CHARACTERS else _digest(text)
        known = self._young.get(key)
        if known is not None:
            return known
        known = self._old.get(key)
        if known is None:
            known = self._intern(self._true_atoms(text))
        if len(self._young) >= MAX_CACHED_VALUES or self._young_characters >= MAX_CACHED_CHARACTERS:
            self._old, self._young, self._young_characters = self._young, {}, 0
        self._young[key] = known
        self._young_characters += len(key)
        return known

    def truths(self, number: int) -> frozenset[int]:
        """The atoms that are true of a class."""
        return self._sets[number]

    @property
    def is_full(self) -> bool:
        """Whether hostile values have made so many classes that it is time to forget."""
        return len(self._sets) >= MAX_CLASSES

    def _intern(self, truths: frozenset[int]) -> int:
        number = self._numbers.get(truths)
        if number is None:
            number = self._numbers[truths] = len(self._sets)
            self._sets.append(truths)
        return number

    def _true_atoms(self, text: str) -> frozenset[int]:
        lowered = text.lower()
        found = [*self._always, *self._equal.get(lowered, ())]
        if self._equal_number:
            value = number_of(text)
            if value is not None:
                found.extend(self._equal_number.get(value, ()))
        for length, literals in self._starts.items():
            found.extend(literals.get(lowered[:length], ()))
        for length, literals in self._ends.items():
            if length <= len(lowered):
                found.extend(literals.get(lowered[len(lowered) - length :], ()))
        patterns = self._patterns
        for number in self._within.candidates(lowered):
            pattern = patterns.get(number)
            if pattern is None or atom_holds(pattern, text):
                found.append(number)
        if self._sought:
            seen = folded(text)
            for number, atom, texts in self._sought:
                if any(required in seen for required in texts) and atom_holds(atom, text):
                    found.append(number)
        found.extend(number for number, atom in self._others if atom_holds(atom, text))
        return frozenset(found)
