"""ATT&CK prose becomes plain sentences an analyst can be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_corpus.attack_text import one_line, plain_text, sentences, whole_sentences


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("Uses DNS.(Citation: A 2020)(Citation: B (x))", "Uses DNS."),
        ("Reads files, (Citation: A) then sends them.", "Reads files, then sends them."),
        ("[APT1](https://attack.mitre.org/groups/G0006) ran <code>net user</code>.", "APT1 ran net user."),
        ("Over Office 365.(Citation: CERT). Further ways exist.", "Over Office 365. Further ways exist."),
        ("a &lt;b&gt; c", "a <b> c"),
        ("Like these:\n\n* SSH\n* FTP", "Like these:\n\n- SSH\n- FTP"),
        ("One.  Two.\n\n\nThree.", "One. Two.\n\nThree."),
        ("Waits ... and goes on.", "Waits ... and goes on."),
    ],
)
def test_marks_and_links_are_removed_and_words_kept(markup: str, plain: str) -> None:
    assert plain_text(markup) == plain


@pytest.mark.parametrize(
    ("cut", "plain"),
    [
        ("One whole sentence. And a seco...", "One whole sentence."),
        ("Whole. See [Empire](https://attack.mitre.org/soft...", "Whole."),
        ("Whole.(Citation: Bitdef...", "Whole."),
        ("Whole. Then [Emp...", "Whole."),
        ("No end in sight here and then...", ""),
        ("Whole. More…", "Whole."),
    ],
)
def test_a_text_its_publisher_cut_ends_with_its_last_whole_sentence(cut: str, plain: str) -> None:
    assert plain_text(cut) == plain


def test_one_line_has_no_paragraphs() -> None:
    assert one_line("One.\n\nTwo.\n* Three") == "One. Two. - Three"


def test_a_version_number_ends_no_sentence() -> None:
    assert sentences("SMB 3.1.1 is used. Done.") == ["SMB 3.1.1 is used.", "Done."]


@given(st.text(alphabet="ab .!?\n()[]*<>&;…", max_size=200))
def test_any_text_is_handled_and_sentences_lose_no_word(text: str) -> None:
    assert plain_text(text) == plain_text(text).strip()
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert text.startswith(whole_sentences(text)) or whole_sentences(text) in text
