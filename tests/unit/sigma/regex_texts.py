"""Texts that a regular expression is found in, made from its parse tree; whether one really is, the caller asks RE2."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from re import _parser as parser  # type: ignore[attr-defined]  # the only parser of this syntax that gives a tree
from typing import Any

from detect.sigma.regex import found
from detect.sigma.syntax import Regex

MOST_TRIES = 40
_CHARACTERS = string.ascii_lowercase + string.digits + " -_./\\:;,=+()[]{}'\"|&%$#@!?*<>~^`" + string.ascii_uppercase
_CATEGORIES = {
    "CATEGORY_DIGIT": re.compile(r"[0-9]"),
    "CATEGORY_NOT_DIGIT": re.compile(r"[^0-9]"),
    "CATEGORY_SPACE": re.compile(r"[ \t\n\r\f]"),
    "CATEGORY_NOT_SPACE": re.compile(r"[^ \t\n\r\f]"),
    "CATEGORY_WORD": re.compile(r"[0-9A-Za-z_]"),
    "CATEGORY_NOT_WORD": re.compile(r"[^0-9A-Za-z_]"),
}


def texts_for(regex: Regex) -> Iterator[str]:
    """A few texts that the pattern is found in, short ones first; none where the pattern cannot be understood."""
    try:
        tree = parser.parse(regex.pattern)
    except re.error:
        return
    seen = set()
    for seed in range(MOST_TRIES):
        text = _Writer(random.Random(seed), generous=seed > 2).sequence(tree)  # noqa: S311 - a test's choices
        if text not in seen and found(regex, text):
            seen.add(text)
            yield text


class _Writer:
    """Writes one text; what it chooses where the pattern leaves a choice is up to the random numbers."""

    def __init__(self, chance: random.Random, generous: bool) -> None:
        self._chance = chance
        self._generous = generous
        self._groups: dict[int, str] = {}

    def sequence(self, tree: Any) -> str:
        return "".join(self._part(str(kind), value) for kind, value in tree)

    def _part(self, kind: str, value: Any) -> str:
        match kind:
            case "LITERAL":
                return chr(value)
            case "NOT_LITERAL":
                return "x" if value != ord("x") else "y"
            case "ANY":
                return "x"
            case "IN":
                return self._of_class(value)
            case "BRANCH":
                return self.sequence(self._chance.choice(value[1]))
            case "SUBPATTERN":
                text = self.sequence(value[3])
                self._groups[value[0]] = text
                return text
            case "MAX_REPEAT" | "MIN_REPEAT":
                low, high, inner = value
                times = low + (self._chance.randint(0, 2) if self._generous else 0)
                return "".join(self.sequence(inner) for _ in range(min(times, int(high))))
            case "CATEGORY":
                return self._of_class([(kind, value)])
            case _:
                return ""

    def _of_class(self, items: Any) -> str:
        negated = str(items[0][0]) == "NEGATE"
        wanted = [char for char in _CHARACTERS if _in_class(char, items) is not negated]
        if not wanted:
            kind, value = items[-1]
            return chr(value if str(kind) == "LITERAL" else value[0]) if str(kind) in ("LITERAL", "RANGE") else "x"
        return self._chance.choice(wanted) if self._generous else wanted[0]


def _in_class(char: str, items: Any) -> bool:
    for kind, value in items:
        match str(kind):
            case "LITERAL" if value == ord(char):
                return True
            case "RANGE" if value[0] <= ord(char) <= value[1]:
                return True
            case "CATEGORY" if _CATEGORIES[str(value)].match(char):
                return True
    return False
