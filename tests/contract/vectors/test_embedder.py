"""The packaged MiniLM keeps the embedder contract and means what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_corpus import embedder as embedder_module
from rag_corpus.embedder import EmbedderError, MiniLmEmbedder

pytestmark = pytest.mark.qdrant


def test_rows_are_normalised_and_in_order(minilm: MiniLmEmbedder) -> None:
    texts = ["cron", "A much longer sentence about a web shell that was uploaded to a server. " * 3, "sudo", ""]
    vectors = minilm.embed(texts)
    assert vectors.shape == (4, minilm.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    for row, text in enumerate(texts):
        assert vectors[row] @ minilm.embed([text])[0] == pytest.approx(1.0, abs=1e-4)


def test_no_text_gives_no_rows(minilm: MiniLmEmbedder) -> None:
    assert minilm.embed([]).shape == (0, 384)


def test_like_meanings_are_near_and_others_are_far(minilm: MiniLmEmbedder) -> None:
    guess, brute, cake = minilm.embed(
        ["Password guessing against SSH", "An attacker brute-forces logins", "A recipe for apple cake"]
    )
    assert guess @ brute > 0.4
    assert guess @ cake < 0.2


def test_threads_change_the_time_and_not_the_vectors(minilm: MiniLmEmbedder) -> None:
    texts = [f"Process {number} opened a connection to port {number * 7}" for number in range(200)]
    assert MiniLmEmbedder(threads=1).embed(texts) == pytest.approx(minilm.embed(texts), abs=1e-5)


@pytest.mark.parametrize("text", ["\ud800 lone surrogate", "\x00\x00", "\u202e" * 50, "x" * 1_000_000, "🜁" * 300])
def test_hostile_text_is_embedded_like_any_other(minilm: MiniLmEmbedder, text: str) -> None:
    assert np.isfinite(minilm.embed([text])).all()


def test_a_missing_package_is_named_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_module, "_MODEL_PACKAGE", "package_that_is_not_there")
    with pytest.raises(EmbedderError, match=r"package_that_is_not_there is not installed.*make setup"):
        MiniLmEmbedder()


def test_an_altered_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other bytes")
    monkeypatch.setattr(embedder_module, "_package_file", lambda package, relative: tmp_path / "model.onnx")
    with pytest.raises(EmbedderError, match="not the pinned file"):
        MiniLmEmbedder()
