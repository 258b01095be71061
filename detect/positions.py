"""Positions of records in a batch as short text: `0-99,103`. What a rule failed on is mostly runs of neighbours."""

from __future__ import annotations

from collections.abc import Iterable

MAX_CHARACTERS = 4000


def ranges_text(positions: Iterable[int]) -> str:
    """Ascending positions as ranges; empty when they do not fit into MAX_CHARACTERS."""
    parts: list[str] = []
    first = last = -2
    for position in positions:
        if position == last:
            continue
        if position != last + 1:
            if last >= 0:
                parts.append(_part(first, last))
            first = position
        last = position
    if last >= 0:
        parts.append(_part(first, last))
    text = ",".join(parts)
    return text if len(text) <= MAX_CHARACTERS else ""


def in_ranges(text: str) -> set[int]:
    """The inverse of ranges_text; ValueError for any other text."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _part(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
