"""Keyword vectors: stable, sorted, and bounded whatever the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rag_corpus.sparse import document_vector, query_vector, tokens


def test_words_meet_their_plurals_verbs_and_compounds() -> None:
    assert set(tokens("cron jobs")) & set(tokens("a Job in /etc/cron.d")) == {"cron", "job"}
    assert tokens("scheduled") == tokens("schedules") == tokens("scheduling")
    assert tokens("processes") == tokens("process")
    assert "4625" in tokens("EventCode=4625")


def test_words_that_say_nothing_are_left_out() -> None:
    assert tokens("this is the of and") == []
    assert query_vector("the").indices == ()


def test_the_same_word_has_the_same_place_in_documents_and_queries() -> None:
    document, query = document_vector("mimikatz", 10.0), query_vector("Mimikatz")
    # A stored index outlives the process that made it: the place of a word must never change.
    assert document.indices == query.indices == (913084634,)


def test_a_repeated_word_weighs_more_but_never_without_bound() -> None:
    once, often = document_vector("cron", 10.0).values[0], document_vector("cron " * 1000, 1000.0).values[0]
    assert once < often < 2.2


def test_a_longer_document_weighs_a_word_less() -> None:
    short = dict(zip(*_pair("cron job"), strict=True))
    long = dict(zip(*_pair("cron job " + " ".join(f"word{n}" for n in range(50))), strict=True))
    place = query_vector("cron").indices[0]
    assert long[place] < short[place]


def _pair(text: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    vector = document_vector(text, 10.0)
    return vector.indices, vector.values


@given(st.text(max_size=400))
def test_any_text_gives_ascending_places_and_positive_weights(text: str) -> None:
    for vector in (document_vector(text, 20.0), query_vector(text)):
        assert list(vector.indices) == sorted(set(vector.indices))
        assert len(vector.indices) == len(vector.values)
        assert all(0 <= index < 2**31 for index in vector.indices)
        assert all(value > 0 for value in vector.values)


def test_a_megabyte_of_log_is_bounded() -> None:
    assert len(tokens("a1b2 " * 300_000)) < 5_000
