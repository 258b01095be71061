"""Which atoms of a field are true of a text: all literals sought at once, by Hyperscan, Aho-Corasick or one by one.

`FieldScanner.truths(text)` is all that matching knows of it. Beneath, a `LiteralFinder` says which literals a text
holds; every engine gives the same answer, so one suite of tests runs on all.
"""

from __future__ import annotations

from detect.sigma.scanner.engine import FinderShelf, usable_engine
from detect.sigma.scanner.field_scanner import FieldScanner, NumberedAtoms
from detect.sigma.scanner.finder import Anchor, AnchoredLiteral, FinderEngine, LiteralFinder
from detect.sigma.scanner.keyword_scanner import KeywordScanner

__all__ = [
    "Anchor",
    "AnchoredLiteral",
    "FieldScanner",
    "FinderEngine",
    "FinderShelf",
    "KeywordScanner",
    "LiteralFinder",
    "NumberedAtoms",
    "usable_engine",
]
