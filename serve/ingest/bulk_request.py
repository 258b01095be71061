"""The body of an Elasticsearch `_bulk` request: pairs of lines, an action and a document. Pure.

Only new documents can be stored: logs are append-only. A document that can never be stored fails alone; a line where
an action must stand fails the whole request, because from there on nobody knows which line is which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from serve.ingest.document import NotADocument, document_record, parse_document
from serve.ingest.otlp_conversion import MOST_RECORDS, RECORD_UID, SourceRecord
from serve.ingest.reception import too_many_records

INDEX: Final = "elasticsearch.index"
_STORABLE: Final = frozenset({"create", "index"})
_ACTIONS: Final = frozenset({*_STORABLE, "update", "delete"})
_NAME_LIMIT: Final = 512  # characters of an id or index; Elasticsearch's own limit
_BLANK: Final = re.compile(rb"[\r\n]*")


class MalformedBulk(ValueError):
    """The request as a whole cannot be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class BulkItem:
    """One action. `fault` is an error's type and reason; empty when the document is record `position` of the batch."""

    action: str
    index: str
    id: str
    position: int = -1
    fault: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """All items in the order of the request, and the records of those that can be stored."""

    items: tuple[BulkItem, ...]
    records: tuple[SourceRecord, ...]


def parse_bulk(body: bytes, default_index: str) -> BulkRequest:
    """Reads a decompressed body. Raises MalformedBulk, and WireError 413 for too many items.

    A last line without its newline is taken as it is: the length of the body was checked where it was read.
    """
    items: list[BulkItem] = []
    records: list[SourceRecord] = []
    position, number = 0, 1
    while True:
        start = _end_of_blanks(body, position)
        number += body.count(b"\n", position, start)
        if start >= len(body):
            break
        if len(items) >= MOST_RECORDS:
            raise too_many_records()
        line, position = _line(body, start)
        action, index, identifier = _action(line, number, default_index)
        number += 1
        if action == "delete":
            items.append(BulkItem(action, index, identifier, fault=_append_only(action)))
            continue
        if position >= len(body):
            raise MalformedBulk(f"line {number}: the document of the action {action!r} before it is missing")
        source, position = _line(body, position)
        number += 1
        items.append(_item(action, index, identifier, source, records))
    if not items:
        raise MalformedBulk("the request holds no actions")
    return BulkRequest(tuple(items), tuple(records))


def _item(action: str, index: str, identifier: str, source: bytes, records: list[SourceRecord]) -> BulkItem:
    if action not in _STORABLE:
        return BulkItem(action, index, identifier, fault=_append_only(action))
    try:
        document = parse_document(source)
    except NotADocument as error:
        fault = ("mapper_parsing_exception", f"failed to parse the document: {error}")
        return BulkItem(action, index, identifier, fault=fault)
    attributes = {INDEX: index} if index else {}
    if identifier:
        attributes[RECORD_UID] = identifier
    records.append(document_record(source, document, attributes))
    return BulkItem(action, index, identifier, len(records) - 1)


def _append_only(action: str) -> tuple[str, str]:
    return "illegal_argument_exception", f"logs are append-only: {action} is not possible, send create or index"


def _end_of_blanks(body: bytes, position: int) -> int:
    blanks = _BLANK.match(body, position)
    return blanks.end() if blanks else position


def _line(body: bytes, start: int) -> tuple[bytes, int]:
    end = body.find(b"\n", start)
    if end < 0:
        end = len(body)
    return body[start:end].removesuffix(b"\r"), end + 1


def _action(line: bytes, number: int, default_index: str) -> tuple[str, str, str]:
    """The action, its index and its id (empty when the sender gave none)."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedBulk(f"line {number}: an action must stand here, and this is not JSON: {error.msg}") from None
    if not isinstance(value, dict) or len(value) != 1:
        raise MalformedBulk(f"line {number}: an action must stand here: one object with one key")
    ((action, metadata),) = value.items()
    if action not in _ACTIONS or not isinstance(metadata, dict):
        raise MalformedBulk(f"line {number}: {str(action)[:40]!r} is no action: use create or index with an object")
    return action, _name(metadata, "_index", number) or default_index, _name(metadata, "_id", number)


def _name(metadata: dict[str, Any], key: str, number: int) -> str:
    value = metadata.get(key)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or len(value) > _NAME_LIMIT:
        raise MalformedBulk(f"line {number}: {key} must be text of at most {_NAME_LIMIT} characters")
    return value
