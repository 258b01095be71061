"""The index is built aside, checked, then switched to; a second build does nothing, a change embeds what changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rag_corpus.attack import AttackCorpus, CorpusError
from rag_corpus.chunks import ChunkLimits
from rag_corpus.index import IndexReport, build_index
from rag_corpus.playbook import Playbook
from rag_corpus.retriever import Retriever
from tests.contract.vectors.exact_index import ExactIndex

PLAYBOOK = Playbook("PB-TEST", "Test", ("T1053", "T1168", "T1234"), ())


def _build(
    corpus: AttackCorpus, embedder: Any, index: ExactIndex, cache: Path | None, limits: ChunkLimits | None = None
) -> IndexReport:
    return build_index(corpus, (PLAYBOOK,), embedder, index, cache, lambda *_: None, limits or ChunkLimits())


def test_a_built_index_answers(small_corpus: AttackCorpus, embedder: Any, tmp_path: Path) -> None:
    index = ExactIndex()
    report = _build(small_corpus, embedder, index, tmp_path)
    assert (report.rebuilt, report.techniques, report.corpus_version) == (True, 6, "18.1")
    assert index.active() == report.version
    assert report.version.startswith("attack-18_1-")
    hits = Retriever(small_corpus, (), embedder, index, report.ridge).retrieve(["crontab entries changed"], k=2)
    assert hits[0].technique_id == "T1053.003"
    assert set(hits[0].sources) == {"bm25", "dense", "ridge"}


def test_a_second_build_does_nothing(small_corpus: AttackCorpus, embedder: Any, tmp_path: Path) -> None:
    index = ExactIndex()
    first = _build(small_corpus, embedder, index, tmp_path)
    embedder.embedded.clear()
    second = _build(small_corpus, embedder, index, tmp_path)
    assert (second.version, second.rebuilt, second.embedded) == (first.version, False, 0)
    assert embedder.embedded == []
    assert second.ridge is not None
    assert first.ridge is not None
    assert second.ridge.labels == first.ridge.labels


def test_a_changed_text_makes_a_version_and_embeds_itself_only(
    small_corpus: AttackCorpus, embedder: Any, tmp_path: Path
) -> None:
    index = ExactIndex()
    first = _build(small_corpus, embedder, index, tmp_path)
    cron = replace(small_corpus.techniques["T1053.003"], description="Cron runs commands at set times.")
    changed = replace(small_corpus, techniques={**small_corpus.techniques, "T1053.003": cron})
    embedder.embedded.clear()
    second = _build(changed, embedder, index, tmp_path)
    assert second.version != first.version
    assert second.rebuilt
    assert embedder.embedded == ["Cron: Cron runs commands at set times."]
    assert index.rollback() == first.version


def test_another_data_directory_embeds_nothing(small_corpus: AttackCorpus, embedder: Any, tmp_path: Path) -> None:
    _build(small_corpus, embedder, ExactIndex(), tmp_path)
    embedder.embedded.clear()
    assert _build(small_corpus, embedder, ExactIndex(), tmp_path).rebuilt
    assert embedder.embedded == []


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_lost_ridge_head_is_fitted_again_from_the_cache(
    small_corpus: AttackCorpus, embedder: Any, tmp_path: Path, damage: str
) -> None:
    index = ExactIndex()
    first = _build(small_corpus, embedder, index, tmp_path)
    (kept,) = tmp_path.glob("ridge-*.npz")
    kept.unlink() if damage == "missing" else kept.write_bytes(kept.read_bytes()[:100])
    again = _build(small_corpus, embedder, index, tmp_path)
    assert not again.rebuilt
    assert again.ridge is not None
    assert first.ridge is not None
    assert again.ridge.weights == pytest.approx(first.ridge.weights)


def test_without_a_cache_folder_it_works_too(small_corpus: AttackCorpus, embedder: Any) -> None:
    index = ExactIndex()
    assert _build(small_corpus, embedder, index, None).rebuilt
    assert _build(small_corpus, embedder, index, None).ridge is not None


def test_an_index_that_finds_nothing_is_not_switched_to(
    small_corpus: AttackCorpus, embedder: Any, tmp_path: Path
) -> None:
    """Seven texts say nothing of what the report sentences say: the smoke test must notice."""

    class Deaf(ExactIndex):
        def search(self, searches: Any, tenant: str, version: str | None = None) -> list[list[tuple[str, float]]]:
            return [[] for _ in searches]

    class Confused(type(embedder)):  # type: ignore[misc]
        name = "confused"

        def embed(self, texts: Any) -> Any:
            return super().embed(["the same for everything" for _ in texts])

    many = {
        f"T{number}": replace(small_corpus.techniques["T1486"], id=f"T{number}", name=f"Name {number}")
        for number in range(2000, 2040)
    }
    sentences = {key: (f"Report about deed {key}.",) for key in list(many)[20:]}
    corpus = replace(small_corpus, techniques=many, procedures=sentences)
    index = Deaf()
    with pytest.raises(CorpusError, match=r"not switched to.*Delete the cache folder"):
        _build(corpus, Confused(), index, tmp_path, ChunkLimits(procedures=0))
    assert index.active() is None


def test_playbooks_that_name_a_technique_no_more_are_reported(small_corpus: AttackCorpus, embedder: Any) -> None:
    assert _build(small_corpus, embedder, ExactIndex(), None).outdated == ("PB-TEST: T1234",)


def test_a_playbook_is_found_by_its_old_ids_too(small_corpus: AttackCorpus, embedder: Any) -> None:
    retriever = Retriever(small_corpus, (PLAYBOOK,), embedder, ExactIndex(), None)
    assert retriever.playbooks_for(["T1053.003"]) == [PLAYBOOK]
    assert retriever.playbooks_for(["t1168"]) == [PLAYBOOK]
    assert retriever.playbooks_for(["T1486"]) == []


def test_an_empty_corpus_makes_an_empty_index(small_corpus: AttackCorpus, embedder: Any, tmp_path: Path) -> None:
    index = ExactIndex()
    empty = replace(small_corpus, version="none", techniques={}, aliases={}, procedures={})
    report = _build(empty, embedder, index, tmp_path)
    assert (report.techniques, report.ridge, report.smoke_recall) == (0, None, None)
    assert Retriever(empty, (), embedder, index, None).retrieve(["web shell"]) == []


def test_progress_tells_every_stage_to_its_end(small_corpus: AttackCorpus, embedder: Any) -> None:
    heard: list[tuple[str, int, int]] = []
    build_index(
        small_corpus,
        (),
        embedder,
        ExactIndex(),
        None,
        lambda stage, done, total: heard.append((stage, done, total)),
        ChunkLimits(procedures=1),
    )
    last = {stage: (done, total) for stage, done, total in heard}
    assert list(last) == ["embed", "fit", "store", "check"]
    assert all(done == total for done, total in last.values())
