"""What a hunt found, as programs read it: one JSON object a line, or CSV.

A line of JSON has, always and in this order:

    kind        "rule" or "correlation"
    rule        {"id", "title", "level", "status", "tags", "author", "license", "path"}
    time        event time, RFC 3339 in UTC; null where the record states none
    file, line  where the record is; in JSON documents and event logs `line` is the number of the record, from 1
    matched     the fields that met the rule, with their values; of a correlation: count, group, timespan
    record      the record: an object as it came, {"message": line} for a line, all parts of an OTLP record;
                of a correlation {"message": ...} of the record that completed it
    attributes  the record's OTLP attributes; log.file.name and log.file.path for what came as no OTLP

A correlation also has `end` (the time of its last record) and `records`, its evidence: [{"file", "line", "time",
"message"}], the first and last ten of many. Author and license are there because the Detection Rule License asks it.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final, Protocol, TextIO

import msgspec
import orjson

from detect.event import Severity
from detect.record import Nanoseconds
from detect.sigma.rule import RuleHeader

CSV_COLUMNS: Final = (
    "time", "level", "title", "rule_id", "kind", "file", "line", "matched", "message", "tags", "author",
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A spreadsheet takes a cell that begins so for a formula, and what a log says is an attacker's to choose.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Found(msgspec.Struct, frozen=True):
    """One match or one met correlation. `tail` is the JSON of the line from `matched` on, without its first brace."""

    rule: RuleHeader
    kind: str
    time_ns: Nanoseconds | None
    file: str
    line: int
    message: str
    tail: bytes

    @property
    def level(self) -> Severity:
        return self.rule.level


class FoundWriter(Protocol):
    """Where findings go, in the order of the files; correlations last."""

    def write(self, found: Found) -> None:
        """Takes one finding."""
        ...

    def flush(self) -> None:
        """Lets whoever reads along see what was written."""
        ...


class JsonLinesWriter:
    """JSON lines in UTF-8. A rule's own part is put together once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._heads: dict[str, bytes] = {}

    def write(self, found: Found) -> None:
        """Writes one line. Raises OSError."""
        self._stream.write(self.line(found) + b"\n")

    def line(self, found: Found) -> bytes:
        """The line, without its end."""
        head = self._heads.get(found.rule.id)
        if head is None:
            rule = {
                "id": found.rule.id, "title": found.rule.title, "level": found.rule.level,
                "status": found.rule.status, "tags": found.rule.tags, "author": found.rule.author,
                "license": found.rule.license, "path": found.rule.path,
            }  # fmt: skip
            head = self._heads[found.rule.id] = b'{"kind":%b,"rule":%b,' % (
                orjson.dumps(found.kind),
                orjson.dumps(rule),
            )
        place = b'"time":%b,"file":%b,"line":%d,' % (
            orjson.dumps(rfc3339(found.time_ns)),
            orjson.dumps(found.file),
            found.line,
        )
        return head + place + found.tail

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._stream.flush()


class CsvWriter:
    """CSV with a heading (RFC 4180); cells that a spreadsheet would take for a formula begin with an apostrophe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows = csv.writer(stream, lineterminator="\r\n")
        self._rows.writerow(CSV_COLUMNS)

    def write(self, found: Found) -> None:
        """Writes one row. Raises OSError."""
        matched = orjson.loads(b"{" + found.tail)["matched"]
        self._rows.writerow(
            map(
                _cell,
                (
                    rfc3339(found.time_ns) or "", found.level, found.rule.title, found.rule.id, found.kind, found.file,
                    found.line, matched_text(matched), found.message, " ".join(found.rule.tags), found.rule.author,
                ),
            )
        )  # fmt: skip

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._stream.flush()


def matched_text(matched: dict[str, Any]) -> str:
    """`Field=value; Other=value`, for a person."""
    return "; ".join(
        f"{name}={value if isinstance(value, str) else orjson.dumps(value).decode()}"
        for name, value in matched.items()
        if name not in ("rule_author", "rule_license")
    )


def rfc3339(time_ns: Nanoseconds | None) -> str | None:
    """A time as RFC 3339 in UTC, with as many digits of a second as are needed, at most six; None for None."""
    if time_ns is None:
        return None
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        return None
    return moment.isoformat().replace("+00:00", "Z")


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
