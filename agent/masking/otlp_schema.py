"""OTLP's messages with every string as bytes, and with attributes, resources and scopes left unread.

Texts that are no UTF-8, which the schema proper refuses with the whole request, pass through unharmed; attributes are
the same bytes again and again, so most are answered by one look-up instead of being read.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_UNREAD: Final = frozenset({("LogRecord", "attributes"), ("ResourceLogs", "resource"), ("ScopeLogs", "scope")})


def request_class() -> Any:
    """ExportLogsServiceRequest."""
    return _message("opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest")


def key_value_class() -> Any:
    """KeyValue: what an unread attribute holds."""
    return _message("opentelemetry.proto.common.v1.KeyValue")


def resource_class() -> Any:
    """Resource, whose attributes are read."""
    return _message("opentelemetry.proto.resource.v1.Resource")


def scope_class() -> Any:
    """InstrumentationScope, whose attributes are read."""
    return _message("opentelemetry.proto.common.v1.InstrumentationScope")


@cache
def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, logs_pb2, logs_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            for field in message.field:
                if field.type == _FIELD.TYPE_STRING or (message.name, field.name) in _UNREAD:
                    field.type = _FIELD.TYPE_BYTES
                    field.ClearField("type_name")
        pool.AddSerializedFile(file.SerializeToString())
    return pool
