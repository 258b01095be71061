"""Finds techniques for an incident: keyword and vector search in the index and a linear head, fused by z-scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_corpus.attack import AttackCorpus
from rag_corpus.embedder import Embedder, Vectors
from rag_corpus.playbook import Playbook
from rag_corpus.ridge import RidgeHead
from rag_corpus.sparse import query_vector
from rag_corpus.vector_index import PUBLIC_TENANT, IndexSearch, VectorIndex, point_id

TECHNIQUE_KIND = "technique"
KEYWORDS, PASSAGES = "text", "passages"

# Fused with equal weight. Measured on report sentences and rule titles: one search over all passages of a technique
# does as well as one each for descriptions, analytics and procedures, at a third of the cost.
RETRIEVERS: tuple[str, ...] = ("bm25", "dense", "ridge")
# Evidence lines beside the title: measured best at half the title's weight, pooled by their maximum.
_EVIDENCE_WEIGHT = 0.5
_MAXIMUM_QUERIES = 9
_MAXIMUM_QUERY_CHARACTERS = 2_000
_FOUND_WITHIN = 20
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class TechniqueHit:
    """A technique with its fused score: the mean of its z-scores among all techniques (0 is an average technique,
    above 3 stands out). `sources` are the retrievers that have it among their first 20."""

    technique_id: str
    score: float
    sources: tuple[str, ...]


class Retriever:
    """Hybrid retrieval over an index that `build_index` made. Calls block for some ten milliseconds a query."""

    def __init__(
        self,
        corpus: AttackCorpus,
        playbooks: Sequence[Playbook],
        embedder: Embedder,
        index: VectorIndex,
        ridge: RidgeHead | None,
        version: str | None = None,
    ) -> None:
        self._corpus = corpus
        self._playbooks = {playbook.id: playbook for playbook in playbooks}
        self._covered = {
            playbook.id: tuple(filter(None, map(corpus.current_id, playbook.techniques))) for playbook in playbooks
        }
        self._embedder = embedder
        self._index = index
        self._version = version
        self._techniques = tuple(corpus.techniques)
        self._column = {technique: column for column, technique in enumerate(self._techniques)}
        self._point = {point_id(PUBLIC_TENANT, TECHNIQUE_KIND, key): column for key, column in self._column.items()}
        self._ridge = ridge
        self._ridge_columns = np.array([self._column.get(label, -1) for label in ridge.labels] if ridge else [], int)

    def retrieve(
        self, queries: Sequence[str], k: int = 10, platforms: Sequence[str] = (), tenant: str = PUBLIC_TENANT
    ) -> list[TechniqueHit]:
        """The best `k` techniques for an incident, best first.

        `queries[0]` is its title and leads; the others are single evidence items (at most eight are used), scored
        apart and pooled by maximum: joining them into one text finds less. Items that differ in numbers only count
        once. `platforms` (any case) keeps techniques
        of those platforms only. Raises what the index raises.
        """
        asked = _distinct(queries)[:_MAXIMUM_QUERIES]
        if not asked or not self._techniques or k < 1:
            return []
        scores = self.scores(asked, tenant)
        fused = np.mean([_standardised(scores[name]) for name in RETRIEVERS], axis=0)
        combined = fused[0]
        if len(asked) > 1:
            combined = (combined + _EVIDENCE_WEIGHT * fused[1:].max(axis=0)) / (1 + _EVIDENCE_WEIGHT)
        order = [
            int(column) for column in np.argsort(-combined, kind="stable") if self._allowed(int(column), platforms)
        ]
        found = _found_by(scores)
        return [
            TechniqueHit(self._techniques[column], float(combined[column]), found.get(column, ()))
            for column in order[:k]
        ]

    def scores(self, queries: Sequence[str], tenant: str = PUBLIC_TENANT) -> dict[str, NDArray[np.float64]]:
        """Raw scores by retriever, each (queries, techniques) in the order of the corpus; what a search did not
        return scores as its floor."""
        vectors = self._embedder.embed(queries)
        searches, places = self._searches(queries, vectors)
        shape = (len(queries), len(self._techniques))
        scores = {name: np.full(shape, np.nan) for name in RETRIEVERS}
        for (name, row), hits in zip(places, self._index.search(searches, tenant, self._version), strict=True):
            for point, score in hits:
                column = self._point.get(point)
                if column is not None:
                    scores[name][row, column] = score
        if self._ridge is not None:
            known = self._ridge_columns >= 0
            scores["ridge"][:, self._ridge_columns[known]] = self._ridge.scores(vectors)[:, known]
        return {name: _with_floor(values, 0.0 if name == "bm25" else None) for name, values in scores.items()}

    def playbooks_for(self, techniques: Sequence[str], k: int = 3) -> list[Playbook]:
        """Playbooks for techniques given in order of weight: those that name them, then those that name a parent or
        sibling. None for techniques no playbook covers: the one that reads most alike was measured to be misleading.
        """
        wanted = [current for technique in techniques if (current := self._corpus.current_id(technique))]
        ranked: dict[str, float] = {}
        for place, technique in enumerate(dict.fromkeys(wanted)):
            for key, covered in self._covered.items():
                affinity = _affinity(technique, covered)
                if affinity:
                    ranked[key] = ranked.get(key, 0.0) + affinity / (1 + place)
        order = sorted(ranked, key=lambda key: (-ranked[key], key))
        return [self._playbooks[key] for key in order[: max(k, 0)]]

    def _searches(self, queries: Sequence[str], vectors: Vectors) -> tuple[list[IndexSearch], list[tuple[str, int]]]:
        searches: list[IndexSearch] = []
        places: list[tuple[str, int]] = []
        limit = len(self._techniques)
        for row, text in enumerate(queries):
            searches.append(IndexSearch(PASSAGES, limit, dense=vectors[row : row + 1]))
            places.append(("dense", row))
            terms = query_vector(text)
            if terms.indices:
                searches.append(IndexSearch(KEYWORDS, limit, sparse=terms))
                places.append(("bm25", row))
        return searches, places

    def _allowed(self, column: int, platforms: Sequence[str]) -> bool:
        if not platforms:
            return True
        wanted = {platform.lower() for platform in platforms}
        own = self._corpus.techniques[self._techniques[column]].platforms
        return any(platform.lower() in wanted for platform in own)


def _distinct(queries: Sequence[str]) -> list[str]:
    """Stripped and capped queries in their order, without blank ones and without repeats up to numbers."""
    kept: dict[str, str] = {}
    for text in queries:
        capped = text.strip()[:_MAXIMUM_QUERY_CHARACTERS]
        if capped:
            kept.setdefault(_NUMBER.sub("0", capped), capped)
    return list(kept.values())


def _with_floor(scores: NDArray[np.float64], floor: float | None) -> NDArray[np.float64]:
    """Techniques without a score get `floor`, or the lowest score of their row."""
    missing = np.isnan(scores)
    if not missing.any():
        return scores
    lowest = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    lowest = np.where(np.isfinite(lowest), lowest, 0.0)
    return np.where(missing, lowest if floor is None else floor, scores)


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """z-scores by row; a row without spread says nothing and becomes zero."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = scores.std(axis=1, keepdims=True)
    return np.where(spread > 1e-9, centred / np.maximum(spread, 1e-9), 0.0)


def _found_by(scores: Mapping[str, NDArray[np.float64]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for name, values in scores.items():
        columns: set[int] = set()
        for row in values:
            best = np.argsort(-row, kind="stable")[:_FOUND_WITHIN]
            columns.update(int(column) for column in best if row[column] > row.min())
        for column in columns:
            found.setdefault(column, []).append(name)
    return {column: tuple(names) for column, names in found.items()}


def _affinity(technique: str, covered: Sequence[str]) -> float:
    """1 when a playbook names the technique, less when it names a relative, 0 otherwise."""
    if technique in covered:
        return 1.0
    parent = technique.partition(".")[0]
    if parent in covered:
        return 0.5
    return 0.25 if any(other.partition(".")[0] == parent for other in covered) else 0.0
