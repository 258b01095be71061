"""Regular expressions: linear on any text, refused when the rule is loaded where they cannot be."""

from __future__ import annotations

import pytest

from detect.sigma.regex import VALUE_LIMIT, BadRegex, compiled, found
from detect.sigma.syntax import Regex


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*a){20}b", ".*.*.*.*.*b"])
def test_patterns_that_make_other_engines_hang_end(pattern: str) -> None:
    """With a backtracking engine the first of these would still run when the universe is cold."""
    assert not found(Regex(pattern, ""), "a" * VALUE_LIMIT)


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "(?P<n>a)(?P=n)", "a{2,1}", "(a{1000}){1000}", "\ud800"])
def test_what_cannot_run_in_linear_time_or_at_all_is_refused(pattern: str) -> None:
    with pytest.raises(BadRegex):
        compiled(Regex(pattern, ""))


def test_only_the_beginning_of_a_huge_value_is_searched() -> None:
    assert found(Regex("x$", ""), "a" * (VALUE_LIMIT - 1) + "xa")
    assert not found(Regex("x", ""), "a" * VALUE_LIMIT + "x")


def test_other_letters_than_ascii_are_characters_and_not_bytes() -> None:
    assert found(Regex("^.é.$", ""), "aéü")
    assert found(Regex("É", "i"), "é")
