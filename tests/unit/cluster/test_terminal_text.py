"""Text that an attacker wrote, on a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.terminal_text import shortened, utc, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 日本 [bold]", "plain é 日本 [bold]"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\tb\nc\r", "a    b⏎c⏎"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202etxt.exe\u200b", "\\u202etxt.exe\\u200b"),
        ("\ud800", "\\ud800"),
        (None, "None"),
        (5, "5"),
    ],
)
def test_controls_become_visible(text: object, expected: str) -> None:
    assert visible(text) == expected


@given(st.text(st.characters()))
def test_nothing_that_drives_a_terminal_is_left(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"} for character in shown)
    shown.encode("utf-8")


def test_long_text_is_cut_with_a_sign() -> None:
    assert shortened("x" * 10, 10) == "x" * 10
    assert shortened("x" * 11, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-01T12:00:05.123456Z", "2026-03-01 12:00:05Z"),
        ("2026-03-01T12:00:05+02:00", "2026-03-01 10:00:05Z"),
        ("2026-03-01T12:00:05", "2026-03-01 12:00:05Z"),
        ("soon\x1b", "soon\\x1b"),
        (None, "-"),
        (5, "5"),
    ],
)
def test_times_are_utc(value: object, expected: str) -> None:
    assert utc(value) == expected


def test_fractions_on_request() -> None:
    assert utc("2026-03-01T12:00:05.123456Z", fraction=True) == "2026-03-01 12:00:05.123Z"
