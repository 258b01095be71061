"""Sigma: rules and correlations over normalised records. pySigma reads the rules; matching and state are our own."""

from __future__ import annotations

from detect.sigma.compiled import CompiledMatcher
from detect.sigma.detector import SigmaDetector
from detect.sigma.load import load_rule_set, source_digest
from detect.sigma.match import RuleFault, RuleMatch, RuleMatcher
from detect.sigma.naive import NaiveMatcher
from detect.sigma.pack import BadPack, pack_bytes, starter_pack, unpack
from detect.sigma.rule import RuleError, RuleSet, SigmaCorrelation, SigmaRule

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
