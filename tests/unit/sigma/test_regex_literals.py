"""Wherever RE2 finds a pattern, one of the texts that it is said to require is there: the filter loses nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from detect.sigma import load_rule_set, starter_pack
from detect.sigma.regex import BadRegex, found
from detect.sigma.regex_literals import folded, required_texts
from detect.sigma.syntax import Regex, atoms

STARTER_PATTERNS = sorted(
    {
        atom.literal
        for rule in load_rule_set(starter_pack()).rules
        for atom in atoms(rule.condition)
        if isinstance(atom.literal, Regex)
    }
)
PIECES = st.sampled_from(
    [
        "a",
        "s",
        "K",
        "ab",
        "é",
        r"\.",
        r"\d",
        r"\x41",
        r"\Qb\E",
        "[ab]",
        "[]a]",
        "[[:alpha:]]",
        ".",
        "^",
        "$",
        r"\b",
        "-",
        "]",
        "}",
    ]
)
COUNTS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1}", "{0,1}", "{1,}", "{,2}", "+?"])


def groups(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    opened = st.sampled_from(["(", "(?:", "(?i:", "(?P<name>", "(?-s:"])
    return st.builds(lambda head, body, count: f"{head}{body}){count}", opened, inner, COUNTS)


def sequences(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.lists(inner, min_size=1, max_size=4).map("".join)
    return joined | st.lists(joined, min_size=2, max_size=3).map("|".join) | groups(joined)


PATTERNS = st.recursive(st.builds(str.__add__, PIECES, COUNTS), sequences, max_leaves=10)
TEXTS = st.text(alphabet="aAbBsSkK\u017f\u212aé.-]}0E,{2\n", max_size=12)


@given(PATTERNS, st.sampled_from(["", "i"]), TEXTS)
@example("(?i:s)", "", "\u017f")
@example("k", "i", "\u212a")
@example("[[:alpha:]]b", "", "ab")
@example("a{,2}b", "", "a{,2}b")
@example("a|", "", "")
def test_a_found_pattern_has_a_required_text(pattern: str, flags: str, text: str) -> None:
    regex = Regex(pattern, flags)
    try:
        matched = found(regex, text)
    except BadRegex:
        assume(False)
    required = required_texts(regex)
    if matched and required:
        assert any(piece in folded(text) for piece in required), required


@given(st.sampled_from(STARTER_PATTERNS), st.data())
def test_texts_made_for_the_starter_rules_have_theirs(regex: Regex, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(re.compile(regex.pattern, re.IGNORECASE if "i" in regex.flags else 0)))
    required = required_texts(regex)
    if required and found(regex, text):
        assert any(piece in folded(text) for piece in required), required


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (r"union(?:\s|\+)select\b", {"select"}),
        (r"\b(?:curl|wget)\s", {"curl", "wget"}),
        (r"/etc/g?shadow", {"shadow"}),
        (r"(?:/usr)?/bin/(?:ba|da)sh$", {"/bin/bash", "/bin/dash"}),
        (r"Accepted (?:password )?for", {"accepted "}),
        (r"\(\)\s{0,4}\{", {"()"}),
        (r"(?:abc)?", set()),
        (r"abc|", set()),
        (r"\x41bc", set()),
        (r"\pLabc", set()),
        (r"a(?=b)", set()),
    ],
)
def test_what_is_read_from_a_pattern(pattern: str, texts: set[str]) -> None:
    assert required_texts(Regex(pattern, "")) == texts
