"""A linear head on frozen sentence vectors: ridge regression in closed form, text -> score per technique.

It needs a second to fit, no labels but the corpus's own, and no pickle to keep: three arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_corpus.arrays import read_arrays, write_arrays
from rag_corpus.embedder import Vectors

# From the measurements on TRAM sentences: unweighted classes, lambda 2. Weighting classes evenly halves the recall.
DEFAULT_PENALTY = 2.0


@dataclass(frozen=True, slots=True)
class RidgeHead:
    """`weights` (dimension, labels) and `intercept` (labels,) score a normalised text vector for each label."""

    labels: tuple[str, ...]
    weights: Vectors
    intercept: Vectors

    def scores(self, vectors: Vectors) -> Vectors:
        """(n, labels) scores of (n, dimension) normalised vectors. Comparable within a row only."""
        return np.asarray(vectors @ self.weights + self.intercept, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write atomically as plain arrays."""
        labels = np.array(self.labels)
        write_arrays(path, {"labels": labels, "weights": self.weights, "intercept": self.intercept})

    @classmethod
    def load(cls, path: Path) -> RidgeHead | None:
        """The head kept at `path`; None when there is none or it is damaged (fitting again takes a second)."""
        stored = read_arrays(path, "labels", "weights", "intercept")
        if stored is None:
            return None
        labels, weights, intercept = stored
        if weights.ndim != 2 or weights.shape[1] != len(labels) or intercept.shape != (len(labels),):
            return None
        return cls(tuple(str(label) for label in labels), weights, intercept)


def fit_ridge(vectors: Vectors, labels: Sequence[str], penalty: float = DEFAULT_PENALTY) -> RidgeHead:
    """Fit one-against-all targets on (n, dimension) vectors with one label each.

    Solves the normal equations on centred data, so the intercept is not penalised. Raises ValueError on no examples.
    """
    if len(labels) == 0 or vectors.shape[0] != len(labels):
        raise ValueError(f"ridge needs one label a vector and at least one: {vectors.shape[0]} vectors, {len(labels)}")
    names = tuple(sorted(set(labels)))
    column = {name: position for position, name in enumerate(names)}
    examples: NDArray[np.float64] = vectors.astype(np.float64)
    centre = examples.mean(axis=0)
    # The targets are one-hot, so X'Y is a sum of rows per label and needs no n x labels matrix.
    sums = np.zeros((len(names), examples.shape[1]))
    positions = np.array([column[label] for label in labels])
    np.add.at(sums, positions, examples)
    share = np.bincount(positions, minlength=len(names)) / len(labels)
    gram = examples.T @ examples - len(labels) * np.outer(centre, centre)
    gram[np.diag_indices_from(gram)] += penalty
    weights = np.linalg.solve(gram, sums.T - len(labels) * np.outer(centre, share))
    intercept = share - centre @ weights
    return RidgeHead(names, weights.astype(np.float32), intercept.astype(np.float32))
