"""Sigma: rules and correlations over normalised records. pySigma reads the rules; matching and state are our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detect.sigma.compiled import CompiledMatcher
from detect.sigma.detector import SigmaDetector
from detect.sigma.match import RuleFault, RuleMatch, RuleMatcher
from detect.sigma.naive import NaiveMatcher
from detect.sigma.pack import BadPack, pack_bytes, starter_pack, unpack
from detect.sigma.rule import RuleError, RuleSet, SigmaCorrelation, SigmaRule

if TYPE_CHECKING:
    from detect.sigma.load import load_rule_set, source_digest

__all__ = [
    "BadPack",
    "CompiledMatcher",
    "NaiveMatcher",
    "RuleError",
    "RuleFault",
    "RuleMatch",
    "RuleMatcher",
    "RuleSet",
    "SigmaCorrelation",
    "SigmaDetector",
    "SigmaRule",
    "load_rule_set",
    "pack_bytes",
    "source_digest",
    "starter_pack",
    "unpack",
]

_PARSING = frozenset({"load_rule_set", "source_digest"})


def __getattr__(name: str) -> Any:
    """Parsing needs pySigma, which detectors that have their rules compiled never import."""
    if name not in _PARSING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detect.sigma import load

    return getattr(load, name)
