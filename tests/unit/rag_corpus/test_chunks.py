"""What is embedded: short texts, the same for the same corpus."""

from __future__ import annotations

from rag_corpus.attack import AttackCorpus
from rag_corpus.chunks import ChunkLimits, chosen_procedures, opening, technique_chunks, technique_document


def test_every_technique_has_its_opening_under_its_name(small_corpus: AttackCorpus) -> None:
    chunks = list(technique_chunks(small_corpus, ChunkLimits()))
    openings = {chunk.key: chunk.text for chunk in chunks if chunk.kind == "description"}
    assert set(openings) == set(small_corpus.techniques)
    assert openings["T1053.003"] == "Cron: Abuse of the cron utility through crontab files."


def test_an_opening_keeps_whole_sentences_within_its_length(attack_corpus: AttackCorpus) -> None:
    technique = attack_corpus.techniques["T1110.001"]
    text = opening(technique, 300)
    assert text.startswith("Password Guessing: Adversaries with no prior knowledge")
    assert text.endswith(".")
    assert len(text) <= 320


def test_the_shortest_telling_procedures_are_chosen() -> None:
    texts = ("Too short.", "A sentence of forty characters or longer.", "Another " + "long " * 30 + "one.")
    limits = ChunkLimits(procedures=2)
    assert chosen_procedures(texts, limits) == [texts[1], texts[2]]
    assert chosen_procedures(texts, ChunkLimits(procedures=3))[-1] == "Too short."


def test_a_chunk_id_stands_for_its_text(small_corpus: AttackCorpus) -> None:
    first, second = (
        list(technique_chunks(small_corpus, ChunkLimits())),
        list(technique_chunks(small_corpus, ChunkLimits())),
    )
    assert [chunk.id for chunk in first] == [chunk.id for chunk in second]
    assert len({chunk.id for chunk in first}) == len({chunk.text for chunk in first})


def test_the_packaged_corpus_stays_within_the_budget_of_a_minute(attack_corpus: AttackCorpus) -> None:
    chunks = list(technique_chunks(attack_corpus, ChunkLimits()))
    assert 6_000 < len(chunks) < 7_500
    assert sum(len(chunk.text) for chunk in chunks) < 1_100_000


def test_a_document_holds_everything_keywords_can_find(small_corpus: AttackCorpus) -> None:
    document = technique_document(small_corpus, small_corpus.techniques["T1053.003"])
    assert "Skidmap wrote crontab entries" in document
    assert "auditd: execve" in document
