"""From blocks, documents and event logs to records, with every line on the books: a record's, blank, or named as bad.

Lines count from 0 in the order in which they are entered into the books. A record is built without its place and
time: both are found when it matters.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import orjson
from evtx import PyEvtxParser

from detect.batch import Batch
from detect.otlp import UndecodableBatch, decode
from detect.record import AnyValue, LogRecord, RecordRef
from hunt.blocks import Block
from hunt.log_format import LogFormat, record_list
from hunt.plain_text import mended

NOT_JSON: Final = "not valid JSON"
NO_OBJECT: Final = "JSON, but no object"
TOO_LONG: Final = "longer than 64 MiB"
DAMAGED_EVENT: Final = "damaged event record"
MAX_DOCUMENT_BYTES: Final = 1 << 30
DOCUMENT_TOO_LONG: Final = f"longer than {MAX_DOCUMENT_BYTES >> 30} GiB: write one object a line (jq -c '.[]')"
EVENT_LOG_TOO_LONG: Final = f"an event log of more than {MAX_DOCUMENT_BYTES >> 30} GiB: decompress it first"
MAX_NAMED_BAD: Final = 100
"""Bad lines of one block that are named; the others are only counted."""

_NOWHERE = RecordRef(0, 0)
_BETWEEN_OBJECTS = re.compile(r"[\s,]*")
_NOT_BLANK = re.compile(rb"\S")
_NO_CLAMP: Final = 1 << 62
_RESOURCE: Final[dict[str, AnyValue]] = {}

Placed = tuple[int, LogRecord]
"""A record and the line that it stands on."""


class UnreadableDocument(ValueError):
    """A whole file that cannot be read as what it is."""


@dataclass(slots=True)
class LineBooks:
    """What became of the lines of a block: lines = carrying + blank + the bad ones."""

    lines: int = 0
    carrying: int = 0
    blank: int = 0
    mended: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    named: list[tuple[int, str]] = field(default_factory=list)

    def reject(self, line: int, reason: str, detail: str = "") -> None:
        """The line is bad for that reason, which is one of a few; `detail` is only for the one who reads of it."""
        self.bad[reason] = self.bad.get(reason, 0) + 1
        if len(self.named) < MAX_NAMED_BAD:
            self.named.append((line, f"{reason}: {detail}" if detail else reason))


@dataclass(frozen=True, slots=True)
class Source:
    """A file: its number in the run, its name, and when it was last written, near which its stamps lie (ns)."""

    number: int
    path: str
    modified_ns: int

    def attributes(self) -> dict[str, AnyValue]:
        """What is said of every record of it: OpenTelemetry's names for its file."""
        return {"log.file.name": Path(self.path).name, "log.file.path": self.path}


def block_records(block: Block, log_format: LogFormat, source: Source, books: LineBooks) -> Iterator[Placed]:
    """The records of a block of lines (jsonl, otlp or text), in order; its lines go on from those in the books."""
    match log_format:
        case "otlp":
            yield from _otlp_records(_lines(block.data), source, books)
        case "text":
            yield from _text_records(block.data, source, books)
        case _:
            yield from _object_records(_lines(block.data), source, books)
    for _ in range(block.overlong):
        books.reject(books.lines, TOO_LONG)
        books.lines += 1


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _object_records(lines: list[bytes], source: Source, books: LineBooks) -> Iterator[Placed]:
    attributes, received, loads = source.attributes(), source.modified_ns, orjson.loads
    first, books.lines = books.lines, books.lines + len(lines)
    for number, line in enumerate(lines, start=first):
        sent = ""
        try:
            body = loads(line)
            sent = line.decode()
        except (orjson.JSONDecodeError, RecursionError) as error:
            body = _reread(number, line, error, books)
            if body is None:
                continue
        if body.__class__ is not dict:
            books.reject(number, NO_OBJECT)
            continue
        books.carrying += 1
        if len(body) <= 2 and (items := record_list(body)) is not None:
            for item in items:
                yield number, LogRecord(_NOWHERE, 0, 0, 0, received, 0, "", item, attributes, _RESOURCE)
            continue
        yield number, LogRecord(_NOWHERE, 0, 0, 0, received, 0, "", body, attributes, _RESOURCE, sent=sent)


def _reread(number: int, line: bytes, error: Exception, books: LineBooks) -> dict[str, Any] | None:
    """The object on a line that is valid but for its bytes; None, and on the books, for a blank or bad line."""
    if not line.strip():
        books.blank += 1
        return None
    text, changed = mended(line)
    try:
        # Lone surrogates and numbers like NaN are no JSON to orjson, and written by many all the same.
        body = orjson.loads(text) if changed else orjson.loads(orjson.dumps(_clean(json.loads(text))))
    except (ValueError, TypeError, RecursionError):
        books.reject(number, NOT_JSON, str(error)[:200])
        return None
    if not isinstance(body, dict):
        books.reject(number, NO_OBJECT)
        return None
    books.mended += 1
    return body


