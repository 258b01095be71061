"""Python values as OTLP's AnyValue, for requests that are made up."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


def any_value(value: Any) -> AnyValue:
    """The value in its own kind (opentelemetry-proto, common.proto): None is an AnyValue without one.

    Raises TypeError for what no kind can hold.
    """
    target = AnyValue()
    match value:
        case None:
            pass
        case bool():
            target.bool_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case str():
            target.string_value = value
        case bytes():
            target.bytes_value = value
        case list() | tuple():
            target.array_value.SetInParent()
            target.array_value.values.extend(map(any_value, value))
        case dict():
            target.kvlist_value.SetInParent()
            target.kvlist_value.values.extend(attribute(key, item) for key, item in value.items())
        case _:
            raise TypeError(f"no AnyValue holds a {type(value).__name__}")
    return target


def attribute(key: str, value: Any) -> KeyValue:
    """An attribute."""
    return KeyValue(key=key, value=any_value(value))
