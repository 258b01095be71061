"""The one form in which what is signed between agent and server is written: RFC 8785, restricted.

Objects with sorted keys, arrays, strings, integers, booleans and null; UTF-8; no spaces. No fractions, so that no two
writers can differ about a digit; keys of the Basic Multilingual Plane alone, whose order by code point is the order by
UTF-16 unit that RFC 8785 asks for; no U+0000, which no database's text can hold. Standard library only.
"""

from __future__ import annotations

import json
from typing import Any, Final

MOST_BYTES: Final = 65_536
MOST_DEPTH: Final = 32
MOST_INTEGER: Final = 2**53 - 1


class NotCanonical(ValueError):
    """A value that has no canonical form, or bytes that are not the canonical form of what they say."""


def canonical(value: object, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The canonical form of a value.

    Raises NotCanonical for what has none: another type (fractions and subclasses too), an integer beyond 2^53 - 1, text
    that is not Unicode or holds U+0000, a key beyond U+FFFF, nesting beyond 32, or more than `most_bytes` bytes.
    """
    _check(value, 0)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise NotCanonical("text holds half of a surrogate pair") from error
    if len(data) > most_bytes:
        raise NotCanonical(f"{len(data)} bytes are more than {most_bytes}")
    return data


def read_canonical(data: bytes, *, most_bytes: int = MOST_BYTES) -> Any:
    """What the bytes say. Raises NotCanonical unless they are exactly its canonical form."""
    if len(data) > most_bytes:
        raise NotCanonical(f"{len(data)} bytes are more than {most_bytes}")
    try:
        value = json.loads(data.decode(), parse_float=_no_fraction, parse_constant=_no_fraction)
    except NotCanonical:
        raise
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"not JSON in UTF-8: {type(error).__name__}") from error
    # Whatever the reader forgives (keys twice, spaces, other escapes, -0) is written differently.
    if canonical(value, most_bytes=most_bytes) != data:
        raise NotCanonical("not the canonical form of what it says")
    return value


def _check(value: object, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise NotCanonical(f"nested deeper than {MOST_DEPTH}")
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is int:
        if abs(value) > MOST_INTEGER:  # type: ignore[arg-type]  # `kind` says what it is; subclasses are refused
            raise NotCanonical("an integer beyond 2^53 - 1")
    elif kind is str:
        if "\0" in value:  # type: ignore[operator]
            raise NotCanonical("text holds U+0000")
    elif kind is list:
        for item in value:  # type: ignore[attr-defined]
            _check(item, depth + 1)
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or "\0" in key or (key and max(key) > "\uffff"):
                raise NotCanonical("a key must be text of U+0001 to U+FFFF")
            _check(item, depth + 1)
    else:
        raise NotCanonical(f"{kind.__name__} has no canonical form")


def _no_fraction(text: str) -> Any:
    raise NotCanonical(f"{text[:20]} is not an integer")
