"""Whether a body is an OTLP logs request that the server can read, and how many records it has."""

from __future__ import annotations

from functools import cache
from typing import Any

from agent.forwarder.batch import BodyKind


class Undecodable(ValueError):
    """The body is no OTLP logs request. `field` is the path of the first wrong value where it is known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def count_records(kind: BodyKind, plain: bytes) -> int:
    """The number of records of a decompressed body, after a full check; raises Undecodable."""
    if kind == "json":
        from agent.forwarder.otlp_json import Fault, count_json

        try:
            return count_json(plain)
        except Fault as fault:
            raise Undecodable(f"the body is not valid OTLP/JSON: {fault}", fault.place) from fault
    request_class, decode_error = _tolerant_request()
    try:
        request = request_class.FromString(plain)
    except decode_error as error:
        raise Undecodable(
            f"the body of {len(plain)} bytes is not an ExportLogsServiceRequest in protobuf: "
            "it is cut short, nests too deeply or is another format"
        ) from error
    return sum(
        len(scope_logs.log_records)
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
    )


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
