"""Which format a log file has, by its content: names say little and lie."""

from __future__ import annotations

from typing import Any, Final, Literal

import orjson

LogFormat = Literal["jsonl", "json", "otlp", "evtx", "text"]
"""jsonl: an object a line. json: one document, an array or object over many lines. otlp: an OTLP/JSON request a line,
as the OpenTelemetry collector's file exporter writes them. evtx: a Windows event log. text: lines of any program."""

FORMATS: Final[tuple[LogFormat, ...]] = ("jsonl", "json", "otlp", "evtx", "text")
HEAD_BYTES: Final = 1 << 16
"""How much of a file the decision may look at."""

_EVTX = b"ElfFile\x00"
# What may stand beside a list of records in lower case, saying nothing about them; beside anything else the list is
# part of a record.
_BESIDE_RECORDS: Final = frozenset(
    {"nextlink", "@odata.nextlink", "@odata.context", "@odata.count", "count", "total", "nexttoken", "next"}
)
_UTF8_MARK = b"\xef\xbb\xbf"


def format_of(head: bytes) -> LogFormat:
    """The format of a file that starts with these bytes (after decompression, at most HEAD_BYTES are looked at)."""
    if head.startswith(_EVTX):
        return "evtx"
    text = _beginning(head)
    if text.startswith(b"["):
        return "json" if _starts_array(text) else "text"
    if not text.startswith(b"{"):
        return "text"
    line, end, following = text.partition(b"\n")
    parsed = _parsed(line)
    if parsed is not None:
        if "resourceLogs" in parsed:
            return "otlp"
        # Of several lines each is judged by itself: one that is bad must not cost the others.
        return "json" if record_list(parsed) is not None and not following.strip() else "jsonl"
    if end:
        return "json" if _continues(line) else "jsonl"
    # The first line is longer than what can be looked at: what it begins with has to do.
    return "otlp" if line[:64].startswith(b'{"resourceLogs"') else "json" if _wraps_records(line) else "jsonl"


def tells_format(head: bytes) -> bool:
    """Whether format_of would say the same however a stream goes on that began so."""
    text = _beginning(head)
    line, end, following = text.partition(b"\n")
    if len(head) >= HEAD_BYTES or head.startswith(_EVTX) or (end and following.strip()):
        return True
    if text.startswith(b"["):
        return bool(text[1:].lstrip())
    if not end:
        return False
    parsed = _parsed(line) if text.startswith(b"{") else None
    return parsed is None or record_list(parsed) is None


def record_list(document: dict[str, Any]) -> list[Any] | None:
    """The records of an object that only wraps them, as CloudTrail and Azure export them; None for any other."""
    if len(document) > 2:
        return None
    for key in ("Records", "records", "value"):
        items = document.get(key)
        if isinstance(items, list) and items and all(isinstance(item, dict) for item in items):
            others = document.keys() - {key}
            return items if all(other.lower() in _BESIDE_RECORDS for other in others) else None
    return None


def _beginning(head: bytes) -> bytes:
    return head[:HEAD_BYTES].removeprefix(_UTF8_MARK).lstrip()


def _starts_array(text: bytes) -> bool:
    """`[` begins an array of objects, or a line such as `[Sun Dec 04 04:47:44 2005] [error] ...`."""
    following = text[1:].lstrip()
    return following[:1] in (b"{", b"]") or not following


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(line)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _continues(line: bytes) -> bool:
    """Whether a line that is no JSON by itself looks like the beginning of an object over several lines."""
    stripped = line.rstrip()
    return stripped == b"{" or stripped.endswith((b",", b"{", b"["))


def _wraps_records(line: bytes) -> bool:
    return line[:64].replace(b" ", b"").lower().startswith((b'{"records":[{', b'{"value":[{'))
