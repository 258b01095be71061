"""Texts of which one must be in every text that a regular expression is found in: a cheap look before the engine's.

Read from the pattern by a small parser of RE2's syntax that knows literals, groups, alternatives and repetition.
Whatever it does not know stands for any text, or, where that is not safe, gives the pattern no texts at all: what is
found is then only slower to find. Texts are ASCII in lower case and are sought in `folded` text, which serves patterns
with and without the flag i.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

from detect.sigma.syntax import Regex

_MOST_TEXTS = 24
_COUNTED = re.compile(r"\{(\d+)(,\d*)?\}")
_GROUP = re.compile(r"\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?")
_FLAGS_ALONE = re.compile(r"\(\?[a-zA-Z-]+\)")
_CLASS = re.compile(r"\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)
_UNKNOWN_ESCAPES = "CQExpP01234567"
_NOTHING = frozenset({""})


def folded(text: str) -> str:
    """The text as required texts are sought in it: under the flag i, RE2 takes the long s for an s."""
    return text.lower().replace("\u017f", "s")


def required_texts(regex: Regex) -> frozenset[str]:
    """One of these is in the folded text wherever the pattern is found; none are known when it is empty."""
    reader = _Reader(regex.pattern)
    try:
        whole = reader.alternatives()
    except _NotUnderstood:
        return frozenset()
    if reader.position < len(regex.pattern):
        return frozenset()
    return whole.required or frozenset()


class _NotUnderstood(Exception):
    """The pattern holds something whose meaning is not known here."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a pattern: the only texts that it matches, where they are few, and of which texts one is in a match."""

    only: frozenset[str] | None
    required: frozenset[str] | None


_ANYTHING = _Part(None, None)
_EMPTY = _Part(_NOTHING, None)


class _Reader:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.position = 0

    def alternatives(self) -> _Part:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        only = _union([branch.only for branch in branches])
        return _Part(only, _union([branch.required for branch in branches]))

    def _sequence(self) -> _Part:
        run: frozenset[str] = _NOTHING
        found: list[frozenset[str]] = []
        unbroken = True
        while self.position < len(self._pattern) and self._pattern[self.position] not in "|)":
            part = self._repeated()
            joined = None if part.only is None else _joined(run, part.only)
            if joined is not None:
                run = joined
                continue
            unbroken = False
            found.append(run)
            if part.only is None:
                run = _NOTHING
                if part.required is not None:
                    found.append(part.required)
            else:
                run = part.only
        found.append(run)
        return _Part(run if unbroken else None, _best(found))

    def _repeated(self) -> _Part:
        part = self._single()
        least, exactly_once = self._count()
        if exactly_once:
            return part
        return _Part(None, part.required) if least else _ANYTHING

    def _count(self) -> tuple[int, bool]:
        counted = _COUNTED.match(self._pattern, self.position)
        if counted:
            self.position = counted.end()
            least = int(counted[1])
            once = least == 1 and counted[2] is None
        elif self._take("*") or self._take("?"):
            least, once = 0, False
        elif self._take("+"):
            least, once = 1, False
        else:
            return 1, True
        self._take("?")
        return least, once

    def _single(self) -> _Part:
        pattern, start = self._pattern, self.position
        if flags := _FLAGS_ALONE.match(pattern, start):
            self.position = flags.end()
            return _EMPTY
        if group := _GROUP.match(pattern, start):
            return self._group(group.end())
        if pattern[start] == "[":
            chosen = _CLASS.match(pattern, start)
            if chosen is None:
                raise _NotUnderstood
            self.position = chosen.end()
            return _ANYTHING
        self.position += 1
        if pattern[start] == "\\":
            return self._escape()
        if pattern[start] in ".^$":
            return _ANYTHING
        if pattern[start] in "*+?":
            raise _NotUnderstood
        return _literal(pattern[start])

    def _group(self, inside: int) -> _Part:
        self.position = inside
        if self._pattern.startswith("?", inside):
            raise _NotUnderstood
        part = self.alternatives()
        if not self._take(")"):
            raise _NotUnderstood
        return part

    def _escape(self) -> _Part:
        if self.position >= len(self._pattern) or self._pattern[self.position] in _UNKNOWN_ESCAPES:
            raise _NotUnderstood
        character = self._pattern[self.position]
        self.position += 1
        return _ANYTHING if character.isalnum() else _literal(character)

    def _take(self, expected: str) -> bool:
        taken = self._pattern.startswith(expected, self.position)
        self.position += taken
        return taken


def _literal(character: str) -> _Part:
    if not character.isascii():
        return _ANYTHING
    text = frozenset({character.lower()})
    return _Part(text, text)


def _joined(heads: frozenset[str], tails: frozenset[str]) -> frozenset[str] | None:
    if len(heads) * len(tails) > _MOST_TEXTS:
        return None
    return frozenset(head + tail for head, tail in product(heads, tails))


def _union(sets: list[frozenset[str] | None]) -> frozenset[str] | None:
    known = [texts for texts in sets if texts is not None]
    whole = frozenset().union(*known)
    return whole if len(known) == len(sets) and len(whole) <= _MOST_TEXTS else None


def _best(found: list[frozenset[str]]) -> frozenset[str] | None:
    """The texts that say most: long ones, and of those few. None where every set holds the empty text."""
    useful = [texts for texts in found if "" not in texts]
    return max(useful, key=lambda texts: (min(map(len, texts)), -len(texts), sorted(texts)), default=None)
