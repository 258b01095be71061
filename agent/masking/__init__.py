"""Masking that still correlates: what names a person or a machine becomes a keyed token before anything is stored."""

from __future__ import annotations

from agent.masking.key import MaskingKey, MaskingKeyError, read_key
from agent.masking.masker import Masker, RequestKind
from agent.masking.policy import MaskingPolicy, PolicyError, default_policy, parse_policy
from agent.masking.tally import MaskingTally, Undecodable

__all__ = [
    "Masker",
    "MaskingKey",
    "MaskingKeyError",
    "MaskingPolicy",
    "MaskingTally",
    "PolicyError",
    "RequestKind",
    "Undecodable",
    "default_policy",
    "parse_policy",
    "read_key",
]
