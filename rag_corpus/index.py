"""Builds the vector index from the corpus: embed what changed, fill a version aside, check it, switch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rag_corpus.attack import AttackCorpus, CorpusError
from rag_corpus.chunks import (
    ANALYTICS,
    DEFAULT_LIMITS,
    DESCRIPTION,
    PROCEDURES,
    Chunk,
    ChunkLimits,
    chosen_procedures,
    technique_chunks,
    technique_document,
)
from rag_corpus.embedder import Embedder, EmbeddingCache, Vectors, normalised
from rag_corpus.memory import return_freed_memory
from rag_corpus.playbook import Playbook
from rag_corpus.retriever import KEYWORDS, PASSAGES, TECHNIQUE_KIND, Retriever
from rag_corpus.ridge import RidgeHead, fit_ridge
from rag_corpus.sparse import SparseVector, document_vector, tokens
from rag_corpus.vector_index import PUBLIC_TENANT, IndexLayout, IndexPoint, VectorIndex, point_id

# Part of every version's name: raise it when points, sparse vectors or the ridge head change for the same texts.
_FORMAT = 1
_SMOKE_QUERIES = 48
_SMOKE_FLOOR = 0.6

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What `build_index` did.

    `outdated` names techniques of playbooks that this release no longer has (`PB-NAME: T1234`). `ridge` is what the
    retriever needs beside the index, None for an empty corpus. `smoke_recall` is the share of unseen report sentences
    whose technique came among the first ten, None when nothing was built.
    """

    version: str
    corpus_version: str
    rebuilt: bool
    techniques: int
    outdated: tuple[str, ...]
    chunks: int
    embedded: int
    smoke_recall: float | None
    ridge: RidgeHead | None


def build_index(
    corpus: AttackCorpus,
    playbooks: Sequence[Playbook],
    embedder: Embedder,
    index: VectorIndex,
    cache_dir: Path | None,
    progress: Progress,
    limits: ChunkLimits = DEFAULT_LIMITS,
) -> IndexReport:
    """Make `index` serve exactly this corpus; a second call with the same input does nothing.

    Playbooks are found by their techniques, so they are only checked against the corpus: see `IndexReport.outdated`.
    Vectors and the ridge head are kept in `cache_dir`, which other data directories may share; None keeps nothing.
    `progress(stage, done, total)` is called with stages embed, fit, store and check. The new version becomes active
    only after its points are counted and it answers a smoke test (CorpusError otherwise, and the version before
    stays active). Raises what embedder and index raise.
    """
    try:
        return _bring_up_to_date(corpus, playbooks, embedder, index, cache_dir, progress, limits)
    finally:
        return_freed_memory()


def _bring_up_to_date(
    corpus: AttackCorpus,
    playbooks: Sequence[Playbook],
    embedder: Embedder,
    index: VectorIndex,
    cache_dir: Path | None,
    progress: Progress,
    limits: ChunkLimits,
) -> IndexReport:
    chunks = list(technique_chunks(corpus, limits))
    version = _version(corpus, chunks, embedder)
    report = IndexReport(
        version=version,
        corpus_version=corpus.version,
        rebuilt=False,
        techniques=len(corpus.techniques),
        outdated=_outdated(corpus, playbooks),
        chunks=len(chunks),
        embedded=0,
        smoke_recall=None,
        ridge=None,
    )
    ridge_path = None if cache_dir is None else cache_dir / f"ridge-{version}.npz"
    is_active = index.active() == version
    if is_active and ridge_path is not None and (kept := RidgeHead.load(ridge_path)) is not None:
        return replace(report, ridge=kept)

    vectors, smoke, embedded = _embed(corpus, chunks, embedder, cache_dir, limits, progress)
    progress("fit", 0, 1)
    ridge = fit_ridge(vectors, [chunk.key for chunk in chunks]) if chunks else None
    if ridge is not None and ridge_path is not None:
        ridge.save(ridge_path)
    progress("fit", 1, 1)
    report = replace(report, embedded=embedded, ridge=ridge)
    if is_active:
        return report

    points = _points(corpus, chunks, vectors)
    count = index.build(version, _layout(embedder), points, lambda done: progress("store", done, report.techniques))
    if count != report.techniques:
        raise CorpusError(f"version {version} holds {count} points instead of {report.techniques}")
    recall = _check(Retriever(corpus, (), smoke, index, ridge, version), smoke.pairs, progress)
    index.promote(version)
    return replace(report, rebuilt=True, smoke_recall=recall)


