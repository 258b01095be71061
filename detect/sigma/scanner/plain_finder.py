"""One literal after the other: for a few literals the quickest way, and the reference for the other engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from detect.sigma.scanner.finder import Anchor, AnchoredLiteral
from detect.sigma.syntax import Regex

Kind = TypeVar("Kind", str, bytes)


class _Sought(Generic[Kind]):
    """Literals, all of them texts or all of them bytes, by where they must stand."""

    __slots__ = ("ends", "middles", "starts")

    def __init__(self, literals: Sequence[tuple[Kind, int, Anchor]]) -> None:
        self.middles: list[tuple[Kind, int]] = [
            (literal, number) for literal, number, anchor in literals if anchor == "within"
        ]
        self.starts: list[tuple[Kind, int]] = [
            (literal, number) for literal, number, anchor in literals if anchor == "start"
        ]
        self.ends: list[tuple[Kind, int]] = [
            (literal, number) for literal, number, anchor in literals if anchor == "end"
        ]

    def within(self, data: Any) -> list[int]:
        """The numbers of those that stand in the data, which is of their kind."""
        found = [number for literal, number in self.middles if literal in data]
        if self.starts:
            found += [number for literal, number in self.starts if data.startswith(literal)]
        if self.ends:
            found += [number for literal, number in self.ends if data.endswith(literal)]
        return found


class PlainFinder:
    """Finds by `in`, `startswith` and `endswith`; in texts as texts, which is several times as quick as in bytes."""

    def __init__(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> None:
        self._caseless = caseless
        self._bytes = _Sought([(literal.data, literal.number, literal.anchor) for literal in literals])
        self._texts: _Sought[str] | None = None
        # A literal that was cut short may end within a letter.
        with suppress(UnicodeDecodeError):
            decoded = [(data.decode("utf-8", "surrogatepass"), number, anchor) for number, data, anchor in literals]
            self._texts = _Sought(decoded)

    def find(self, data: bytes | bytearray) -> list[int]:
        """See LiteralFinder."""
        return self._bytes.within(data.lower() if self._caseless else data)

    def find_text(self, text: str) -> list[int]:
        """See LiteralFinder."""
        if self._texts is None or self._caseless:
            return self.find(text.encode("utf-8", "surrogatepass"))
        return self._texts.within(text)

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
