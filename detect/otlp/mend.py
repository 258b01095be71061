"""Requests whose text is not UTF-8: read once more with every string as bytes, and mended.

A sender that ships a line with a broken byte would otherwise lose the whole batch, because proto3 refuses it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

_FILES = (common_pb2, resource_pb2, logs_pb2, logs_service_pb2)


def mended_request(payload: bytes) -> bytes | None:
    """The request with every invalid byte sequence of its strings as U+FFFD; None when it is no request at all."""
    tolerant, texts = _tolerant_request()
    try:
        request = tolerant.FromString(payload)
    except DecodeError:
        return None
    _mend(request, texts)
    return bytes(request.SerializeToString())


@cache
def _tolerant_request() -> tuple[Any, frozenset[str]]:
    """The request class with all strings typed as bytes, and the full names of those fields."""
    pool = descriptor_pool.DescriptorPool()
    texts: set[str] = set()
    for module in _FILES:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            _retype(message, f"{file.package}.{message.name}", texts)
        pool.AddSerializedFile(file.SerializeToString())
    name = logs_service_pb2.ExportLogsServiceRequest.DESCRIPTOR.full_name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name)), frozenset(texts)


def _retype(message: descriptor_pb2.DescriptorProto, full_name: str, texts: set[str]) -> None:
    for field in message.field:
        if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
            field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
            texts.add(f"{full_name}.{field.name}")
    for nested in message.nested_type:
        _retype(nested, f"{full_name}.{nested.name}", texts)


def _mend(message: Message, texts: frozenset[str]) -> None:
    pending: list[Any] = [message]
    while pending:
        current = pending.pop()
        for field, value in current.ListFields():
            if field.full_name in texts:
                repaired = _utf8(value) if isinstance(value, bytes) else [_utf8(item) for item in value]
                if repaired != value:
                    _assign(current, field.name, repaired)
            elif isinstance(value, Message):
                pending.append(value)
            elif field.message_type is not None:
                pending.extend(value)


def _assign(message: Any, name: str, value: bytes | list[bytes]) -> None:
    if isinstance(value, bytes):
        setattr(message, name, value)
    else:
        getattr(message, name)[:] = value


def _utf8(value: bytes) -> bytes:
    return value.decode("utf-8", "replace").encode("utf-8")
