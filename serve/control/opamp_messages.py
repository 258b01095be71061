"""The messages of OpAMP that this server reads and writes, as descriptors made here: no generated code.

Names, numbers and types are those of the OpAMP specification (github.com/open-telemetry/opamp-spec, proto/opamp.proto,
0.11 and later). What is not in the table is skipped as protobuf skips unknown fields: packages, connection settings,
custom messages. Enumerations are read as int32, which is the same on the wire.

A message is read by a twin of its schema in which the parts are bytes, and each part under a limit of its own: two
bytes can ask the parser for an object of fifty, so 64 MiB of them would be gigabytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

# AgentCapabilities
ACCEPTS_REMOTE_CONFIG: Final = 0x2
REPORTS_EFFECTIVE_CONFIG: Final = 0x4
REPORTS_HEALTH: Final = 0x800
REPORTS_REMOTE_CONFIG: Final = 0x1000

# ServerCapabilities: AcceptsStatus, OffersRemoteConfig, AcceptsEffectiveConfig.
SERVER_CAPABILITIES: Final = 0x1 | 0x2 | 0x4

REPORT_FULL_STATE: Final = 0x1
"""ServerToAgentFlags."""
REQUEST_INSTANCE_UID: Final = 0x1
"""AgentToServerFlags."""

# RemoteConfigStatuses
UNSET, APPLIED, APPLYING, FAILED = 0, 1, 2, 3

# ServerErrorResponseType
BAD_REQUEST: Final = 1
UNAVAILABLE: Final = 2

_PACKAGE: Final = "opamp.proto"
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bytes": _FIELD.TYPE_BYTES,
    "string": _FIELD.TYPE_STRING,
    "uint64": _FIELD.TYPE_UINT64,
    "int64": _FIELD.TYPE_INT64,
    "int32": _FIELD.TYPE_INT32,
    "fixed64": _FIELD.TYPE_FIXED64,
    "bool": _FIELD.TYPE_BOOL,
    "double": _FIELD.TYPE_DOUBLE,
}
MOST_PART_BYTES: Final = 2**20
"""Of a description, of a health, of a status."""
MOST_CONFIG_FILES: Final = 1000

# Message -> fields as (name, number, type); `map T` is map<string, T>, `raw` is a message whose bytes are left unread.
_MESSAGES: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "AgentToServer": (
        ("instance_uid", 1, "bytes"),
        ("sequence_num", 2, "uint64"),
        ("agent_description", 3, "AgentDescription"),
        ("capabilities", 4, "uint64"),
        ("health", 5, "ComponentHealth"),
        ("effective_config", 6, "EffectiveConfig"),
        ("remote_config_status", 7, "RemoteConfigStatus"),
        ("agent_disconnect", 9, "AgentDisconnect"),
        ("flags", 10, "uint64"),
    ),
    "RawAgentToServer": (
        ("instance_uid", 1, "bytes"),
        ("sequence_num", 2, "uint64"),
        ("agent_description", 3, "raw"),
        ("capabilities", 4, "uint64"),
        ("health", 5, "raw"),
        ("effective_config", 6, "raw"),
        ("remote_config_status", 7, "raw"),
        ("agent_disconnect", 9, "raw"),
        ("flags", 10, "uint64"),
    ),
    "RawEffectiveConfig": (("config_map", 1, "raw"),),
    "RawConfigEntry": (("key", 1, "string"), ("value", 2, "AgentConfigFile")),
    "AgentDisconnect": (),
    "AgentDescription": (
        ("identifying_attributes", 1, "repeated KeyValue"),
        ("non_identifying_attributes", 2, "repeated KeyValue"),
    ),
    "KeyValue": (("key", 1, "string"), ("value", 2, "AnyValue")),
    "AnyValue": (
        ("string_value", 1, "string"),
        ("bool_value", 2, "bool"),
        ("int_value", 3, "int64"),
        ("double_value", 4, "double"),
    ),
    "ComponentHealth": (
        ("healthy", 1, "bool"),
        ("start_time_unix_nano", 2, "fixed64"),
        ("last_error", 3, "string"),
        ("status", 4, "string"),
        ("status_time_unix_nano", 5, "fixed64"),
        ("component_health_map", 6, "map ComponentHealth"),
    ),
    "EffectiveConfig": (("config_map", 1, "AgentConfigMap"),),
    "AgentConfigMap": (("config_map", 1, "map AgentConfigFile"),),
    "AgentConfigFile": (("body", 1, "bytes"), ("content_type", 2, "string")),
    "RemoteConfigStatus": (
        ("last_remote_config_hash", 1, "bytes"),
        ("status", 2, "int32"),
        ("error_message", 3, "string"),
    ),
    "ServerToAgent": (
        ("instance_uid", 1, "bytes"),
        ("error_response", 2, "ServerErrorResponse"),
        ("remote_config", 3, "AgentRemoteConfig"),
        ("flags", 6, "uint64"),
        ("capabilities", 7, "uint64"),
        ("agent_identification", 8, "AgentIdentification"),
    ),
    "ServerErrorResponse": (
        ("type", 1, "int32"),
        ("error_message", 2, "string"),
        ("retry_info", 3, "RetryInfo"),
    ),
    "RetryInfo": (("retry_after_nanoseconds", 1, "uint64"),),
    "AgentRemoteConfig": (("config", 1, "AgentConfigMap"), ("config_hash", 2, "bytes")),
    "AgentIdentification": (("new_instance_uid", 1, "bytes"),),
}
# Of these one field is set at most, and which one is part of the message.
_ONE_OF: Final = frozenset({"AnyValue"})


class UnreadableMessage(ValueError):
    """The bytes are no AgentToServer message."""


@cache
def message_class(name: str) -> Any:
    """The class of an OpAMP message, by its name in the specification."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def read_agent_message(data: bytes) -> Any:
    """The AgentToServer message with its parts unread, each as bytes or absent. Raises UnreadableMessage."""
    return _read("RawAgentToServer", data)


