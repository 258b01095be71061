"""The ridge head: the closed form, kept as plain arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_corpus.embedder import normalised
from rag_corpus.ridge import RidgeHead, fit_ridge


def _examples(count: int = 90) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(7)
    centres = normalised(random.standard_normal((3, 16)))
    labels = [position % 3 for position in range(count)]
    vectors = normalised(centres[labels] + 0.1 * random.standard_normal((count, 16)))
    return vectors, [f"T{label}" for label in labels]


def test_it_equals_the_normal_equations_written_out() -> None:
    vectors, labels = _examples()
    head = fit_ridge(vectors, labels, penalty=2.0)
    targets = np.array([[label == name for name in head.labels] for label in labels], dtype=np.float64)
    examples = vectors.astype(np.float64)
    centred = examples - examples.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + 2.0 * np.eye(16), centred.T @ (targets - targets.mean(axis=0)))
    assert head.weights == pytest.approx(weights, abs=1e-6)
    assert head.intercept == pytest.approx(targets.mean(axis=0) - examples.mean(axis=0) @ weights, abs=1e-6)


def test_it_tells_clusters_apart() -> None:
    vectors, labels = _examples()
    head = fit_ridge(vectors[:60], labels[:60])
    best = [head.labels[column] for column in head.scores(vectors[60:]).argmax(axis=1)]
    assert best == labels[60:]


def test_one_label_and_one_example_are_enough() -> None:
    head = fit_ridge(normalised(np.ones((1, 4))), ["T1"])
    assert head.scores(normalised(np.ones((2, 4)))).shape == (2, 1)
    assert np.isfinite(head.weights).all()


@pytest.mark.parametrize("labels", [[], ["T1"]])
def test_examples_and_labels_must_match(labels: list[str]) -> None:
    with pytest.raises(ValueError, match="one label a vector"):
        fit_ridge(np.zeros((len(labels) * 2, 4), dtype=np.float32), labels)


def test_it_comes_back_from_a_file_as_it_was(tmp_path: Path) -> None:
    head = fit_ridge(*_examples())
    head.save(tmp_path / "deep" / "ridge.npz")
    kept = RidgeHead.load(tmp_path / "deep" / "ridge.npz")
    assert kept is not None
    assert kept.labels == head.labels
    assert np.array_equal(kept.weights, head.weights)
    assert np.array_equal(kept.intercept, head.intercept)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["ridge.npz"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\x80\x04K\x01."])
def test_a_missing_or_damaged_file_is_no_head(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ridge.npz"
    assert RidgeHead.load(path) is None
    path.write_bytes(damage)
    assert RidgeHead.load(path) is None


def test_a_file_that_holds_pickled_objects_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "ridge.npz"
    np.savez(path, labels=np.array([{"a": 1}], dtype=object), weights=np.ones((2, 1)), intercept=np.ones(1))
    assert RidgeHead.load(path) is None
