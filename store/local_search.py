"""Searches a local Qdrant collection with numpy.

Local Qdrant scores in pure Python, 160 ms of a core for a query over 700 techniques; the same arithmetic over arrays
read once from the collection takes about a millisecond. The contract tests hold both to the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

_SCROLL_BATCH = 256
_Scores = NDArray[np.float32]
_Hits = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class _DenseRows:
    """Rows (n, d) by point; `points` (m,) are the points that have any, `starts` (m,) their first rows."""

    rows: NDArray[np.float32]
    points: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Postings:
    """For each term the points that hold it and its weight there; `holders` counts points with any term."""

    by_term: Mapping[int, tuple[NDArray[np.int64], NDArray[np.float32]]]
    holders: int


@dataclass(frozen=True, slots=True)
class LocalSnapshot:
    """A collection's points as arrays: valid until the collection is written to."""

    ids: tuple[str, ...]
    tenants: NDArray[np.str_]
    dense: Mapping[str, _DenseRows]
    sparse: Mapping[str, _Postings]

    def nearest_dense(self, using: str, query: NDArray[np.float32], tenants: Sequence[str], limit: int) -> _Hits:
        """Points whose nearest vector named `using` has the greatest dot product with `query` (d,) or (1, d)."""
        stored = self.dense[using]
        scores = np.full(len(self.ids), -np.inf, dtype=np.float32)
        if len(stored.points):
            products = stored.rows @ query.reshape(-1)
            scores[stored.points] = np.maximum.reduceat(products, stored.starts)
        return self._best(scores, tenants, limit)

    def nearest_sparse(
        self, using: str, terms: Sequence[int], weights: Sequence[float], tenants: Sequence[str], limit: int
    ) -> _Hits:
        """Points that share a term with the query, by the sum of weight products, each times the term's inverse
        document frequency as Qdrant computes it."""
        stored = self.sparse[using]
        scores = np.zeros(len(self.ids), dtype=np.float32)
        shares = np.zeros(len(self.ids), dtype=bool)
        for term, weight in zip(terms, weights, strict=True):
            posting = stored.by_term.get(term)
            if posting is not None:
                points, values = posting
                frequency = len(points)
                rarity = np.log((stored.holders - frequency + 0.5) / (frequency + 0.5) + 1.0)
                scores[points] += values * np.float32(weight * rarity)
                shares[points] = True
        return self._best(np.where(shares, scores, -np.inf), tenants, limit)

    def _best(self, scores: _Scores, tenants: Sequence[str], limit: int) -> _Hits:
        allowed = np.isin(self.tenants, list(tenants)) & np.isfinite(scores)
        order = np.argsort(np.where(allowed, -scores, np.inf), kind="stable")[: min(limit, int(allowed.sum()))]
        return [(self.ids[point], float(scores[point])) for point in order]


def read_snapshot(client: QdrantClient, collection: str) -> LocalSnapshot:
    """All points of a local collection. Raises what Qdrant raises."""
    points = list(_points(client, collection))
    settings = client.get_collection(collection).config.params
    dense_names = settings.vectors if isinstance(settings.vectors, dict) else {}
    vectors = [point.vector if isinstance(point.vector, dict) else {} for point in points]
    return LocalSnapshot(
        ids=tuple(str(point.id) for point in points),
        tenants=np.array([str((point.payload or {}).get("tenant", "")) for point in points]),
        dense={name: _dense_rows([vector.get(name) for vector in vectors]) for name in dense_names},
        sparse={name: _postings([vector.get(name) for vector in vectors]) for name in settings.sparse_vectors or {}},
    )


def _points(client: QdrantClient, collection: str) -> Iterator[models.Record]:
    offset: Any = None
    while True:
        part, offset = client.scroll(
            collection, limit=_SCROLL_BATCH, offset=offset, with_payload=["tenant"], with_vectors=True
        )
        yield from part
        if offset is None:
            return


def _dense_rows(vectors: Sequence[Any]) -> _DenseRows:
    rows: list[NDArray[np.float32]] = []
    points: list[int] = []
    starts: list[int] = []
    count = 0
    for point, vector in enumerate(vectors):
        if vector is not None:
            matrix = np.atleast_2d(np.asarray(vector, dtype=np.float32))
            rows.append(matrix)
            points.append(point)
            starts.append(count)
            count += len(matrix)
    together = np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)
    return _DenseRows(together, np.array(points, dtype=np.int64), np.array(starts, dtype=np.int64))


def _postings(vectors: Sequence[Any]) -> _Postings:
    gathered: dict[int, tuple[list[int], list[float]]] = {}
    holders = 0
    for point, vector in enumerate(vectors):
        if isinstance(vector, models.SparseVector):
            holders += 1
            for term, weight in zip(vector.indices, vector.values, strict=True):
                places, weights = gathered.setdefault(term, ([], []))
                places.append(point)
                weights.append(weight)
    by_term = {
        term: (np.array(places, dtype=np.int64), np.array(weights, dtype=np.float32))
        for term, (places, weights) in gathered.items()
    }
    return _Postings(by_term, holders)