def read_part(message: Any, part: str, name: str) -> Any:
    """The part of a message as the message of that name; None where it is left out. Raises UnreadableMessage."""
    if not message.HasField(part):
        return None
    data: bytes = getattr(message, part)
    if len(data) > MOST_PART_BYTES:
        raise UnreadableMessage(f"{part} has more than {MOST_PART_BYTES} bytes")
    return _read(name, data)


def read_config_files(data: bytes) -> dict[str, bytes]:
    """Bodies by name of an EffectiveConfig in bytes. Raises UnreadableMessage, for too many of them too."""
    files: dict[str, bytes] = {}
    for entry in _entries(_read("RawEffectiveConfig", data).config_map):
        read = _read("RawConfigEntry", entry)
        files[read.key] = read.value.body
    return files


def _read(name: str, data: bytes) -> Any:
    try:
        return message_class(name).FromString(data)
    except DecodeError as error:
        raise UnreadableMessage("the body is no AgentToServer message in protobuf") from error


def _entries(data: bytes) -> list[bytes]:
    """The length-delimited fields of number 1 of a message; there may be few others."""
    found: list[bytes] = []
    place = 0
    for _ in range(MOST_CONFIG_FILES + 1):
        if place == len(data):
            return found
        tag, place = _varint(data, place)
        if tag & 7 != 2:
            raise UnreadableMessage("a map of configurations holds something else")
        length, place = _varint(data, place)
        if place + length > len(data):
            raise UnreadableMessage("a map of configurations ends before its end")
        if tag >> 3 == 1:
            found.append(data[place : place + length])
        place += length
    raise UnreadableMessage(f"the effective configuration has more than {MOST_CONFIG_FILES} files")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 35, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise UnreadableMessage("a map of configurations is broken")


def error_message(kind: int, detail: str, *, instance_uid: bytes = b"", retry_after_s: int | None = None) -> bytes:
    """A ServerToAgent message that is a refusal: BAD_REQUEST or UNAVAILABLE."""
    answer = message_class("ServerToAgent")(instance_uid=instance_uid)
    answer.error_response.type = kind
    answer.error_response.error_message = detail.encode("utf-8", "replace")[:1000].decode("utf-8", "ignore")
    if retry_after_s is not None:
        answer.error_response.retry_info.retry_after_nanoseconds = retry_after_s * 1_000_000_000
    data: bytes = answer.SerializeToString()
    return data


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="trustsoc/opamp.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONE_OF:
            message.oneof_decl.add(name="value")
        for field in fields:
            _add_field(message, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    how, _, rest = kind.rpartition(" ")
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if how:
        field.label = _FIELD.LABEL_REPEATED
    if how == "map":
        # protobuf knows a map by the name of its entries, which must be the field's in camel case.
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING)
        _set_type(entry.field.add(name="value", number=2, label=_FIELD.LABEL_OPTIONAL), rest)
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        return
    if rest == "raw":
        # In a choice of its own, so that a part that is empty is told from one that is left out.
        field.type, field.oneof_index = _FIELD.TYPE_BYTES, len(message.oneof_decl)
        message.oneof_decl.add(name=f"has_{name}")
        return
    _set_type(field, rest)
    if message.name in _ONE_OF:
        field.oneof_index = 0


def _set_type(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
