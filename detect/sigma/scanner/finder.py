"""The contract of engines that find many literals in a text at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from detect.sigma.syntax import Regex

Anchor = Literal["within", "start", "end"]
"""Where a literal must stand: anywhere, at the beginning, or at the end of the text."""


class AnchoredLiteral(NamedTuple):
    """`data` (never empty) must stand where `anchor` says for `number` to be found; literals may share a number."""

    number: int
    data: bytes
    anchor: Anchor


class LiteralFinder(Protocol):
    """The literals of one list, ready to be found. Not for use by two threads at once."""

    def find(self, data: bytes | bytearray) -> list[int]:
        """The numbers of all literals that stand in `data` where they must, in any order, repeats possible."""
        ...

    def find_text(self, text: str) -> list[int]:
        """The same of a text's UTF-8 (lone surrogates as three bytes each)."""
        ...

    def dump(self) -> bytes:
        """What the engine's `restore` reads; empty where building anew is as quick."""
        ...


class FinderEngine(Protocol):
    """A way to find literals. `name` tells dumps of different engines and versions apart.

    With `caseless` the literals are in lower case, stand anywhere, and are found whatever the case of ASCII letters.
    """

    @property
    def name(self) -> str:
        """The engine with everything that its dumps depend on."""
        ...

    def build(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> LiteralFinder:
        """A finder of these literals."""
        ...

    def build_patterns(self, patterns: Mapping[int, Regex]) -> LiteralFinder | None:
        """A finder of plain patterns (plain_pattern.py) by their numbers; None where the engine knows literals only.

        May find more than RE2 does, never less. Any error is one of a pattern that the engine refuses.
        """
        ...

    def restore(self, literals: Sequence[AnchoredLiteral], dump: bytes) -> LiteralFinder | None:
        """The finder that was dumped, built of the same literals (none, for patterns); None when it cannot be used."""
        ...
