"""What a JSON log document says about itself: when, how severe, on which host, from which file. Pure.

Shippers and loggers name these things differently; the names here are those of Elastic Common Schema, OpenTelemetry,
Fluent Bit, Vector, Logstash and the common logging libraries. The document stays as it is: what is read here only
fills the OTLP fields around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from detect.record import Nanoseconds
from serve.ingest.otlp_conversion import FILE_PATH, SourceRecord

_TIME_NAMES: Final = ("@timestamp", "timestamp", "time", "ts")
_SEVERITY_NAMES: Final = ("severity", "level", "log.level")
_HOST_NAMES: Final = ("host.name", "hostname", "host.hostname", "host", "agent.hostname")
_FILE_NAMES: Final = ("log.file.path", "log.file.name")
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_NUMBER: Final = re.compile(r"\d{9,19}(?:\.\d{1,9})?", re.ASCII)
_HOST_LIMIT: Final = 255
_TEXT_LIMIT: Final = 64
_UINT64_MAX: Final = 2**64 - 1

# OpenTelemetry's severity numbers (logs data model, appendix B) for the names that loggers use.
SEVERITIES: Final[Mapping[str, int]] = {
    "trace": 1,
    "debug": 5,
    "info": 9,
    "information": 9,
    "informational": 9,
    "notice": 10,
    "warn": 13,
    "warning": 13,
    "err": 17,
    "error": 17,
    "crit": 18,
    "critical": 18,
    "alert": 19,
    "fatal": 21,
    "emerg": 21,
    "emergency": 21,
    "panic": 21,
}


class NotADocument(ValueError):
    """The text is not one JSON object; the message says in what way."""


def parse_document(text: bytes) -> dict[str, Any]:
    """The JSON object that the text is; raises NotADocument."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotADocument(f"not valid JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise NotADocument("valid JSON, but not an object")
    return value


def document_record(
    text: bytes, document: Mapping[str, Any], attributes: Mapping[str, str] | None = None
) -> SourceRecord:
    """The record of a document: its own text, and what it says about itself beside it."""
    severity_number, severity_text = _severity(document)
    stated = dict(attributes or {})
    path = _file_path(document)
    if path:
        stated[FILE_PATH] = path
    return SourceRecord(text, _time(document), severity_number, severity_text, _host(document), stated)


def nanoseconds_of(value: object) -> Nanoseconds:
    """A stated time: RFC 3339 text, or seconds, milli-, micro- or nanoseconds since the epoch; 0 for all else.

    The unit of a number follows from its size: every unit's present is a thousand times the one before.
    """
    if isinstance(value, bool) or value is None:
        return 0
    if isinstance(value, str):
        text = value.strip()
        if match := _STAMP.fullmatch(text):
            return _from_stamp(match)
        if not _NUMBER.fullmatch(text):
            return 0
        whole, _, fraction = text.partition(".")
        return _scaled(int(whole), int(fraction.ljust(9, "0")) if fraction else 0)
    if isinstance(value, int):
        return _scaled(value, 0)
    if isinstance(value, float) and 0 < value < 1e19:
        whole_part = int(value)
        return _scaled(whole_part, round((value - whole_part) * 1e9))
    return 0


def _from_stamp(match: re.Match[str]) -> Nanoseconds:
    clock, fraction, zone = match.groups()
    try:
        # Without a zone: UTC, as everywhere.
        seconds = int(datetime.fromisoformat(clock + (zone or "Z").upper()).timestamp())
    except ValueError:
        return 0
    return _storable(seconds * 10**9 + (int(fraction.ljust(9, "0")) if fraction else 0))


def _scaled(whole: int, billionths: int) -> Nanoseconds:
    for limit, unit in ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3), (2**63, 1)):
        if 0 < whole < limit:
            return _storable(whole * unit + billionths * unit // 10**9)
    return 0


def _storable(moment: Nanoseconds) -> Nanoseconds:
    # OTLP's field ends in the year 2554; a time beyond it is a mistake.
    return moment if 0 < moment <= _UINT64_MAX else 0


def _time(document: Mapping[str, Any]) -> Nanoseconds:
    for name in _TIME_NAMES:
        if (value := document.get(name)) is not None and (at := nanoseconds_of(value)):
            return at
    return 0


def _severity(document: Mapping[str, Any]) -> tuple[int, str]:
    for name in _SEVERITY_NAMES:
        value = _at(document, name)
        if isinstance(value, str) and (number := SEVERITIES.get(value.strip().lower()[:_TEXT_LIMIT])):
            return number, value.strip()
    return 0, ""


def _host(document: Mapping[str, Any]) -> str:
    return _first_text(document, _HOST_NAMES, _HOST_LIMIT)


def _file_path(document: Mapping[str, Any]) -> str:
    path = _first_text(document, _FILE_NAMES, 4096)
    if not path and document.get("source_type") == "file":
        path = _first_text(document, ("file",), 4096)  # Vector's file source
    return path


def _first_text(document: Mapping[str, Any], names: tuple[str, ...], limit: int) -> str:
    for name in names:
        value = _at(document, name)
        if isinstance(value, str) and 0 < len(value) <= limit:
            return value
    return ""


def _at(document: Mapping[str, Any], name: str) -> object:
    """The value under a dotted name, whether the document nests or writes the dots into its keys."""
    value: Any = document.get(name)
    if value is not None or "." not in name:
        return value
    value = document
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
