"""No text is embedded twice, and a damaged cache costs time, never truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_corpus.embedder import EmbeddingCache, text_key

TEXTS = ["cron job", "web shell", "cron job", "password guessing"]


def test_a_text_is_embedded_once_in_a_call_and_never_again(tmp_path: Path, embedder: Any) -> None:
    vectors, embedded = EmbeddingCache(tmp_path, embedder).embed(TEXTS)
    assert embedded == 3
    assert sorted(embedder.embedded) == sorted(set(TEXTS))
    again, embedded = EmbeddingCache(tmp_path, embedder).embed([*TEXTS, "sudo"])
    assert embedded == 1
    assert embedder.embedded[-1] == "sudo"
    assert np.array_equal(again[:4], vectors)
    assert np.array_equal(vectors, embedder.embed(TEXTS))


def test_corpora_share_the_file(tmp_path: Path, embedder: Any) -> None:
    EmbeddingCache(tmp_path, embedder).embed(["one"])
    EmbeddingCache(tmp_path, embedder).embed(["two"])
    assert EmbeddingCache(tmp_path, embedder).embed(["one", "two"])[1] == 0


def test_the_file_keeps_what_is_in_use_when_it_is_full(
    tmp_path: Path, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_corpus.embedder._CACHE_ROWS", 2)
    EmbeddingCache(tmp_path, embedder).embed(["old one", "old two"])
    EmbeddingCache(tmp_path, embedder).embed(["new one", "new two"])
    assert EmbeddingCache(tmp_path, embedder).embed(["new one", "new two"])[1] == 0
    assert EmbeddingCache(tmp_path, embedder).embed(["old one"])[1] == 1


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_a_damaged_file_is_made_anew(tmp_path: Path, embedder: Any, damage: bytes) -> None:
    (tmp_path / "vectors-word-hash.npz").write_bytes(damage)
    assert EmbeddingCache(tmp_path, embedder).embed(TEXTS)[1] == 3
    assert EmbeddingCache(tmp_path, embedder).embed(TEXTS)[1] == 0


def test_vectors_of_another_dimension_are_not_used(tmp_path: Path, embedder: Any) -> None:
    np.savez(
        tmp_path / "vectors-word-hash.npz",
        keys=np.frombuffer(bytes.fromhex(text_key("one")), np.uint8).reshape(1, 16),
        vectors=np.ones((1, 3), np.float32),
    )
    assert EmbeddingCache(tmp_path, embedder).embed(["one"])[1] == 1


def test_progress_counts_up_to_the_texts_that_were_missing(tmp_path: Path, embedder: Any) -> None:
    heard: list[tuple[int, int]] = []
    texts = [f"text {number}" for number in range(300)]
    EmbeddingCache(tmp_path, embedder).embed(texts, lambda done, total: heard.append((done, total)))
    assert heard[-1] == (300, 300)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


def test_without_a_folder_nothing_is_written(tmp_path: Path, embedder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert EmbeddingCache(None, embedder).embed(TEXTS)[1] == 3
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogates_have_a_key() -> None:
    assert text_key("\ud800") == text_key("?")
