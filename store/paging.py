"""Cursors: where a page of a search ended, as opaque text. They carry no right, so they are validated, not signed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from store.values import nanoseconds, timestamp

LARGEST_PAGE = 1000
_TEXT = re.compile(r"[A-Za-z0-9_-]{1,256}")
_BIGINT_MAX = 2**63 - 1
_MICROS_MAX = nanoseconds(timestamp(_BIGINT_MAX * 1000)) // 1000
_MICROS_MIN = nanoseconds(timestamp(-_BIGINT_MAX * 1000)) // 1000


class InvalidCursor(ValueError):
    """The text is no cursor of this search."""

    def __init__(self) -> None:
        super().__init__("the cursor is not one that this search gave: leave it out to begin at the first page")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of rows ready for JSON; `next_cursor` is None on the last."""

    items: list[dict[str, Any]]
    next_cursor: str | None


def encode_cursor(search: str, time: datetime, *rest: UUID | int) -> str:
    """The cursor after a row of the search named `search` (so that one search's cursor does not fit another)."""
    parts: list[Any] = [search, nanoseconds(time) // 1000]
    parts += [item.hex if isinstance(item, UUID) else item for item in rest]
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def decode_time_and_id(search: str, cursor: str | None) -> tuple[datetime, UUID]:
    """The row that a cursor of (time, id) names; for None one after all rows. Raises InvalidCursor."""
    if cursor is None:
        return timestamp(_BIGINT_MAX * 1000), UUID(int=2**128 - 1)
    time, identifier = _parts(search, cursor, 2)
    if not isinstance(identifier, str) or not re.fullmatch(r"[0-9a-f]{32}", identifier):
        raise InvalidCursor
    return _time(time), UUID(identifier)


def decode_time_and_ref(search: str, cursor: str | None) -> tuple[datetime, int, int]:
    """The row that a cursor of (time, seq, position) names; for None one after all rows. Raises InvalidCursor."""
    if cursor is None:
        return timestamp(_BIGINT_MAX * 1000), _BIGINT_MAX, 2**31 - 1
    time, seq, position = _parts(search, cursor, 3)
    return _time(time), _integer(seq, _BIGINT_MAX), _integer(position, 2**31 - 1)


def page_size(limit: int) -> int:
    """The limit within 1 and LARGEST_PAGE."""
    return min(max(limit, 1), LARGEST_PAGE)


def _parts(search: str, cursor: str, count: int) -> Sequence[Any]:
    if not _TEXT.fullmatch(cursor):
        raise InvalidCursor
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (orjson.JSONDecodeError, binascii.Error):
        raise InvalidCursor from None
    if not isinstance(parts, list) or len(parts) != count + 1 or parts[0] != search:
        raise InvalidCursor
    return parts[1:]


def _integer(value: Any, largest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InvalidCursor
    return value


def _time(value: Any) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int) or not _MICROS_MIN <= value <= _MICROS_MAX:
        raise InvalidCursor
    return timestamp(value * 1000)
