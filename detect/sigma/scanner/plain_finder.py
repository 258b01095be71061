"""One literal after the other: for a few literals the quickest way, and the reference for the other engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detect.sigma.scanner.finder import AnchoredLiteral
from detect.sigma.syntax import Regex


class PlainFinder:
    """Finds by `in`, `startswith` and `endswith`."""

    def __init__(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> None:
        self._caseless = caseless
        self._within = [(literal.data, literal.number) for literal in literals if literal.anchor == "within"]
        self._starts = [(literal.data, literal.number) for literal in literals if literal.anchor == "start"]
        self._ends = [(literal.data, literal.number) for literal in literals if literal.anchor == "end"]

    def find(self, data: bytes | bytearray) -> list[int]:
        """See LiteralFinder."""
        if self._caseless:
            data = data.lower()
        found = [number for literal, number in self._within if literal in data]
        if self._starts:
            found += [number for literal, number in self._starts if data.startswith(literal)]
        if self._ends:
            found += [number for literal, number in self._ends if data.endswith(literal)]
        return found

    def dump(self) -> bytes:
        """Nothing: it is built at once."""
        return b""


class PlainEngine:
    """Needs nothing but Python."""

    @property
    def name(self) -> str:
        """See FinderEngine."""
        return "plain"

    def build(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> PlainFinder:
        """See FinderEngine."""
        return PlainFinder(literals, caseless=caseless)

    def build_patterns(self, patterns: Mapping[int, Regex]) -> None:
        """It knows literals only."""
        return

    def restore(self, literals: Sequence[AnchoredLiteral], dump: bytes) -> None:
        """Nothing is ever dumped."""
        return
