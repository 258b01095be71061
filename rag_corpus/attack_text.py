"""ATT&CK prose as plain text: citation marks, links and markup out, cut-off sentences back to the last whole one."""

from __future__ import annotations

import html
import re

_CITATION = re.compile(r"\(Citation:(?:[^()]|\([^()]*\))*(?:\)|$)")
_LINK = re.compile(r"\[([^\]\[]+)\]\([^)\s]*(?:\)|$)")
_OPEN_LINK = re.compile(r"\[[^\]\[]*$")
_CODE = re.compile(r"</?(?:code|b|i|br|p|ul|li|em|strong)\s*/?>", re.IGNORECASE)
_SPACE = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\s*\n\s*\n\s*")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]?(?=\s|$)")
_LIST_ITEM = re.compile(r"(?:^|\n)\s*[*-]\s+")
_LEFT_BEHIND = re.compile(r" +([.,;:])(?=\s|$)")
_DOUBLED_STOP = re.compile(r"(?<!\.)\.\.(?!\.)")
_CUT_MARK = "..."


def plain_text(markup: str) -> str:
    """The words of an ATT&CK text, paragraphs kept. A text that ends in "..." was cut by its publisher: what follows
    its last whole sentence is dropped, and nothing remains when there was none."""
    cut = markup.rstrip().endswith((_CUT_MARK, "…"))
    text = markup.rstrip().removesuffix("…").removesuffix(_CUT_MARK) if cut else markup
    text = _CITATION.sub("", text)
    text = _LINK.sub(r"\1", text)
    if cut:
        text = _OPEN_LINK.sub("", text)
    text = html.unescape(_CODE.sub("", text))
    text = _SPACE.sub(" ", text)
    text = "\n\n".join(_join_lines(part) for part in _BLANK_LINES.split(text))
    return whole_sentences(text) if cut else text.strip()


def one_line(markup: str) -> str:
    """`plain_text` without paragraphs."""
    return " ".join(plain_text(markup).split())


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last complete sentence; empty when it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def sentences(text: str) -> list[str]:
    """`text` split after sentence ends; joining the parts with a space gives the words back."""
    parts: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        parts.append(text[start : match.end()].strip())
        start = match.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _join_lines(paragraph: str) -> str:
    """A paragraph on one line, its list items on lines of their own. What a removed citation leaves behind (a space
    before a comma, a doubled full stop) goes."""
    items = _LIST_ITEM.split(paragraph)
    lines = (_LEFT_BEHIND.sub(r"\1", " ".join(item.split())) for item in items)
    return "\n- ".join(_DOUBLED_STOP.sub(".", line) for line in lines).strip()
