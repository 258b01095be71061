"""What a log record is: the typed form of one OTLP LogRecord with its resource and scope, and its normalised view.

Times are integers of nanoseconds since the Unix epoch, UTC. A record's id is (tenant, seq, position): the place of
its batch in the tenant's journal and its own place in the batch. It never changes, so evidence points at it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal, NamedTuple, NewType, Protocol
from uuid import UUID

import msgspec
import orjson

TenantId = NewType("TenantId", UUID)
Nanoseconds = int

AnyValue = str | bool | int | float | bytes | list[Any] | dict[str, Any] | None
FieldValue = str | bool | int | float | list[Any] | None

TimeMark = Literal["", "late", "future", "unset"]
Outcome = Literal["success", "failure", "unknown"]
EntityKind = Literal["host", "user", "ip", "process", "file", "hash", "domain", "url", "user_agent", "email"]
EntityRole = Literal["", "actor", "source", "target"]


class RecordRef(NamedTuple):
    """Where a record is stored: journal sequence of its batch and position in it. Its text form is `seq-position`."""

    seq: int
    position: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.position}"

    @classmethod
    def parse(cls, text: str) -> RecordRef:
        """The inverse of str(); raises ValueError for any other text."""
        seq, separator, position = text.partition("-")
        if not (separator and seq.isascii() and seq.isdigit() and position.isascii() and position.isdigit()):
            raise ValueError(f"{text!r} is not a record id: write it as SEQ-POSITION, for example 12-3")
        return cls(int(seq), int(position))


class LogRecord(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One OTLP LogRecord (opentelemetry-proto logs/v1) with its resource and scope, untouched.

    `time_ns` is the event time that detection uses: the stated time, or the observed one where none was stated,
    clamped when it lies in the future of the journal's own receive time. `stated_ns` keeps what the sender wrote.
    `trace_id` and `span_id` are lower-case hex, empty when absent. `sent` is what a body that is a map was read from,
    where that is known and all texts of the map stand in it: a line of JSON, or the pairs of a flat map as OTLP writes
    them, in bytes. It is no part of the record.
    """

    ref: RecordRef
    time_ns: Nanoseconds
    stated_ns: Nanoseconds
    observed_ns: Nanoseconds
    received_ns: Nanoseconds
    severity_number: int
    severity_text: str
    body: AnyValue
    attributes: dict[str, AnyValue]
    resource: dict[str, AnyValue]
    scope: str = ""
    trace_id: str = ""
    span_id: str = ""
    flags: int = 0
    event_name: str = ""
    dropped_attributes: int = 0
    time_mark: TimeMark = ""
    sent: str | bytes = ""

    def __eq__(self, other: object) -> bool:
        """Equal records; what they were read from is no difference."""
        if not isinstance(other, LogRecord):
            return NotImplemented
        return _parts_of(self) == _parts_of(other)

    __hash__ = None  # type: ignore[assignment]  # `attributes` is a dict


class Entity(NamedTuple):
    """Someone or something that a record is about; `value` is in canonical form (lower case where case is noise)."""

    kind: EntityKind
    value: str
    role: EntityRole = ""


class Logsource(NamedTuple):
    """Sigma's logsource of a record (Sigma specification 2.1, Log Source). Unknown parts are empty."""

    product: str = ""
    category: str = ""
    service: str = ""


MAX_MESSAGE = sys.maxsize
"""Characters of a message that nobody cuts."""


class MessageSource(Protocol):
    """Makes the line that a person would read of a record that is no line, when someone wants to read it."""

    def render(self, body: AnyValue, fields: Mapping[str, FieldValue], limit: int = MAX_MESSAGE) -> str:
        """The line's first `limit` characters, of the record's body and its normalised fields; only text that
        PostgreSQL can hold."""
        ...


