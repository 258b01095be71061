"""Whether a body is an OTLP logs request that the server can read, and how many records it has.

A message of two bytes becomes an object of a hundred, so a body of 32 MiB that is made for it would need gigabytes. A
body is therefore parsed in pieces, each forgotten before the next, and what has too many of anything is refused.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from agent.forwarder.batch import BodyKind

MOST_RECORDS: Final = 500_000
"""Records, and resources and scopes, of one request; more is a body that was made to be large."""
MOST_JSON_VALUES: Final = 1_000_000
"""Objects, arrays and the values in them, of one JSON request: JSON can be parsed as a whole only."""

_PIECE = 256 * 1024
_MOST_DEPTH = 100  # as protobuf's own parsers have it
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_VARINT, _CHUNK, _GROUP, _GROUP_END = 0, 2, 3, 4
_FIXED = {1: 8, 5: 4}
# Bytes of a tag or length, which have 32 bits, and of a value.
_SHORT, _LONG = 5, 10


class Undecodable(ValueError):
    """The body is no OTLP logs request. `field` is the path of the first wrong value where it is known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class TooMuch(ValueError):
    """The body has more in it than one request may; the message says what to do."""


def count_records(kind: BodyKind, plain: bytes) -> int:
    """The number of records of a decompressed body, after a full check; raises Undecodable, TooMuch."""
    if kind == "json":
        return _count_json(plain)
    request_class, decode_error = _tolerant_request()
    try:
        return _Walk().count(request_class, plain, 0, len(plain))
    except (decode_error, IndexError) as error:
        raise Undecodable(
            f"the body of {len(plain)} bytes is not an ExportLogsServiceRequest in protobuf: "
            "it is cut short, nests too deeply or is another format"
        ) from error


def _count_json(plain: bytes) -> int:
    from agent.forwarder.otlp_json import Fault, count_json

    if _values(plain) > MOST_JSON_VALUES and _values(_STRINGS.sub(b"", plain)) > MOST_JSON_VALUES:
        raise TooMuch(f"the body has more than {MOST_JSON_VALUES:,} values: send smaller batches, or protobuf")
    try:
        return count_json(plain)
    except Fault as fault:
        raise Undecodable(f"the body is not valid OTLP/JSON: {fault}", fault.place) from fault


def _values(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


class _Walk:
    """Parses a message in pieces: runs of whole fields, and within a field that is larger than a piece again so.

    Parsing runs of a message's fields one by one accepts what parsing the message does, as protobuf defines the
    concatenation of two encodings to be the encoding of both merged.
    """

    def __init__(self) -> None:
        self._records = 0
        self._holders = 0
        self._fields = 0  # that were looked at one by one

    def count(self, kind: Any, content: bytes, start: int, end: int, depth: int = 0) -> int:
        """Records of the message of this class in content[start:end]. Raises its own error, IndexError, TooMuch."""
        if depth > _MOST_DEPTH:
            raise IndexError("nests too deeply")
        if end - start <= _PIECE:
            self._parse(kind, content[start:end])
            return self._records
        nested = {field.number: field.message_type for field in kind.DESCRIPTOR.fields if field.message_type}
        begins = position = start
        while position < end:
            self._fields += 1
            tag, value, after = _field(content, position, end)
            if after - value > _PIECE:
                self._parse(kind, content[begins:position])
                message = nested.get(tag >> 3) if tag & 7 == _CHUNK else None
                if message is not None:
                    self._hold(records=int(message.name == "LogRecord"))
                    self.count(_class_of(message), content, value, after, depth + 1)
                begins = after
            elif after - begins > _PIECE:
                self._parse(kind, content[begins:position])
                begins = position
            position = after
        self._parse(kind, content[begins:end])
        return self._records

    def _parse(self, kind: Any, piece: bytes) -> None:
        if not piece:
            return
        self._hold()
        message = kind.FromString(piece)
        match kind.DESCRIPTOR.name:
            case "ExportLogsServiceRequest":
                self._hold(holders=len(message.resource_logs))
                for resource_logs in message.resource_logs:
                    self._hold(holders=len(resource_logs.scope_logs))
                    self._hold(records=sum(len(scope_logs.log_records) for scope_logs in resource_logs.scope_logs))
            case "ResourceLogs":
                self._hold(holders=len(message.scope_logs))
                self._hold(records=sum(len(scope_logs.log_records) for scope_logs in message.scope_logs))
            case "ScopeLogs":
                self._hold(records=len(message.log_records))

    def _hold(self, *, records: int = 0, holders: int = 0) -> None:
        self._records += records
        self._holders += holders
        if max(self._records, self._holders, self._fields // 2) > MOST_RECORDS:
            raise TooMuch(f"the body has more than {MOST_RECORDS:,} records, resources or scopes: send smaller batches")


def _field(content: bytes, position: int, end: int) -> tuple[int, int, int]:
    """The tag of the field at this place, and where its value begins and ends. Raises IndexError."""
    tag, value = _varint(content, position, _SHORT)
    kind = tag & 7
    if not 8 <= tag < 1 << 32:
        raise IndexError("no field has the number 0, or one so large")
    if kind == _CHUNK:
        size, value = _varint(content, value, _SHORT)
        after = value + size
    elif kind == _VARINT:
        after = _varint(content, value)[1]
    elif kind in _FIXED:
        after = value + _FIXED[kind]
    elif kind == _GROUP:
        after = _end_of_group(content, value, end, tag >> 3)
    else:
        raise IndexError("this ends what nothing began")
    if after > end:
        raise IndexError("cut short")
    return tag, value, after


def _end_of_group(content: bytes, position: int, end: int, number: int) -> int:
    """OTLP has none of them, and a field that nobody knows may still be one."""
    begun = [number]
    while begun:
        if len(begun) > _MOST_DEPTH:
            raise IndexError("nests too deeply")
        tag, value = _varint(content, position, _SHORT)
        if tag & 7 == _GROUP:
            begun.append(tag >> 3)
        elif tag & 7 != _GROUP_END:
            value = _field(content, position, end)[2]
        elif begun.pop() != tag >> 3:
            raise IndexError("this ends what nothing began")
        position = value
    return position


def _varint(content: bytes, position: int, most: int = _LONG) -> tuple[int, int]:
    """The number at this place, of at most so many bytes, and where it ends. Raises IndexError."""
    value = shift = 0
    while (byte := content[position]) >= 128:
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if shift >= 7 * most:
            raise IndexError("no number has so many bytes")
    return value | byte << shift, position + 1


def _class_of(message: Any) -> Any:
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(message)


@cache
def _tolerant_request() -> tuple[Any, type[Exception]]:
    """The request class with all strings typed as bytes: a line with a broken byte is no reason to refuse a batch, and
    the server mends it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
    from opentelemetry.proto.common.v1 import common_pb2
    from opentelemetry.proto.logs.v1 import logs_pb2
    from opentelemetry.proto.resource.v1 import resource_pb2

    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, logs_pb2, logs_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        pending = list(file.message_type)
        while pending:
            message = pending.pop()
            pending.extend(message.nested_type)
            for field in message.field:
                if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
                    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
        pool.AddSerializedFile(file.SerializeToString())
    name = logs_service_pb2.ExportLogsServiceRequest.DESCRIPTOR.full_name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name)), DecodeError