def _embed(
    corpus: AttackCorpus,
    chunks: Sequence[Chunk],
    embedder: Embedder,
    cache_dir: Path | None,
    limits: ChunkLimits,
    progress: Progress,
) -> tuple[Vectors, _SmokeTest, int]:
    """Vectors of `chunks` in their order, the smoke test's sentences with theirs, and how many texts were new."""
    pairs = _smoke_sentences(corpus, limits)
    asked = [text for _, text in pairs]
    texts = [chunk.text for chunk in chunks]
    cache = EmbeddingCache(cache_dir, embedder)
    vectors, embedded = cache.embed(texts + asked, lambda done, total: progress("embed", done, total))
    known = dict(zip(asked, vectors[len(texts) :], strict=True))
    return vectors[: len(texts)], _SmokeTest(embedder.name, embedder.dimension, pairs, known), embedded


def _check(retriever: Retriever, pairs: Sequence[tuple[str, str]], progress: Progress) -> float | None:
    """Recall of the smoke sentences, refused when it is low. Without sentences there is nothing to refuse."""
    if not pairs:
        return None
    found = 0
    for done, (technique, text) in enumerate(pairs, start=1):
        parents = {hit.technique_id.partition(".")[0] for hit in retriever.retrieve([text])}
        found += technique.partition(".")[0] in parents
        progress("check", done, len(pairs))
    recall = found / len(pairs)
    if recall < _SMOKE_FLOOR:
        raise CorpusError(
            f"the new index finds {recall:.0%} of {len(pairs)} known sentences, less than {_SMOKE_FLOOR:.0%}: it is "
            "not switched to. Delete the cache folder and build again; if that does not help, the embedding model or "
            "the ATT&CK data is damaged."
        )
    return recall


def _outdated(corpus: AttackCorpus, playbooks: Sequence[Playbook]) -> tuple[str, ...]:
    return tuple(
        f"{playbook.id}: {technique}"
        for playbook in playbooks
        for technique in playbook.techniques
        if corpus.techniques and corpus.current_id(technique) is None
    )


def _smoke_sentences(corpus: AttackCorpus, limits: ChunkLimits) -> list[tuple[str, str]]:
    """(technique, report sentence) pairs that are not embedded as chunks, spread over techniques, always the same."""
    pairs: list[tuple[str, str, str]] = []
    for technique, procedures in corpus.procedures.items():
        if technique in corpus.techniques:
            used = set(chosen_procedures(procedures, limits))
            unseen = [text for text in procedures if text not in used]
            pairs += [(_digest(text), technique, text) for text in unseen[:1]]
    return [(technique, text) for _, technique, text in sorted(pairs)[:_SMOKE_QUERIES]]


def _points(corpus: AttackCorpus, chunks: Sequence[Chunk], vectors: Vectors) -> Iterable[IndexPoint]:
    rows: dict[tuple[str, str], list[int]] = {}
    for row, chunk in enumerate(chunks):
        rows.setdefault((chunk.key, chunk.kind), []).append(row)
    documents = {key: technique_document(corpus, technique) for key, technique in corpus.techniques.items()}
    lengths = [len(tokens(document)) for document in documents.values()]
    average = float(np.mean(lengths)) if lengths else 1.0
    for key, document in documents.items():
        dense = {PASSAGES: _passages(key, rows, vectors)}
        sparse: Mapping[str, SparseVector] = {KEYWORDS: document_vector(document, average)}
        yield IndexPoint(point_id(PUBLIC_TENANT, TECHNIQUE_KIND, key), PUBLIC_TENANT, dense, sparse)


def _passages(key: str, rows: Mapping[tuple[str, str], Sequence[int]], vectors: Vectors) -> Vectors:
    """What a technique is found by: its opening, its analytics, and the centre of its procedure sentences."""
    passages = [vectors[rows[key, DESCRIPTION]]]
    if (key, ANALYTICS) in rows:
        passages.append(vectors[rows[key, ANALYTICS]])
    if (key, PROCEDURES) in rows:
        passages.append(normalised(vectors[rows[key, PROCEDURES]].mean(axis=0, keepdims=True)))
    return np.concatenate(passages)


def _layout(embedder: Embedder) -> IndexLayout:
    return IndexLayout(embedder.dimension, single=(), multiple=(PASSAGES,), sparse=(KEYWORDS,))


def _version(corpus: AttackCorpus, chunks: Sequence[Chunk], embedder: Embedder) -> str:
    """A name that changes with anything the index is made of."""
    digest = hashlib.blake2b(f"{_FORMAT}\n{embedder.name}\n{corpus.version}\n".encode(), digest_size=8)
    for chunk in chunks:
        digest.update(f"{chunk.kind}\t{chunk.key}\t{chunk.id}\n".encode())
    for key, technique in corpus.techniques.items():
        digest.update(f"{key}\t{_digest(technique_document(corpus, technique))}\n".encode())
    return f"attack-{corpus.version.replace('.', '_')}-{digest.hexdigest()}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _SmokeTest:
    """Sentences with their techniques, and an embedder that knows just these, so that nothing is embedded twice."""

    name: str
    dimension: int
    pairs: Sequence[tuple[str, str]]
    known: Mapping[str, Vectors]

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self.known[text] for text in texts])
