"""Attribute values read from their bytes, each distinct one once.

To walk a parsed message costs a Python object for every attribute and another for its value, which is more than
everything else that is done with a record. So a request is parsed by a twin of its schema in which an attribute is
bytes; most attributes are the same bytes as in records before and are answered by one look-up, and the others are
read here. What is not written the usual way (fields twice, out of order, unknown) is left to the schema proper.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from detect.record import AnyValue

MAX_REMEMBERED: Final = 8_000
"""Attributes, and as many heads of such."""
MAX_REMEMBERED_LISTS: Final = 1_000
MAX_REMEMBERED_BYTES: Final = 256
"""Longer attributes are read each time that they come: they rarely come again."""
_MAX_LEVELS: Final = 20
_FIELD = descriptor_pb2.FieldDescriptorProto
_KEY, _VALUE = 0x0A, 0x12
_STRING, _BOOL, _INT, _DOUBLE, _ARRAY, _KVLIST, _BYTES = 0x0A, 0x10, 0x18, 0x21, 0x2A, 0x32, 0x3A
_DOUBLE_BYTES = struct.Struct("<d").unpack_from


class OddValue(ValueError):
    """A value that is not written the usual way: the schema proper must read it."""


class PairReader(dict[bytes, tuple[str, AnyValue]]):
    """From the bytes of a KeyValue to its key and value: `reader[raw]`. Raises OddValue, UnicodeDecodeError.

    Arrays and maps are made anew each time, for who gets one may change it.
    """

    def __init__(self) -> None:
        super().__init__()
        # Key, size of the whole, where the value begins, and the length of a text.
        self._heads: dict[bytes, tuple[str, int, int, int | None]] = {}
        self._keys: dict[bytes, str] = {}
        self._lists: dict[bytes, tuple[str, list[Any]]] = {}
        self.maps = 0
        """How many maps were read so far: who reads a body sees by it whether the body holds one."""

    def __missing__(self, raw: bytes) -> tuple[str, AnyValue]:
        size = len(raw)
        if size > MAX_REMEMBERED_BYTES:
            start = _long_text(raw, size)
            return (self._key(raw), raw[start:].decode()) if start else self.read(raw, 0)
        # Most values that are new are short texts and integers, of a key and of a length that have come before: what
        # stands before such a value is known byte by byte.
        known = self._heads.get(raw[: raw[1] + 5]) if size > 1 else None
        if known is None or known[1] != size:
            return self._first(raw, size)
        key, _, start, length = known
        pair: tuple[str, AnyValue]
        if length is None:
            pair = key, _integer(raw, start, size)
        elif raw[start - 1] == length:
            pair = key, raw[start:].decode()
        else:
            return self._first(raw, size)
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[raw] = pair
        return pair

    def _first(self, raw: bytes, size: int) -> tuple[str, AnyValue]:
        """The pair of what is neither, or is the first with its head."""
        known = self._lists.get(raw)
        if known is not None:
            return known[0], known[1].copy()
        pair = self.read(raw, 0)
        kind = pair[1].__class__
        if kind is list:
            self._remember_list(raw, pair)
        elif kind is not dict:
            self._remember(raw, pair)
        if (kind is str or kind is int) and raw[raw[1] + 3] < 128:
            if len(self._heads) >= MAX_REMEMBERED:
                self._heads.clear()
            start = raw[1] + (6 if kind is str else 5)
            self._heads[raw[: raw[1] + 5]] = pair[0], size, start, size - start if kind is str else None
        return pair

    def _remember(self, raw: bytes, pair: tuple[str, AnyValue]) -> None:
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[raw] = pair

    def _remember_list(self, raw: bytes, pair: tuple[str, Any]) -> None:
        if not any(isinstance(item, list | dict) for item in pair[1]):
            if len(self._lists) >= MAX_REMEMBERED_LISTS:
                self._lists.clear()
            self._lists[raw] = pair[0], pair[1].copy()

    def _key(self, raw: bytes) -> str:
        """The key that stands first: one and the same string for all pairs, so that maps need not compare it."""
        name = raw[2 : raw[1] + 2]
        key = self._keys.get(name)
        if key is None:
            if len(self._keys) >= MAX_REMEMBERED:
                self._keys.clear()
            key = self._keys[name] = name.decode()
        return key

    def read(self, raw: bytes, level: int) -> tuple[str, AnyValue]:
        """Key and value; `level` arrays and maps are around them."""
        try:
            length = raw[1]
            value = length + 2
            if raw[0] != _KEY or length > 127:
                raise OddValue
            if value == len(raw):  # a key alone
                return self._key(raw), None
            if raw[value] != _VALUE:
                raise OddValue
            start, end = _extent(raw, value + 1)
            if end != len(raw):
                raise OddValue
            return self._key(raw), self.value(raw, start, end, level)
        except IndexError as error:
            raise OddValue from error

    def value(self, raw: bytes, start: int, end: int, level: int) -> AnyValue:
        """The AnyValue in raw[start:end]."""
        if start == end:
            return None
        kind = raw[start]
        if kind == _STRING:
            first, last = _extent(raw, start + 1)
            if last != end:
                raise OddValue
            return raw[first:last].decode()
        if kind in (_ARRAY, _KVLIST):
            return self._container(raw, start, end, level)
        return _scalar(raw, kind, start, end)

    def _container(self, raw: bytes, start: int, end: int, level: int) -> AnyValue:
        first, last = _extent(raw, start + 1)
        if last != end or level >= _MAX_LEVELS:
            raise OddValue
        items = list_class().FromString(raw[first:last]).values
        if raw[start] == _ARRAY:
            return self.items_of(items, level + 1)
        self.maps += 1
        return self.pairs(items, level + 1)

    def items_of(self, items: Any, level: int) -> list[AnyValue]:
        """The list of so many AnyValues. Raises OddValue, UnicodeDecodeError."""
        try:
            return [self.value(item, 0, len(item), level) for item in items]
        except IndexError as error:
            raise OddValue from error

    def pairs(self, items: Any, level: int) -> dict[str, AnyValue]:
        """The map of so many KeyValues; of equal keys the last one counts."""
        found = {}
        for raw in items:
            known = self.get(raw)
            key, value = known if known is not None else self._nested(raw, level)
            found[key] = value
        return found

    def _nested(self, raw: bytes, level: int) -> tuple[str, AnyValue]:
        pair = self.read(raw, level)
        return pair if isinstance(pair[1], list | dict) else self[raw]


def _long_text(raw: bytes, size: int) -> int:
    """Where the text begins that is the value, if it is one of 128 to 16,380 bytes, whose lengths take two bytes each;
    0 for any other value."""
    value = raw[1] + 2
    if raw[0] != _KEY or value > 129 or raw[value] != _VALUE or raw[value + 3] != _STRING:
        return 0
    high, inner = raw[value + 2], raw[value + 5]
    if high > 127 or inner > 127 or raw[value + 1] < 128 or raw[value + 4] < 128:
        return 0
    if (raw[value + 1] & 127) + (high << 7) != size - value - 3:
        return 0
    return value + 6 if (raw[value + 4] & 127) + (inner << 7) == size - value - 6 else 0


def _extent(raw: bytes, place: int) -> tuple[int, int]:
    """Where the bytes begin and end whose length stands at `place`."""
    length = raw[place]
    if length < 128:
        return place + 1, place + 1 + length
    more = raw[place + 1]
    if more < 128:
        return place + 2, place + 2 + (length & 127) + (more << 7)
    most = raw[place + 2]
    if most < 128:
        return place + 3, place + 3 + (length & 127) + ((more & 127) << 7) + (most << 14)
    raise OddValue


def _scalar(raw: bytes, kind: int, start: int, end: int) -> AnyValue:
    if kind == _INT:
        return _integer(raw, start + 1, end)
    if kind == _BOOL and end == start + 2 and raw[start + 1] < 2:
        return raw[start + 1] == 1
    if kind == _DOUBLE and end == start + 9:
        return float(_DOUBLE_BYTES(raw, start + 1)[0])
    if kind == _BYTES:
        first, last = _extent(raw, start + 1)
        if last == end:
            return raw[first:last]
    raise OddValue


def _integer(raw: bytes, place: int, end: int) -> int:
    number = shift = 0
    while place < end:
        byte = raw[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    else:
        raise OddValue
    if place != end or number >= 1 << 64:
        raise OddValue
    return number - (1 << 64) if number >> 63 else number


@cache
def pair_reader() -> PairReader:
    """The reader of this process."""
    return PairReader()


@cache
def list_class() -> Any:
    """A message of `repeated bytes values = 1`: an ArrayValue or a KeyValueList whose items are left unread."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName("opentelemetry.proto.common.v1.RawList"))


@cache
def request_class() -> Any:
    """ExportLogsServiceRequest with the attributes of records and resources, and the items of bodies, left unread."""
    name = logs_service_pb2.ExportLogsServiceRequest.DESCRIPTOR.full_name
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, logs_pb2, logs_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        if module is common_pb2:
            _add_raw_value(file)
        for message in file.message_type:
            for field in message.field:
                _leave_unread(message.name, field)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_raw_value(file: Any) -> None:
    items = file.message_type.add(name="RawList")
    items.field.add(name="values", number=1, type=_FIELD.TYPE_BYTES, label=_FIELD.LABEL_REPEATED)
    [proper] = [message for message in file.message_type if message.name == "AnyValue"]
    value = file.message_type.add()
    value.CopyFrom(proper)
    value.name = "RawValue"
    for field in value.field:
        if field.name in ("array_value", "kvlist_value"):
            field.type_name = f".{file.package}.RawList"


def _leave_unread(message: str, field: Any) -> None:
    if message in ("LogRecord", "Resource") and field.name == "attributes":
        field.type = _FIELD.TYPE_BYTES
        field.ClearField("type_name")
    elif message == "LogRecord" and field.name == "body":
        field.type_name = field.type_name.replace("AnyValue", "RawValue")
