"""Does a text speak to its reader? Log lines record; instructions address. A tainted text never reaches a prompt.

A score, not a parser: each sign adds points, and several readings of the text are scored (as written, unescaped,
decoded from base64 or hex, with look-alike letters folded, spaced-out letters joined, reversed, rot13). The words are
data (injection_words.json). Wrong alarms cost a quotation in a prompt, misses are caught by the guard on the way out.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import orjson

SCAN_LIMIT = 8192
THRESHOLD = 3.0

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SEGMENT = re.compile(r"(?:^|[.!?:;\"'`(\[{|<>=*#\n,—–-]|\buser\s|\becho\s)\s*")
_QUESTION = re.compile(
    r"(?:^|[\s\"'(\[:])(what(?:'s|’s)?|how|why|who|when|where|which|can|could|would|should|will|is|are|do|does|did)"
    r"\s+(?:[^\s?]+\s+){1,40}?[^\s?]+\s*\?",
    re.IGNORECASE,
)
_RUN_END = re.compile(r"[^\w\s,'’.?!-]|\d|_|(?<=\w)[.:/\\-](?=\w)")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){12,}")
_ESCAPED = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|([nrt\"'\\/]))")
_SPACED = re.compile(r"\b(?:[^\W\d_][\s.\-_*]){4,}[^\W\d_]\b")
_LOOKALIKE = str.maketrans("аеорсухіјѕԁһгпкмтвӏοανειρκυ", "aeopcyxijsdhrnkmtbloaveipku")
_LEET = str.maketrans("01345@$", "oieasas")
_SPECIAL = re.compile(
    r"<\|[^|<>]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|"
    r"</?(?:system|assistant|instructions?|system_prompt|user_prompt)>",
    re.IGNORECASE,
)


class _Words(NamedTuple):
    imperatives: frozenset[str]
    objects: frozenset[str]
    address: frozenset[str]
    self: frozenset[str]
    speech: frozenset[str]
    function: frozenset[str]
    phrases: tuple[re.Pattern[str], ...]


@lru_cache(maxsize=1)
def _words() -> _Words:
    raw: dict[str, Any] = orjson.loads(files("advise").joinpath("injection_words.json").read_bytes())
    phrases = tuple(re.compile(phrase, re.IGNORECASE) for phrase in raw.pop("phrases"))
    return _Words(**{name: frozenset(raw[name]) for name in _Words._fields if name != "phrases"}, phrases=phrases)


class Taint(NamedTuple):
    """How strongly a text reads like an instruction, and the signs that say so; `tainted` at THRESHOLD points.

    `foreign`: it holds words in a script whose instructions this module knows only in part. People may read it, a
    prompt may not hold it.
    """

    score: float
    signs: tuple[str, ...]
    foreign: bool = False

    @property
    def tainted(self) -> bool:
        """True when the text must be withheld from prompts and from rendered statements."""
        return self.score >= THRESHOLD


@lru_cache(maxsize=1024)
def judge(text: str, *, fluent: bool = False) -> Taint:
    """The highest score over all readings of the first SCAN_LIMIT characters.

    `fluent`: running language is no sign here, as it is in a log line, because the text is meant to be a sentence.
    """
    best = Taint(0.0, ())
    opening = text[:SCAN_LIMIT]
    for hidden in (opening[::-1], codecs.encode(opening, "rot13")):
        score, signs = _phrase(hidden.lower())
        if score:
            return Taint(score, ("hidden", *signs))
    for reading in _readings(opening):
        taint = _score(reading, fluent)
        if taint.score > best.score or (taint.foreign and not best.foreign):
            best = Taint(max(taint.score, best.score), taint.signs, taint.foreign or best.foreign)
        if best.tainted:
            break
    return best


def is_tainted(text: str) -> bool:
    """Shorthand for judge(text).tainted."""
    return judge(text).tainted


def split_tainted(texts: Sequence[str], window: int = 4) -> frozenset[int]:
    """Positions of texts that only together read like an instruction: one sentence cut over neighbouring records.

    What neighbours share is the record's fixed wording; what is left of each, put in a row, is what the sender chose.
    """
    found: set[int] = set()
    words = [text[:SCAN_LIMIT].split() for text in texts]
    clear = [index for index, text in enumerate(texts) if not is_tainted(text)]
    for start in range(len(clear) - 1):
        for size in range(2, min(window, len(clear) - start) + 1):
            members = clear[start : start + size]
            shared = set.intersection(*(set(words[index]) for index in members))
            rest = " ".join(word for index in members for word in words[index] if word not in shared)
            if rest and is_tainted(rest):
                found.update(members)
                break
    return frozenset(found)


def _readings(text: str) -> Iterable[str]:
    plain = unicodedata.normalize("NFKC", text)
    plain = "".join(char for char in plain if unicodedata.category(char) not in {"Cf", "Cc"} or char in "\n\t ")
    yield plain
    opened = unquote_plus(html.unescape(_ESCAPED.sub(_unescape, plain)), errors="replace") if _coded(plain) else plain
    if opened != plain:
        yield opened
    folded = _fold(opened)
    if folded != opened:
        yield folded
    yield from _decoded(opened)
    if _SPACED.search(opened):
        yield _SPACED.sub(lambda match: re.sub(r"[\s.\-_*]", "", match[0]), opened)


def _coded(text: str) -> bool:
    return any(mark in text for mark in ("%", "\\", "&", "+"))


def _unescape(match: re.Match[str]) -> str:
    byte, unit, plain = match.groups()
    if byte or unit:
        return chr(int(byte or unit, 16))
    return {"n": "\n", "r": "\n", "t": " "}.get(plain, plain)


def _fold(text: str) -> str:
    """Look-alike letters inside words that also hold Latin ones, accents, and digits used as letters."""

    def fold_word(match: re.Match[str]) -> str:
        word = match[0].lower()
        stripped = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
        latin = stripped.translate(_LOOKALIKE)
        return latin.translate(_LEET) if latin.isascii() and sum(c.isalpha() for c in latin) >= 2 else word

    return re.sub(r"[^\s]*[^\W_][^\s]*", fold_word, text)


def _decoded(text: str) -> Iterable[str]:
    for match in list(_BASE64.finditer(text))[:8]:
        chunk = match[0].rstrip("=").replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(chunk[: len(chunk) - (len(chunk) % 4 == 1)] + "=" * (-len(chunk) % 4))
        except (binascii.Error, ValueError):
            continue
        yield from _as_text(raw)
    for match in list(_HEX.finditer(text))[:8]:
        yield from _as_text(bytes.fromhex(match[0]))


def _as_text(raw: bytes) -> Iterable[str]:
    encoding = "utf-16-le" if len(raw) > 4 and raw[1::2].count(0) > len(raw) // 3 else "utf-8"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return
    if sum(char.isprintable() or char.isspace() for char in text) >= 0.95 * len(text):
        yield text


def _score(text: str, fluent: bool) -> Taint:
    if _SPECIAL.search(text):
        return Taint(THRESHOLD + 1, ("chat template token",))
    known = _words()
    lowered = text.lower().replace("’", "'")
    score, signs = _phrase(lowered)
    runs = [words for run in _RUN_END.split(lowered) if len(words := _WORD.findall(run)) >= 3]
    spoken = [word for words in runs for word in words]
    for name, set_of_words, weight, cap in (
        ("addresses a reader", known.address, 2.0, 4.0),
        ("speaks of itself", known.self, 0.7, 1.4),
        ("speaks of text", known.speech, 1.0, 3.0),
    ):
        if hits := sum(word in set_of_words for word in spoken):
            score += min(cap, weight * hits)
            signs.append(name)
    if imperative := _imperative(lowered):
        score += 3
        signs.append(f"imperative {imperative!r}")
    if _QUESTION.search(text):
        score += 4
        signs.append("question")
    if prose := 0.0 if fluent else max((_prose(words) for words in runs), default=0.0):
        score += prose
        signs.append("prose")
    return Taint(score, tuple(signs), _foreign(text))


def _phrase(lowered: str) -> tuple[float, list[str]]:
    spaced = lowered.replace("_", " ")
    for phrase in _words().phrases:
        if found := phrase.search(spaced):
            return 4.0, [f"phrase {found[0].strip()[:40]!r}"]
    return 0.0, []


def _imperative(text: str) -> str:
    known = _words()
    for match in _SEGMENT.finditer(text):
        pair = _WORD.findall(text[match.end() : match.end() + 60])[:2]
        if len(pair) == 2 and pair[0] in known.imperatives and pair[1] in known.objects:
            return " ".join(pair)
    return ""


def _prose(words: Sequence[str]) -> float:
    """Points for a run of plain words that holds function words as running language does."""
    function = _words().function
    share = sum(word in function for word in words) / len(words)
    return float((len(words) >= 6) + (len(words) >= 9) + (len(words) >= 14)) if share >= 0.3 else 0.0


def _foreign(text: str) -> bool:
    letters = [char for char in text if char > "\u024f" and char.isalpha()]
    return len(letters) >= 6 and sum(one != two for one, two in pairwise(letters)) >= 4
