"""Which engine finds literals here, and finders shared by all who seek the same."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from functools import cache

from detect.sigma.scanner.aho_corasick_finder import AhoCorasickEngine
from detect.sigma.scanner.finder import AnchoredLiteral, FinderEngine, LiteralFinder
from detect.sigma.scanner.plain_finder import PlainFinder
from detect.sigma.syntax import Regex

FEW_LITERALS = 12
"""So few are sought one by one, which is quicker than to call an engine."""
FEWEST_PATTERNS = 3


@cache
def usable_engine() -> FinderEngine:
    """Hyperscan where its wheel and the processor allow it, else Aho-Corasick."""
    try:
        module = importlib.import_module("detect.sigma.scanner.hyperscan_finder")
    except ImportError:  # there is no wheel for this platform
        return AhoCorasickEngine()
    try:
        engine: FinderEngine = module.HyperscanEngine()
    except module.hyperscan.error:  # the processor lacks the instructions
        return AhoCorasickEngine()
    return engine


class FinderShelf:
    """Makes finders, each list of literals once; from dumps of an earlier run where there are any."""

    def __init__(self, engine: FinderEngine | None = None, dumps: Mapping[bytes, bytes] | None = None) -> None:
        """`dumps` as `dumps()` gave them, of the same engine: those of another are refused one by one."""
        self._engine = engine or usable_engine()
        self._given = dict(dumps or {})
        self._finders: dict[bytes, LiteralFinder] = {}

    @property
    def engine(self) -> FinderEngine:
        """The engine that finds more than a few literals."""
        return self._engine

    def finder(self, literals: Sequence[AnchoredLiteral], *, caseless: bool = False) -> LiteralFinder:
        """A finder of these literals, which may be in use elsewhere too."""
        if len(literals) <= FEW_LITERALS:
            return PlainFinder(literals, caseless=caseless)
        key = _key(literals, caseless)
        known = self._finders.get(key)
        if known is None:
            dump = self._given.pop(key, None)
            known = None if dump is None else self._engine.restore(literals, dump)
            self._finders[key] = known = known or self._build(literals, caseless)
        return known

    def _build(self, literals: Sequence[AnchoredLiteral], caseless: bool) -> LiteralFinder:
        try:
            return self._engine.build(literals, caseless=caseless)
        except Exception:  # an engine's own limits (length, number, memory) are no reason not to find
            return AhoCorasickEngine().build(literals, caseless=caseless)

    def pattern_finder(self, patterns: Mapping[int, Regex]) -> tuple[LiteralFinder, frozenset[int]] | None:
        """A finder of plain patterns, and which of them it knows; None where there is none to be had."""
        if len(patterns) < FEWEST_PATTERNS:
            return None
        key = _key(
            [AnchoredLiteral(number, repr(regex).encode(), "within") for number, regex in patterns.items()], True
        )
        known = self._finders.get(key)
        if known is None:
            dump = self._given.pop(key, None)
            known = None if dump is None else self._engine.restore((), dump)
            try:
                known = known or self._engine.build_patterns(patterns)
            except Exception:  # a pattern that is too large spoils the others' company only
                willing = {number: regex for number, regex in patterns.items() if self._takes(number, regex)}
                return self.pattern_finder(willing) if len(willing) < len(patterns) else None
            if known is None:
                return None
            self._finders[key] = known
        return known, frozenset(patterns)

    def _takes(self, number: int, regex: Regex) -> bool:
        try:
            return self._engine.build_patterns({number: regex}) is not None
        except Exception:  # as above
            return False

    def dumps(self) -> dict[bytes, bytes]:
        """All finders that are worth keeping, and those given that nobody has asked for yet."""
        # A matcher in another thread may be adding to it.
        made = {key: finder.dump() for key, finder in dict(self._finders).items()}
        return {**self._given, **{key: dump for key, dump in made.items() if dump}}


def _key(literals: Sequence[AnchoredLiteral], caseless: bool) -> bytes:
    digest = hashlib.blake2b(b"caseless" if caseless else b"", digest_size=16)
    for number, data, anchor in literals:
        digest.update(b"%d %s %d " % (number, anchor.encode(), len(data)) + data)
    return digest.digest()
