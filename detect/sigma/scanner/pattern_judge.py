"""`pattern_holds` for one pattern, with everything found out beforehand that does not depend on the text."""

from __future__ import annotations

from collections.abc import Callable

from detect.sigma.syntax import Pattern, Segment
from detect.sigma.values import pattern_holds


class _Piece:
    """A segment: how long it is, and which literals stand where in it."""

    __slots__ = ("anchor", "length", "offset", "others")

    def __init__(self, segment: Segment) -> None:
        places: list[tuple[int, str]] = []
        position = 0
        for piece in segment:
            if isinstance(piece, str):
                places.append((position, piece))
                position += len(piece)
            else:
                position += piece
        self.length = position
        # The longest literal is the rarest.
        self.offset, self.anchor = max(places, key=lambda place: len(place[1]), default=(0, ""))
        self.others = tuple(place for place in places if place != (self.offset, self.anchor))

    def at(self, text: str, position: int) -> bool:
        """Whether the segment stands there; the text must be long enough."""
        return text.startswith(self.anchor, position + self.offset) and all(
            text.startswith(literal, position + offset) for offset, literal in self.others
        )

    def find(self, text: str, start: int, end: int) -> int:
        """The first position from `start` at which it stands and ends before `end`; -1 when there is none."""
        last = end - self.length
        offset, anchor = self.offset, self.anchor
        if not anchor:
            return start if start <= last else -1
        position = text.find(anchor, start + offset, last + offset + len(anchor)) - offset
        while position >= start:
            if not self.others or self.at(text, position):
                return position
            position = text.find(anchor, position + offset + 1, last + offset + len(anchor)) - offset
        return -1


def pattern_judge(pattern: Pattern) -> Callable[[str, str], bool]:
    """Whether the pattern is true of a text in lower case, which is the second argument."""
    if len(pattern.segments) < 2:
        return lambda _text, lowered: pattern_holds(pattern, lowered)
    words = [segment[0] if segment else "" for segment in pattern.segments if len(segment) < 2]
    texts = [word for word in words if isinstance(word, str)]
    if len(texts) == len(pattern.segments):
        return _text_judge(texts)
    first, *middle, last = map(_Piece, pattern.segments)
    least = sum(_Piece(segment).length for segment in pattern.segments)

    def judge(_text: str, lowered: str) -> bool:
        end = len(lowered) - last.length
        if len(lowered) < least or not first.at(lowered, 0) or not last.at(lowered, end):
            return False
        position = first.length
        for piece in middle:
            position = piece.find(lowered, position, end)
            if position < 0:
                return False
            position += piece.length
        return True

    return judge


def _text_judge(texts: list[str]) -> Callable[[str, str], bool]:
    """The same for a pattern without `?`."""
    first, *middle, last = texts
    least = sum(map(len, texts))

    def judge(_text: str, lowered: str) -> bool:
        if len(lowered) < least or not lowered.startswith(first) or not lowered.endswith(last):
            return False
        position, end = len(first), len(lowered) - len(last)
        for text in middle:
            position = lowered.find(text, position, end)
            if position < 0:
                return False
            position += len(text)
        return True

    return judge
