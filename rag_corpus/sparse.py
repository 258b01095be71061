"""Sparse vectors for keyword retrieval: hashed tokens weighted by saturated term frequency (the inverse document
frequency is the index's part, so it follows the documents that are really there)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"[a-z0-9][a-z0-9_.\-]*[a-z0-9]|[a-z0-9]")
_PART = re.compile(r"[a-z]+|[0-9]+")
_SATURATION = 1.2
_LENGTH_WEIGHT = 0.75
# Log lines repeat; what follows the first few hundred tokens adds nothing but work.
_MAXIMUM_TOKENS = 4096
# fmt: off
_STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "being", "but", "by", "can", "for", "from", "had", "has",
    "have", "in", "into", "is", "it", "its", "may", "of", "on", "or", "such", "than", "that", "the", "their",
    "them", "then", "these", "they", "this", "to", "was", "were", "when", "which", "while", "will", "with",
    "would",
))
# fmt: on
_SUFFIXES = ("ations", "ation", "ing", "ies", "ed", "es")


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Ascending unsigned 32-bit indices with one positive weight each."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


def document_vector(text: str, average_length: float) -> SparseVector:
    """BM25's document side: term frequency saturated, damped by length against `average_length` (in tokens)."""
    counts = Counter(tokens(text))
    length = sum(counts.values())
    damping = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * length / max(average_length, 1.0))
    return _vector({term: count * (_SATURATION + 1) / (count + damping) for term, count in counts.items()})


def query_vector(text: str) -> SparseVector:
    """Each distinct token of a query weighs one."""
    return _vector(dict.fromkeys(tokens(text), 1.0))


def tokens(text: str) -> list[str]:
    """Lower-case stems; a compound such as `nt_authority` or `cron.d` also gives its parts."""
    found: list[str] = []
    for match in _TOKEN.finditer(text.lower()):
        word = match.group()
        if word in _STOP_WORDS:
            continue
        found.append(_stem(word))
        parts = _PART.findall(word)
        if len(parts) > 1 and len(word) <= 64:
            found.extend(_stem(part) for part in parts if len(part) > 1 and part not in _STOP_WORDS)
        if len(found) >= _MAXIMUM_TOKENS:
            break
    return found


def _stem(word: str) -> str:
    """Plural and verb endings off, as far as some letters remain: the same rule on both sides is what counts."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)].rstrip("e")
    if word.endswith("s") and len(word) >= 4 and word[-2] not in "siu":
        word = word[:-1]
    return word.rstrip("e") if len(word) > 4 else word


def _vector(weights: dict[str, float]) -> SparseVector:
    by_index: dict[int, float] = {}
    for term, weight in weights.items():
        index = _index(term)
        by_index[index] = by_index.get(index, 0.0) + weight
    ordered = sorted(by_index)
    return SparseVector(tuple(ordered), tuple(by_index[index] for index in ordered))


@lru_cache(maxsize=65_536)
def _index(term: str) -> int:
    """A term's dimension: 31 bits of a stable hash, so collisions among some thousands of terms are rare."""
    digest = hashlib.blake2b(term.encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
