"""The vector index contract in its simplest form: dictionaries and dot products, as the yardstick for real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rag_corpus.vector_index import PUBLIC_TENANT, IndexLayout, IndexPoint, IndexSearch


class ExactIndex:
    """Keeps versions in memory and computes every score from its definition."""

    def __init__(self) -> None:
        self._versions: dict[str, list[IndexPoint]] = {}
        self._active: str | None = None
        self._previous: str | None = None

    def active(self) -> str | None:
        return self._active

    def build(
        self,
        version: str,
        layout: IndexLayout,
        points: Iterable[IndexPoint],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        if version == self._active:
            raise ValueError("active")
        self._versions[version] = list(points)
        if progress is not None:
            progress(len(self._versions[version]))
        return len(self._versions[version])

    def promote(self, version: str) -> None:
        if version not in self._versions:
            raise ValueError("not built")
        self._previous, self._active = self._active, version
        self._versions = {key: value for key, value in self._versions.items() if key in (version, self._previous)}

    def rollback(self) -> str | None:
        if self._previous is None:
            return None
        self._active, self._previous = self._previous, self._active
        return self._active

    def search(
        self, searches: Sequence[IndexSearch], tenant: str, version: str | None = None
    ) -> list[list[tuple[str, float]]]:
        points = self._versions[version or self._active or ""]
        return [self._search(points, search, (PUBLIC_TENANT, tenant)) for search in searches]

    def _search(
        self, points: Sequence[IndexPoint], search: IndexSearch, tenants: Sequence[str]
    ) -> list[tuple[str, float]]:
        scored = [
            (point.id, score)
            for point in points
            if point.tenant in tenants and (score := _score(points, point, search)) is not None
        ]
        return sorted(scored, key=lambda hit: -hit[1])[: search.limit]


def _score(points: Sequence[IndexPoint], point: IndexPoint, search: IndexSearch) -> float | None:
    if search.dense is not None:
        stored = point.dense.get(search.using)
        if stored is None:
            return None
        return float((stored.reshape(-1, stored.shape[-1]) @ search.dense.reshape(-1)).max())
    assert search.sparse is not None
    own = point.sparse.get(search.using)
    if own is None:
        return None
    weights = dict(zip(own.indices, own.values, strict=True))
    holders = [other.sparse[search.using] for other in points if search.using in other.sparse]
    total, shared = 0.0, False
    for term, weight in zip(search.sparse.indices, search.sparse.values, strict=True):
        if term in weights:
            frequency = sum(term in holder.indices for holder in holders)
            total += weight * weights[term] * math.log((len(holders) - frequency + 0.5) / (frequency + 0.5) + 1)
            shared = True
    return total if shared else None
