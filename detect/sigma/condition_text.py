"""What a condition says, as a tree: `not` binds closest, then `and`, then `or` (Sigma 2.1, condition).

The same grammar serves rules, filters and correlations. The words `and`, `or`, `not`, `of` may be in any case, for the
specification itself writes `AND`. Reading takes time linear to the text, and nesting is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from detect.sigma.syntax import Pattern
from detect.sigma.values import pattern_holds

MAX_NESTING = 50
MAX_WORDS = 20_000
_WORD = re.compile(r"\(|\)|[^\s()]+")
_RESERVED = frozenset({"and", "or", "not"})


class BadCondition(ValueError):
    """A condition that cannot be read; the text says where it went wrong."""


class Named(NamedTuple):
    """The truth of one detection, or of one rule in a correlation."""

    name: str


class Choice(NamedTuple):
    """`1 of pattern` or, with `every`, `all of pattern`; the pattern `them` means all."""

    every: bool
    pattern: str


class Negation(NamedTuple):
    """True when the part is not."""

    part: Tree


class Conjunction(NamedTuple):
    """True when all parts are."""

    parts: tuple[Tree, ...]


class Disjunction(NamedTuple):
    """True when some part is."""

    parts: tuple[Tree, ...]


Tree = Named | Choice | Negation | Conjunction | Disjunction


def parsed_condition(text: str) -> Tree:
    """The tree of a condition. Raises BadCondition."""
    if "|" in text:
        raise BadCondition("the pipe syntax in conditions was replaced by Sigma correlations")
    words = _WORD.findall(text)
    if not words:
        raise BadCondition("the condition is empty")
    if len(words) > MAX_WORDS:
        raise BadCondition(f"the condition has more than {MAX_WORDS} words")
    reader = _Reader(words)
    tree = reader.disjunction(0)
    if reader.next_word is not None:
        raise BadCondition(f"the condition cannot be read from {reader.next_word!r} on: an operator is missing")
    return tree


def named_by(choice: Choice, names: Iterable[str]) -> list[str]:
    """The names that a choice means. Names that begin with `_` are only meant by patterns that do. Raises BadCondition
    when there is none."""
    wanted = "*" if choice.pattern.lower() == "them" else choice.pattern
    pattern = Pattern(tuple((piece,) if piece else () for piece in re.sub(r"\*+", "*", wanted).split("*")))
    hidden = wanted.startswith("_")
    found = [name for name in names if (hidden or not name.startswith("_")) and pattern_holds(pattern, name)]
    if not found:
        raise BadCondition(f"'{'all' if choice.every else '1'} of {choice.pattern}' names nothing that is there")
    return found


class _Reader:
    """Reads words from left to right; `depth` is how deep the parentheses and negations are."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._at = 0

    @property
    def next_word(self) -> str | None:
        return self._words[self._at] if self._at < len(self._words) else None

    def _takes(self, word: str) -> bool:
        following = self.next_word
        if following is None or following.lower() != word:
            return False
        self._at += 1
        return True

    def disjunction(self, depth: int) -> Tree:
        parts = [self._conjunction(depth)]
        while self._takes("or"):
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else Disjunction(tuple(parts))

    def _conjunction(self, depth: int) -> Tree:
        parts = [self._negation(depth)]
        while self._takes("and"):
            parts.append(self._negation(depth))
        return parts[0] if len(parts) == 1 else Conjunction(tuple(parts))

    def _negation(self, depth: int) -> Tree:
        if depth > MAX_NESTING:
            raise BadCondition(f"the condition is nested more than {MAX_NESTING} deep")
        return Negation(self._negation(depth + 1)) if self._takes("not") else self._operand(depth)

    def _operand(self, depth: int) -> Tree:
        if self._takes("("):
            tree = self.disjunction(depth + 1)
            if not self._takes(")"):
                raise BadCondition("the condition lacks a closing parenthesis")
            return tree
        word = self.next_word
        if word is None or word == ")" or word.lower() in _RESERVED:
            raise BadCondition(f"the condition lacks an operand before {'its end' if word is None else repr(word)}")
        self._at += 1
        return self._choice(word) if self._takes("of") else Named(word)

    def _choice(self, quantifier: str) -> Choice:
        if quantifier.lower() not in ("1", "any", "all"):
            raise BadCondition(f"'{quantifier} of' is not known: write `1 of`, `any of` or `all of`")
        pattern = self.next_word
        if pattern is None or pattern in "()":
            raise BadCondition(f"'{quantifier} of' lacks the names it is about")
        self._at += 1
        return Choice(quantifier.lower() == "all", pattern)
