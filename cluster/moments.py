"""Moments as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cluster.command_error import UsageError

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_moment(text: str, option: str) -> str:
    """A time as the API wants it (RFC 3339, UTC). `2h` means two hours ago; a time without a zone is UTC."""
    now = datetime.now(UTC)
    try:
        if match := _AGO.fullmatch(text.strip()):
            moment = now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            stated = datetime.fromisoformat(text.strip())
            moment = (stated if stated.tzinfo else stated.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise UsageError(f"{option} {text!r} lies outside the years 1 to 9999") from error
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no time: write 2026-03-01T12:00:00Z, 2026-03-01, or 30m, 2h, 7d for so long ago"
        ) from error
    return moment.isoformat().replace("+00:00", "Z")
