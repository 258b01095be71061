"""The packaged corpus, indexed once a session with the packaged model; vectors are kept between test runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_corpus import (
    IndexReport,
    MiniLmEmbedder,
    Playbook,
    Retriever,
    build_index,
    load_attack_corpus,
    load_playbooks,
)
from rag_corpus.attack import AttackCorpus
from store.vectors import QdrantIndex


@pytest.fixture(scope="session")
def corpus() -> AttackCorpus:
    return load_attack_corpus()


@pytest.fixture(scope="session")
def playbooks() -> tuple[Playbook, ...]:
    return load_playbooks()


@pytest.fixture(scope="session")
def minilm() -> MiniLmEmbedder:
    return MiniLmEmbedder(threads=2)


@pytest.fixture(scope="session")
def vector_cache(request: pytest.FixtureRequest) -> Path:
    """Survives the run: embedding the corpus takes a minute, reading it back a moment."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("attack-vectors")


@pytest.fixture(scope="session")
def indexed(
    corpus: AttackCorpus, playbooks: tuple[Playbook, ...], minilm: MiniLmEmbedder, vector_cache: Path
) -> Iterator[tuple[QdrantIndex, IndexReport]]:
    index = QdrantIndex.in_memory()
    yield index, build_index(corpus, playbooks, minilm, index, vector_cache, lambda stage, done, total: None)
    index.close()


@pytest.fixture(scope="session")
def retriever(
    corpus: AttackCorpus,
    playbooks: tuple[Playbook, ...],
    minilm: MiniLmEmbedder,
    indexed: tuple[QdrantIndex, IndexReport],
) -> Retriever:
    index, report = indexed
    return Retriever(corpus, playbooks, minilm, index, report.ridge)
