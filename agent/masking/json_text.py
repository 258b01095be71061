"""Masks a text that is a JSON document, and leaves every other byte of it as its sender wrote it.

Where the document is written as orjson writes it, masking the parsed value and writing it again changes nothing else,
and is the quick way. Everywhere else (spaces, escapes, repeated keys, long numbers) values are replaced in the text.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

import orjson

MAX_DEPTH: Final = 64
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]|-?[0-9][0-9.eE+-]*', re.DOTALL)


class Unmaskable(Exception):
    """A value that cannot be masked, and why."""


class FieldLeaf(Protocol):
    """What masks the values of a document; `path` is the keys to one, joined by dots."""

    def text(self, path: str, text: str, hits: list[str], depth: int) -> str:
        """A text masked."""
        ...

    def number(self, path: str, number: int | float, hits: list[str]) -> int | float | str:
        """A number, or the text that stands for it."""
        ...

    def whole(self, path: str, hits: list[str]) -> str | None:
        """What stands for the value whatever it is; None when it has to be looked into."""
        ...


def mask_json(text: str, leaf: FieldLeaf, hits: list[str], depth: int, path: str = "") -> str | None:
    """The document masked; None when the text is no JSON object or array. Raises Unmaskable when it is too deep."""
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
    if not isinstance(value, dict | list):
        return None
    if orjson.dumps(value) == text.encode():
        own: list[str] = []
        masked = mask_value(value, leaf, own, depth, path)
        hits += own
        return orjson.dumps(masked).decode() if own else text
    return _Rewriting(text, leaf, hits, depth).document(path)


def mask_value(value: Any, leaf: FieldLeaf, hits: list[str], depth: int, path: str) -> Any:
    """A parsed value masked; containers are new. Raises Unmaskable when it is too deep."""
    kind = type(value)
    if kind is str:
        return leaf.text(path, value, hits, depth)
    if kind is dict:
        _check_depth(depth)
        return _mask_members(value, leaf, hits, depth + 1, path)
    if kind is list:
        _check_depth(depth)
        return [mask_value(item, leaf, hits, depth + 1, path) for item in value]
    if kind is int or kind is float:
        return leaf.number(path, value, hits)
    return value


def join(path: str, key: str) -> str:
    """The path of a member."""
    return f"{path}.{key}" if path else key


def _mask_members(members: dict[str, Any], leaf: FieldLeaf, hits: list[str], depth: int, path: str) -> dict[str, Any]:
    masked: dict[str, Any] = {}
    for key, value in members.items():
        inner = f"{path}.{key}" if path else key
        kind = type(value)
        if kind is str:  # most are
            masked[key] = leaf.text(inner, value, hits, depth)
        else:
            whole = leaf.whole(inner, hits) if kind is dict or kind is list else None
            masked[key] = mask_value(value, leaf, hits, depth, inner) if whole is None else whole
    return masked


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Unmaskable(f"values are nested deeper than {MAX_DEPTH} levels")


class _Rewriting:
    """One valid document, token by token; `done` is how far it has been copied."""

    def __init__(self, text: str, leaf: FieldLeaf, hits: list[str], depth: int) -> None:
        self._text = text
        self._leaf = leaf
        self._hits = hits
        self._depth = depth
        self._parts: list[str] = []
        self._done = 0
        self._tokens = _TOKEN.finditer(text)

    def document(self, path: str) -> str:
        self._value(next(self._tokens), path, self._depth)
        return "".join((*self._parts, self._text[self._done :]))

    def _value(self, token: re.Match[str], path: str, depth: int) -> None:
        first = token[0][0]
        if first == "{":
            _check_depth(depth)
            self._members(path, depth + 1)
        elif first == "[":
            _check_depth(depth)
            self._items(path, depth + 1)
        elif first == '"':
            clear = orjson.loads(token[0])
            self._replace(token.start(), token.end(), clear, self._leaf.text(path, clear, self._hits, depth))
        else:
            clear = orjson.loads(token[0])
            self._replace(token.start(), token.end(), clear, self._leaf.number(path, clear, self._hits))

    def _members(self, path: str, depth: int) -> None:
        key = ""
        awaits_value = False
        for token in self._tokens:
            sign = token[0]
            if sign == "}":
                return
            if sign == ":":
                awaits_value = True
            elif sign == ",":
                awaits_value = False
            elif awaits_value:
                self._member(token, join(path, key), depth)
                awaits_value = False
            else:
                key = orjson.loads(sign)

    def _member(self, token: re.Match[str], path: str, depth: int) -> None:
        whole = self._leaf.whole(path, self._hits) if token[0] in "{[" else None
        if whole is None:
            self._value(token, path, depth)
        else:
            self._replace(token.start(), self._end_of_container(), None, whole)

    def _items(self, path: str, depth: int) -> None:
        for token in self._tokens:
            if token[0] == "]":
                return
            if token[0] != ",":
                self._value(token, path, depth)

    def _end_of_container(self) -> int:
        open_containers = 1
        for token in self._tokens:
            if token[0] in "{[":
                open_containers += 1
            elif token[0] in "}]":
                open_containers -= 1
                if not open_containers:
                    return token.end()
        raise Unmaskable("a JSON document without an end")

    def _replace(self, start: int, end: int, clear: Any, masked: Any) -> None:
        if masked != clear:
            self._parts += self._text[self._done : start], orjson.dumps(masked).decode()
            self._done = end
