"""Text of logs on a terminal. What a log says is an attacker's to choose, and terminals obey control sequences."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

# C0 and C1 controls drive the terminal; the bidirectional and zero-width ones make text read as what it is not.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def where_the_command_is() -> str | None:
    """The folder to call `trustsoc` from, when the shell would not find it; None when it would."""
    if shutil.which("trustsoc"):
        return None
    folder = Path(sys.executable).parent
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    return str(folder)


def visible(value: object) -> str:
    """The value as one line of harmless text: control characters become escapes that a person can read."""
    return _UNSAFE.sub(_escape, value if isinstance(value, str) else str(value))


def text(value: object, style: str = "") -> Text:
    """Harmless text for rich, which never reads markup or emoji codes in it."""
    return Text(visible(value), style=style)


def shortened(value: object, length: int) -> str:
    """Harmless text of at most `length` characters."""
    line = visible(value)
    return line if len(line) <= length else line[: length - 1] + "…"


def utc(value: Any, *, fraction: bool = False) -> str:
    """An ISO 8601 time as `2026-03-01 12:00:00Z`, in UTC; what is no such time comes back as it is."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return "-" if value is None else visible(value)
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z" if fraction else moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character == "\t":
        return "    "
    if character in "\r\n":
        return "⏎"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
