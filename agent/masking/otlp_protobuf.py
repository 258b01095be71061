"""Masks an OTLP/protobuf request. What the schema does not know is left out: nobody could say what it holds."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError

from agent.masking.json_text import MAX_DEPTH, Unmaskable, join
from agent.masking.otlp_schema import key_value_class, request_class, resource_class, scope_class
from agent.masking.tally import MaskingTally, Undecodable
from agent.masking.values import ValueMasker

_REMEMBERED: Final = 4_000
"""Attributes in one of two generations."""
_MAX_REMEMBERED_BYTES: Final = 512
FAILED_KEY: Final = "trustsoc.masking"
"""The attribute of a record that was stored without its content."""

_Known = tuple[bytes, tuple[str, ...]]


class ProtobufMasker:
    """Masks requests by one policy and one key. Not for use by two threads."""

    def __init__(self, values: ValueMasker, *, closed: bool, redact_binary: bool) -> None:
        self._values = values
        self._closed = closed
        self._redact_binary = redact_binary
        self._known: dict[bytes, _Known] = {}
        self._known_before: dict[bytes, _Known] = {}

    def mask(self, body: bytes, tally: MaskingTally) -> bytes:
        """The request masked. Raises Undecodable for what is no OTLP request."""
        try:
            request = request_class().FromString(body)
        except DecodeError as error:
            raise Undecodable("the body is no ExportLogsServiceRequest") from error
        request.DiscardUnknownFields()
        for resource_logs in request.resource_logs:
            if resource_logs.resource:
                resource_logs.resource = self._named(resource_logs.resource, resource_class(), tally)
            for scope_logs in resource_logs.scope_logs:
                if scope_logs.scope:
                    scope_logs.scope = self._named(scope_logs.scope, scope_class(), tally)
                for record in scope_logs.log_records:
                    self._record(record, tally)
        masked: bytes = request.SerializeToString()
        return masked

    def _record(self, record: Any, tally: MaskingTally) -> None:
        hits: list[str] = []
        try:
            if record.HasField("body"):
                self._value(record.body, "", hits, 0)
            for place, raw in enumerate(record.attributes):
                masked = self._attribute(raw, hits)
                if masked is not raw:
                    record.attributes[place] = masked
            if record.severity_text:
                record.severity_text = self._plain(record.severity_text, hits)
            if record.event_name:
                record.event_name = self._plain(record.event_name, hits)
        except Exception as error:  # whatever it is: what could not be masked must not be stored in clear
            if self._closed:
                _empty(record, type(error).__name__)
            tally.failed(error, closed=self._closed)
            return
        tally.record(hits)

    def _attribute(self, raw: bytes, hits: list[str]) -> bytes:
        """The bytes of a KeyValue masked; the same object where nothing is."""
        known = self._known.get(raw)
        if known is None:
            known = self._known_before.get(raw) or self._read_attribute(raw)
            if len(raw) <= _MAX_REMEMBERED_BYTES:
                if len(self._known) >= _REMEMBERED:
                    self._known_before, self._known = self._known, {}
                self._known[raw] = known
        if known[1]:
            hits += known[1]
        return known[0] if known[0] != raw else raw

    def _read_attribute(self, raw: bytes) -> _Known:
        pair = key_value_class().FromString(raw)
        pair.DiscardUnknownFields()
        own: list[str] = []
        self._member(pair, "", own, 0)
        return pair.SerializeToString(), tuple(own)

    def _named(self, raw: bytes, message_class: Any, tally: MaskingTally) -> bytes:
        """A resource or scope masked; without its content where it cannot be."""
        hits: list[str] = []
        try:
            message = message_class.FromString(raw)
            message.DiscardUnknownFields()
            for name in ("name", "version"):
                text = getattr(message, name, b"")
                if text:
                    setattr(message, name, self._plain(text, hits) if name == "name" else text)
            for pair in message.attributes:
                self._member(pair, "", hits, 0)
        except Exception as error:  # as for a record
            tally.failed(error, closed=self._closed, records=0)
            return b"" if self._closed else raw
        tally.hits(hits)
        masked: bytes = message.SerializeToString()
        return masked

    def _member(self, pair: Any, path: str, hits: list[str], depth: int) -> None:
        inner = join(path, pair.key.decode("utf-8", "replace"))
        value = pair.value
        if value.WhichOneof("value") in ("array_value", "kvlist_value", "bytes_value"):
            whole = self._values.whole(inner, hits)
            if whole is not None:
                value.string_value = whole.encode()
                return
        self._value(value, inner, hits, depth)

    def _value(self, value: Any, path: str, hits: list[str], depth: int) -> None:
        match value.WhichOneof("value"):
            case "string_value":
                raw = value.string_value
                masked = self._text(raw, path, hits, depth)
                if masked != raw:
                    value.string_value = masked
            case "int_value":
                _set_number(value, value.int_value, self._values.number(path, value.int_value, hits))
            case "double_value":
                _set_number(value, value.double_value, self._values.number(path, value.double_value, hits))
            case "array_value":
                _check_depth(depth)
                for item in value.array_value.values:
                    self._value(item, path, hits, depth + 1)
            case "kvlist_value":
                _check_depth(depth)
                for pair in value.kvlist_value.values:
                    self._member(pair, path, hits, depth + 1)
            case "bytes_value":
                self._binary(value, path, hits, depth)
            case "bool_value" | None:
                pass
            case other:
                raise Unmaskable(f"a value of the unknown kind {other}")

    def _binary(self, value: Any, path: str, hits: list[str], depth: int) -> None:
        raw = value.bytes_value
        if is_text(raw):
            value.bytes_value = self._text(raw, path, hits, depth)
        elif self._redact_binary and raw:
            hits.append("binary")
            value.bytes_value = b"[redacted:binary]"

    def _text(self, raw: bytes, path: str, hits: list[str], depth: int) -> bytes:
        text = raw.decode("utf-8", "surrogateescape")
        return self._values.text(path, text, hits, depth).encode("utf-8", "surrogateescape")

    def _plain(self, raw: bytes, hits: list[str]) -> bytes:
        """A short text that is no attribute; remembered as one with an empty key."""
        return self._text(raw, "", hits, 0)


def is_text(raw: bytes) -> bool:
    """Whether bytes are text that can be searched: UTF-8 without control characters but white space."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)


def _set_number(value: Any, clear: int | float, masked: int | float | str) -> None:
    if isinstance(masked, str):
        value.string_value = masked.encode()


def _empty(record: Any, reason: str) -> None:
    """Leaves of a record what says nothing about anybody: times, severity, flags and ids."""
    for name in ("body", "attributes", "severity_text", "event_name"):
        record.ClearField(name)
    record.body.string_value = f"[not stored: this record could not be masked ({reason})]".encode()
    pair = key_value_class()(key=FAILED_KEY.encode())
    pair.value.string_value = b"failed"
    record.attributes.append(pair.SerializeToString())


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Unmaskable(f"values are nested deeper than {MAX_DEPTH} levels")
