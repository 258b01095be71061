"""Hyperscan: all literals of a list in one pass with vector instructions, each reported once, anchors included.

Texts reach it in lower case, so its patterns need no flag for case (its own knows ASCII only), and as bytes, where a
literal of UTF-8 is found exactly where it stands in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import hyperscan

from detect.sigma.scanner.finder import AnchoredLiteral, LiteralFinder
from detect.sigma.syntax import Regex

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ ")
# Numbers from here on stand for anchored literals; Hyperscan's are of 32 bits.
_FIRST_ANCHORED = 1 << 31
_SHORT_END = 4
"""Bytes of an end (`.exe`) that stands in so many texts anywhere that Hyperscan is told where it must stand."""


def _expression(data: bytes) -> bytes:
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"\\x%02x" % byte for byte in data)


def _expression_of(literal: AnchoredLiteral) -> bytes:
    return _expression(literal.data) + (rb"\z" if _is_short_end(literal) else b"")


def _is_short_end(literal: AnchoredLiteral) -> bool:
    return literal.anchor == "end" and len(literal.data) <= _SHORT_END


def _note(number: int, _start: int, _end: int, _flags: int, add: Callable[[int], object]) -> None:
    add(number)


class HyperscanFinder:
    """A compiled database with memory to scan in.

    It looks for most literals anywhere; whether those with an anchor stand where they must is seen afterwards. Anchors
    of Hyperscan's own for all of them would make compiling ten times as long, and scanning no quicker.
    """

    def __init__(self, database: hyperscan.Database, literals: Sequence[AnchoredLiteral]) -> None:
        self._database = database
        self._scan: Any = database.scan  # its stub knows neither bytearray nor a context of any type
        self._scratch = hyperscan.Scratch(database)
        self._anchored = {name: literal for name, literal in _named(literals) if name >= _FIRST_ANCHORED}
        self._names = frozenset(self._anchored)

    def find(self, data: bytes | bytearray) -> list[int]:
        """See LiteralFinder."""
        found: list[int] = []
        self._scan(data, _note, 0, found.append, self._scratch)
        if not self._names or self._names.isdisjoint(found):
            return found
        numbers = []
        for name in found:
            if name < _FIRST_ANCHORED:
                numbers.append(name)
                continue
            number, literal, anchor = self._anchored[name]
            if data.startswith(literal) if anchor == "start" else data.endswith(literal):
                numbers.append(number)
        return numbers

    def find_text(self, text: str) -> list[int]:
        """See LiteralFinder."""
        return self.find(text.encode("utf-8", "surrogatepass"))

    def dump(self) -> bytes:
        """The database; it holds the version and the processor's features that it was made for."""
        return bytes(hyperscan.dumpb(self._database))


def _flags_of(regex: Regex) -> int:
    caseless = hyperscan.HS_FLAG_CASELESS if "i" in regex.flags else 0
    # A letter beyond ASCII is one character in a class or before a `?`, not its bytes.
    letters = 0 if regex.pattern.isascii() else hyperscan.HS_FLAG_UTF8
    return int(caseless | letters | (hyperscan.HS_FLAG_DOTALL if "s" in regex.flags else 0))


def _named(literals: Sequence[AnchoredLiteral]) -> Iterator[tuple[int, AnchoredLiteral]]:
    """Each literal with the number that Hyperscan knows it by."""
    for place, literal in enumerate(literals):
        is_told = literal.anchor == "within" or _is_short_end(literal)
        yield literal.number if is_told else _FIRST_ANCHORED + place, literal


class HyperscanEngine:
    """Raises hyperscan.error when it is made on a processor that Hyperscan does not know."""

    def __init__(self) -> None:
        tried = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        tried.compile(expressions=[b"a"], ids=[0], elements=1, flags=hyperscan.HS_FLAG_SINGLEMATCH)
        self._name = f"hyperscan {version('hyperscan')} {tried.info()!s}"

    @property
    def name(self) -> str:
        """See FinderEngine."""
        return self._name

    def build(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> LiteralFinder:
        """See FinderEngine. Raises hyperscan.error for what Hyperscan cannot compile."""
        named = list(_named(literals))
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        database.compile(
            expressions=[_expression_of(literal) for _, literal in named],
            ids=[name for name, _ in named],
            elements=len(named),
            flags=hyperscan.HS_FLAG_SINGLEMATCH | (hyperscan.HS_FLAG_CASELESS if caseless else 0),
        )
        return HyperscanFinder(database, literals)

    def build_patterns(self, patterns: Mapping[int, Regex]) -> LiteralFinder:
        """A finder of the numbers of plain patterns (plain_pattern.py). Raises hyperscan.error for what it refuses."""
        flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_ALLOWEMPTY
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        database.compile(
            expressions=[regex.pattern.encode() for regex in patterns.values()],
            ids=list(patterns),
            elements=len(patterns),
            flags=[flags | _flags_of(regex) for regex in patterns.values()],
        )
        return HyperscanFinder(database, ())

    def restore(self, literals: Sequence[AnchoredLiteral], dump: bytes) -> LiteralFinder | None:
        """See FinderEngine. Hyperscan itself refuses another version's, another processor's and damaged databases."""
        try:
            return HyperscanFinder(hyperscan.loadb(dump, hyperscan.HS_MODE_BLOCK), literals)
        except hyperscan.error:
            return None
