"""Which regular expressions mean to Hyperscan at least what they mean to RE2, so that one scan can rule them out.

Both read Perl's syntax, and differ at its edges. A pattern of the common core, sought in ASCII text without a vertical
tab, is found by Hyperscan wherever RE2 finds it (`$` may also stand before a final line feed there, which only finds
more). What is found so is always judged again by RE2.
"""

from __future__ import annotations

import re
from itertools import pairwise

from detect.sigma.syntax import Regex

_TOKEN = re.compile(
    r"""
      \\[dwsDWSbB]                     # classes and word boundaries, ASCII in both
    | \\[tnrf]
    | \\x[0-9a-fA-F]{2}
    | \\[^\w\s]                        # an escaped sign is itself
    | \((?:\?:|\?P?<[A-Za-z_]\w*>|\?[is]{1,2}[:)]|(?!\?))
    | \)
    | \{\d{1,4}(?:,\d{0,4})?\}\??
    | [*+?]\??
    | [|^$.]
    | \[\^?\]?(?:\\[dwsDWS]|\\[tnrf]|\\x[0-9a-fA-F]{2}|\\[^\w\s]|[^\\\]\[])*\]
    | [^\\\[\](){}*+?|^$.\x0b]         # itself
    """,
    re.VERBOSE,
)
# Long repetitions take Hyperscan a second each to compile.
_MOST_REPEATED = 64
_COUNT = re.compile(r"\d+")
_LONG_LINE = re.compile(r"\.\{(\d+),\}")
_FOLDING = re.compile(r"\(\?s?i")


def is_plain(regex: Regex) -> bool:
    """Whether the pattern is written in what both engines read alike."""
    if "m" in regex.flags or "\x00" in regex.pattern:
        return False
    # Without regard to case RE2 takes some letters beyond ASCII for ASCII ones.
    if not regex.pattern.isascii() and ("i" in regex.flags or _FOLDING.search(regex.pattern)):
        return False
    tokens = _tokens(regex.pattern)
    return tokens is not None and all(
        int(count) <= _MOST_REPEATED for token in tokens if token[0] == "{" for count in _COUNT.findall(token)
    )


def shortest(regex: Regex) -> int:
    """Characters that a text must have at least for the pattern to be found in it; 0 where that is not known.

    RE2 takes long for a `.{1000,}`, and most texts are shorter.
    """
    parts = _tokens(regex.pattern) or []
    repeated = [(part, after) for part, after in pairwise(parts) if part[0] in "){"]
    if "|" in parts or any(after[0] in "?*" or (after[0] == "{" and not _least(after)) for _, after in repeated):
        return 0
    return max((_least(part) for part in parts if part[0] == "{"), default=0)


def line_of(regex: Regex) -> int | None:
    """n where the pattern is `.{n,}`: true of ASCII text with so long a line, for which RE2 would take long."""
    line = _LONG_LINE.fullmatch(regex.pattern)
    return int(line[1]) if line and regex.flags in ("", "i") else None


def _least(count: str) -> int:
    return int(_COUNT.findall(count)[0])


def _tokens(pattern: str) -> list[str] | None:
    tokens: list[str] = []
    position = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None:
            return None
        tokens.append(token[0])
        position = token.end()
    return tokens


def is_plain_text(text: str) -> bool:
    """Whether the text is one in which Hyperscan can rule plain patterns out."""
    return text.isascii() and "\x0b" not in text
