"""What other programs say, made fit for logs and answers: no control characters, no secrets, no floods."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

# All that is not text: a terminal that shows it must not obey it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# Shorter values are no secrets, and would tear holes into words.
_SECRET_LENGTH: Final = 8


def printable(text: str) -> str:
    """The text with U+FFFD for every control character but newline and tab; it has a canonical form."""
    return _CONTROL.sub("\ufffd", text)


def without_values(text: str, environment: Mapping[str, str]) -> str:
    """The text with `[NAME]` for the value of each of the variables, except for PATH."""
    for name, value in environment.items():
        if name != "PATH" and len(value) >= _SECRET_LENGTH:
            text = text.replace(value, f"[{name}]")
    return text


class LineLog:
    """Hands on what a program writes, at most `burst` lines at once and `per_second` after that; counts the rest.

    `clock` is in seconds and never goes back.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float], *, burst: int = 100, per_second: float = 5.0
    ) -> None:
        self._write = write
        self._clock = clock
        self._burst = float(burst)
        self._per_second = per_second
        self._tokens = float(burst)
        self._last = clock()
        self._left_out = 0

    def line(self, text: str) -> None:
        """One line, without its end."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._per_second)
        self._last = now
        if self._tokens < 1.0:
            self._left_out += 1
            return
        self._tokens -= 1.0
        self.end()
        self._write(text)

    def end(self) -> None:
        """Says how many lines were left out, where any were."""
        if self._left_out:
            self._write(f"{self._left_out} further lines are not in this log")
            self._left_out = 0
