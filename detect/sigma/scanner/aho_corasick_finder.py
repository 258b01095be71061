"""The Aho-Corasick automaton of ahocorasick-rs: runs on every processor, builds fast, and finds every occurrence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ahocorasick_rs

from detect.sigma.scanner.finder import Anchor, AnchoredLiteral
from detect.sigma.syntax import Regex

# A table for every state is twice as quick as a list of its edges, and takes some fifty times the literals' memory.
_MAX_TABLE_BYTES = 500_000
_COMPACT_TABLE_BYTES = 2000


class AhoCorasickFinder:
    """The automaton reports occurrences; where they stand is looked at afterwards."""

    def __init__(
        self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False, table_bytes: int = _MAX_TABLE_BYTES
    ) -> None:
        """Literals of so many bytes together get a table."""
        self._caseless = caseless
        places: dict[bytes, list[tuple[Anchor, int]]] = {}
        for literal in literals:
            places.setdefault(literal.data, []).append((literal.anchor, literal.number))
        self._places = [tuple(found) for found in places.values()]
        kinds = ahocorasick_rs.Implementation
        kind = kinds.DFA if sum(map(len, places)) <= table_bytes else kinds.ContiguousNFA
        self._automaton = ahocorasick_rs.BytesAhoCorasick(list(places), implementation=kind)

    def find(self, data: bytes | bytearray) -> list[int]:
        """See LiteralFinder."""
        if self._caseless:
            data = data.lower()
        length = len(data)
        found: list[int] = []
        for index, start, end in self._automaton.find_matches_as_indexes(data, overlapping=True):
            for anchor, number in self._places[index]:
                if anchor == "within" or (start == 0 if anchor == "start" else end == length):
                    found.append(number)
        return found

    def find_text(self, text: str) -> list[int]:
        """See LiteralFinder."""
        return self.find(text.encode("utf-8", "surrogatepass"))

    def dump(self) -> bytes:
        """Nothing: the automaton of ten thousand literals is built in a fifth of a second."""
        return b""


class AhoCorasickEngine:
    """For processors and platforms without Hyperscan, and for short lists that come and go."""

    def __init__(self, *, compact: bool = False) -> None:
        """`compact`: only short lists get a table."""
        self._table_bytes = _COMPACT_TABLE_BYTES if compact else _MAX_TABLE_BYTES

    @property
    def name(self) -> str:
        """See FinderEngine."""
        return "aho-corasick"

    def build(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> AhoCorasickFinder:
        """See FinderEngine."""
        return AhoCorasickFinder(literals, caseless=caseless, table_bytes=self._table_bytes)

    def build_patterns(self, patterns: Mapping[int, Regex]) -> None:
        """It knows literals only."""
        return

    def restore(self, literals: Sequence[AnchoredLiteral], dump: bytes) -> None:
        """Nothing is ever dumped."""
        return