_SURROGATES = re.compile("[\ud800-\udfff]")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_SURROGATES.sub("\ufffd", key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def _text_records(data: bytes, source: Source, books: LineBooks) -> Iterator[Placed]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = []
        for piece in data.split(b"\n"):
            text, changed = mended(piece)
            lines.append(text)
            books.mended += changed
    if not lines[-1]:
        lines.pop()
    attributes, received = source.attributes(), source.modified_ns
    first, books.lines = books.lines, books.lines + len(lines)
    for number, text in enumerate(lines, start=first):
        if not text or text.isspace():
            books.blank += 1
            continue
        books.carrying += 1
        line = text[:-1] if text[-1] == "\r" else text
        yield number, LogRecord(_NOWHERE, 0, 0, 0, received, 0, "", line, attributes, _RESOURCE)


def _otlp_records(lines: list[bytes], source: Source, books: LineBooks) -> Iterator[Placed]:
    first, books.lines = books.lines, books.lines + len(lines)
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            books.blank += 1
            continue
        try:
            records = decode(Batch(0, source.modified_ns, "otlp_json", line), _NO_CLAMP)
        except UndecodableBatch as error:
            books.reject(number, "no OTLP/JSON logs request", str(error)[:200])
            continue
        books.carrying += 1
        for record in records:
            yield number, record


def document_records(content: IO[bytes], source: Source, books: LineBooks) -> Iterator[Placed]:
    """The objects of a JSON document: an array of them, an object around them, one, or several after each other.

    Each counts as a line, unless objects around them stand on a line each. Raises UnreadableDocument where the
    document ends being JSON, after the objects before.
    """
    data = content.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableDocument(DOCUMENT_TOO_LONG)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if _is_of_lines(data):
        yield from _object_records(_lines(data), source, books)
        return
    attributes, received = source.attributes(), source.modified_ns
    for number, body in enumerate(_documents(data)):
        books.lines += 1
        if not isinstance(body, dict):
            books.reject(number, NO_OBJECT)
        elif "resourceLogs" in body:
            try:
                records = decode(Batch(0, received, "otlp_json", orjson.dumps(body)), _NO_CLAMP)
            except UndecodableBatch as error:
                books.reject(number, "no OTLP/JSON logs request", str(error)[:200])
                continue
            books.carrying += 1
            for record in records:
                yield number, record
        else:
            books.carrying += 1
            yield number, LogRecord(_NOWHERE, 0, 0, 0, received, 0, "", body, attributes, _RESOURCE)


def _is_of_lines(data: bytes) -> bool:
    """Whether this is one object with records a line, the first being too long for its format to have been seen."""
    end = data.find(b"\n")
    if end < 0 or _NOT_BLANK.search(data, end) is None:
        return False
    try:
        first = orjson.loads(memoryview(data)[:end])
    except (orjson.JSONDecodeError, RecursionError):
        return False
    return isinstance(first, dict) and record_list(first) is not None


def _documents(data: bytes) -> Iterator[Any]:
    try:
        value = orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError):
        yield from _documents_in_turn(mended(data)[0])
        return
    yield from _unwrapped(value)


def _documents_in_turn(text: str) -> Iterator[Any]:
    decoder, position = json.JSONDecoder(), 0
    while True:
        between = _BETWEEN_OBJECTS.match(text, position)
        position = between.end() if between else position
        if position >= len(text):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, position) + 1
            raise UnreadableDocument(f"{NOT_JSON} after line {line}: {str(error)[:200]}") from error
        yield from _unwrapped(_clean(value))


def _unwrapped(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
        return
    items = record_list(value) if isinstance(value, dict) else None
    if items is None:
        yield value
    else:
        yield from items


def event_log_records(content: IO[bytes], source: Source, books: LineBooks) -> Iterator[Placed]:
    """The events of a Windows event log (EVTX), each counted as a line. Raises UnreadableDocument for anything else."""
    attributes, received = source.attributes(), source.modified_ns
    with warnings.catch_warnings(record=True) as damage:
        warnings.simplefilter("always")
        try:
            events: Iterator[Any] = PyEvtxParser(
                _seekable(content), number_of_threads=1, skip_errors=True
            ).records_json()
            for event in events:
                number = books.lines
                books.lines += 1
                try:
                    body = orjson.loads(event["data"])
                except (orjson.JSONDecodeError, KeyError) as error:
                    books.reject(number, DAMAGED_EVENT, str(error)[:200])
                    continue
                books.carrying += 1
                yield number, LogRecord(_NOWHERE, 0, 0, 0, received, 0, "", body, attributes, _RESOURCE)
        except BaseException as error:
            if not isinstance(error, RuntimeError | ValueError | OSError) and not is_panic(error):
                raise
            raise UnreadableDocument(f"not a readable event log: {str(error)[:300]}") from error
        finally:
            for warning in damage:
                books.reject(books.lines, DAMAGED_EVENT, str(warning.message)[:200])
                books.lines += 1


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust failed in a way that its authors did not foresee: no Exception to Python, and of a
    class that cannot be imported."""
    return type(error).__name__ == "PanicException"


def _seekable(content: IO[bytes]) -> IO[bytes]:
    """The event log reader seeks back and forth, which a compressed file cannot do, or only slowly."""
    if isinstance(content, io.BufferedReader) and content.seekable():
        return content
    data = content.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableDocument(EVENT_LOG_TOO_LONG)
    return io.BytesIO(data)
