"""What may stand in a column: values of any origin made fit for Postgres, so that no sender's text can fail a write.

Postgres text holds neither NUL nor a lone surrogate, an index row holds about 2,700 bytes, and a timestamp ends.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from detect.record import Nanoseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
_FIRST_NS = (_FIRST - _EPOCH) // timedelta(microseconds=1) * 1000
_LAST_NS = (_LAST - _EPOCH) // timedelta(microseconds=1) * 1000
_UNFIT = re.compile("[\0\ud800-\udfff]")

MESSAGE_BYTES = 8192
KEY_BYTES = 1024
_DIGEST_BYTES = 19


def timestamp(value: Nanoseconds) -> datetime:
    """Nanoseconds since the epoch as a time of microseconds, clamped to the years 1 to 9999."""
    if value <= _FIRST_NS:
        return _FIRST
    if value >= _LAST_NS:
        return _LAST
    return _EPOCH + timedelta(microseconds=value // 1000)


def nanoseconds(value: datetime) -> Nanoseconds:
    """The inverse of timestamp(), exact for microseconds."""
    return (value - _EPOCH) // timedelta(microseconds=1) * 1000


def iso_time(value: datetime) -> str:
    """RFC 3339 in UTC with Z and microseconds."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def text(value: str, limit: int = MESSAGE_BYTES) -> str:
    """Text that a column holds: NUL and lone surrogates become U+FFFD, cut to `limit` bytes of UTF-8."""
    if value.isascii():
        value = value.replace("\0", "\ufffd") if "\0" in value else value
        if value.isascii():
            return value[:limit]
    mended = _UNFIT.sub("\ufffd", value[:limit])
    return mended.encode()[:limit].decode(errors="ignore")


def key_text(value: str, limit: int = KEY_BYTES) -> str:
    """As text(), for a column in an index: what is too long keeps its start and gains a digest of the whole."""
    mended = _UNFIT.sub("\ufffd", value)
    encoded = mended.encode()
    if len(encoded) <= limit:
        return mended
    digest = hashlib.sha256(encoded).hexdigest()[: _DIGEST_BYTES - 3]
    return f"{encoded[: limit - _DIGEST_BYTES].decode(errors='ignore')}…{digest}"


def json_text(value: Any) -> str:
    """JSON text of any value, without what Postgres's JSON operators refuse: NUL, lone surrogates, huge integers."""
    try:
        encoded = orjson.dumps(value, default=_jsonable)
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        encoded = orjson.dumps(_mended(value))
    if b"\\u0000" in encoded:
        encoded = orjson.dumps(_mended(value))
    return encoded.decode()


def bounded(value: float, low: float, high: float) -> float:
    """The number within [low, high]; what is no number becomes `low`."""
    return low if math.isnan(value) else min(max(value, low), high)


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    raise TypeError(f"{type(value).__name__} has no JSON form")


_DEEPEST = 100


def _mended(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return "… (nested too deeply)"
    if isinstance(value, str):
        return _UNFIT.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_mended(str(key)): _mended(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item, depth + 1) for item in value]
    if isinstance(value, bool | float) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, bytes | set | frozenset):
        return _mended(_jsonable(value), depth + 1)
    return _UNFIT.sub("\ufffd", str(value))