class NormalizedRecord(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A record with the flat view that rules read.

    `fields` has the field names of the record's logsource (Sigma taxonomy); `text` is the line that the record is, or
    how to make one of its fields; `activity` is a short class of what happened (authentication, session, process,
    http, file, account, service, schedule, network, other), used by rollups and grouping.
    """

    record: LogRecord
    logsource: Logsource
    fields: dict[str, FieldValue]
    entities: tuple[Entity, ...]
    text: str | MessageSource
    activity: str = "other"
    outcome: Outcome = "unknown"

    @property
    def quick_fields(self) -> dict[str, Any]:
        """The fields for who looks at few: where one is a list, a map or bytes, `fields` has what rules read."""
        return self.fields

    @property
    def message(self) -> str:
        """The one line that a person would read; made at each call where the record is none."""
        text = self.text
        return text if isinstance(text, str) else text.render(self.record.body, self.fields)

    def message_start(self, limit: int) -> str:
        """The first so many characters of `message`, without making the rest of it."""
        text = self.text
        return text[:limit] if isinstance(text, str) else text.render(self.record.body, self.fields, limit)

    @property
    def own_text(self) -> str:
        """The line that the record is. Empty where all that its message would say is in `fields`."""
        text = self.text
        return text if isinstance(text, str) else ""

    @property
    def sent(self) -> str | bytes:
        """What all texts in `fields` stand in as their sender wrote it: a JSON object, or the bytes of a flat map in
        OTLP; empty where there is none."""
        return ""

    def __eq__(self, other: object) -> bool:
        """Equal views of equal records; how a message is made is no difference."""
        if not isinstance(other, NormalizedRecord):
            return NotImplemented
        return _compared(self) == _compared(other)

    __hash__ = None  # type: ignore[assignment]  # `fields` is a dict

    def entity(self, kind: EntityKind, role: EntityRole | None = None) -> str | None:
        """The value of the first entity of that kind (and role, when one is given)."""
        for entity in self.entities:
            if entity.kind == kind and (role is None or entity.role == role):
                return entity.value
        return None


_parts_of = attrgetter(*(name for name in LogRecord.__struct_fields__ if name != "sent"))


def _compared(item: NormalizedRecord) -> tuple[object, ...]:
    return item.record, item.logsource, item.fields, item.entities, item.message, item.activity, item.outcome


def canonical_json(record: LogRecord) -> bytes:
    """The record as it is stored and hashed: JSON with sorted keys, times as decimal strings, bytes as base64.

    Lone surrogates become U+FFFD (JSON text must be valid UTF-8); NUL stays as an escape.
    """
    value = {
        "timeUnixNano": str(record.stated_ns),
        "observedTimeUnixNano": str(record.observed_ns),
        "severityNumber": record.severity_number,
        "severityText": record.severity_text,
        "body": record.body,
        "attributes": record.attributes,
        "resource": record.resource,
        "scope": record.scope,
        "traceId": record.trace_id,
        "spanId": record.span_id,
        "flags": record.flags,
        "eventName": record.event_name,
        "droppedAttributesCount": record.dropped_attributes,
    }
    try:
        return orjson.dumps(value, default=_jsonable, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        return orjson.dumps(_mended(value), option=orjson.OPT_SORT_KEYS)


def record_digest(record: LogRecord) -> str:
    """SHA-256 of canonical_json, in hex: what an evidence entry quotes and what a checker recomputes."""
    return hashlib.sha256(canonical_json(record)).hexdigest()


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return _base64(value)
    raise TypeError(f"{type(value).__name__} is no OTLP AnyValue")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
_SURROGATES = re.compile("[\ud800-\udfff]")


def _mended(value: Any) -> Any:
    """The slow path: the same value with text that UTF-8 cannot hold replaced and over-long integers as text."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, bytes):
        return _base64(value)
    if isinstance(value, dict):
        return {_mended(str(key)): _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not _INT64_MIN <= value <= _UINT64_MAX:
        return str(value)
    return value
