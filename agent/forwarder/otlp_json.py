"""Checking OTLP/JSON: whether every value fits its field, and how many records there are. Nothing is re-encoded.

OTLP/JSON is its own dialect of proto JSON: lowerCamelCase names only, trace and span ids in hex, enums as integers or
names, 64-bit integers as numbers or decimal strings, bytes in base64, unknown fields ignored, null the same as absent.
What is refused here the server would refuse as well, when nobody can mend it any more.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import orjson

MAX_DEPTH: Final = 64
"""Levels of arrays and kvlists in one value."""

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*").fullmatch
_DECIMAL = re.compile(r"-?\d{1,20}", re.ASCII).fullmatch
_SEVERITY = re.compile(r"SEVERITY_NUMBER_(?:UNSPECIFIED|(?:TRACE|DEBUG|INFO|WARN|ERROR|FATAL)[234]?)").fullmatch
# One JSON escape: a proper pair of surrogates, a lone surrogate (group 1), or anything else.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)

Check: TypeAlias = Callable[[Any], str]
"""What is wrong with a value, or ''."""


class Fault(ValueError):
    """A value that its field cannot hold; `place` is the path to it."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}" if place else what)
        self.place = place


def count_json(body: bytes) -> int:
    """The number of records in a request; raises Fault with the place of the first wrong value."""
    request = _parsed(body)
    if not isinstance(request, dict):
        raise Fault("", "the body must be an object with resourceLogs")
    count = 0
    for place, resource_logs in _objects(request, "resourceLogs", ""):
        resource = _object(resource_logs, "resource", place)
        _attributes(resource, f"{place}.resource")
        for inner, scope_logs in _objects(resource_logs, "scopeLogs", f"{place}."):
            scope = _object(scope_logs, "scope", inner)
            _fields(scope, _SCOPE, f"{inner}.scope")
            for at, record in _objects(scope_logs, "logRecords", f"{inner}."):
                _fields(record, _RECORD, at)
                _attributes(record, at)
                _value(record.get("body"), f"{at}.body", 0)
                count += 1
    return count


def _parsed(body: bytes) -> Any:
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # A broken byte or half a surrogate pair becomes U+FFFD on the server and costs nothing.
        mended = _ESCAPE.sub(_mend, body.decode("utf-8", "replace").encode("utf-8"))
    try:
        return orjson.loads(mended)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise Fault("", str(error)) from error


def _mend(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match[1] else match[0]


def _objects(parent: Mapping[str, Any], name: str, place: str) -> list[tuple[str, dict[str, Any]]]:
    items = parent.get(name)
    if items is None:
        return []
    if not isinstance(items, list):
        raise Fault(f"{place}{name}", "must be an array")
    found = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise Fault(f"{place}{name}[{index}]", "must be an object")
        found.append((f"{place}{name}[{index}]", item))
    return found


def _object(parent: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    found = parent.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Fault(f"{place}.{name}", "must be an object")
    return found


def _fields(values: Mapping[str, Any], checks: Mapping[str, Check], place: str) -> None:
    for name, check in checks.items():
        value = values.get(name)
        if value is not None and (wrong := check(value)):
            raise Fault(f"{place}.{name}", wrong)


def _attributes(parent: Mapping[str, Any], place: str) -> None:
    for at, pair in _objects(parent, "attributes", f"{place}."):
        _pair(pair, at, 0)


def _pair(pair: Mapping[str, Any], place: str, depth: int) -> None:
    if not isinstance(pair.get("key", ""), str):
        raise Fault(f"{place}.key", "must be text")
    value = pair.get("value")
    if value is not None and not (type(value) is dict and len(value) == 1 and type(value.get("stringValue")) is str):
        _value(value, f"{place}.value", depth)


def _value(value: Any, place: str, depth: int) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise Fault(place, "must be an AnyValue object")
    for name, check in _VALUE.items():
        if (found := value.get(name)) is not None:
            if wrong := check(found):
                raise Fault(f"{place}.{name}", wrong)
            return  # the first one counts, whatever else is there
    array, kvlist = _object(value, "arrayValue", place), _object(value, "kvlistValue", place)
    if depth >= MAX_DEPTH and (array or kvlist):
        raise Fault(place, f"arrays and kvlists nest deeper than {MAX_DEPTH} levels")
    for at, item in _objects(array, "values", f"{place}.arrayValue."):
        _value(item, at, depth + 1)
    for at, pair in _objects(kvlist, "values", f"{place}.kvlistValue."):
        _pair(pair, at, depth + 1)


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "must be text"


def _truth(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _integer(lowest: int, highest: int) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and _DECIMAL(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{str(value)[:40]!r} is not an integer"
        return "" if lowest <= value <= highest else f"{value} is outside {lowest} to {highest}"

    return check


def _double(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return "must be a number"
    try:
        float(value)
    except ValueError:
        return f"{str(value)[:40]!r} is not a number"
    return ""


def _base64(value: Any) -> str:
    if not isinstance(value, str):
        return "must be text"
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return "the text is not base64"
    return ""


def _identifier(value: Any) -> str:
    if not isinstance(value, str):
        return "must be text"
    return "" if _HEX(value) else f"{value[:40]!r} is not hexadecimal (OTLP/JSON writes ids in hex, not base64)"


def _severity(value: Any) -> str:
    if isinstance(value, str) and _SEVERITY(value):
        return ""
    return _integer(-(2**31), 2**31 - 1)(value)


_UINT64, _UINT32 = _integer(0, 2**64 - 1), _integer(0, 2**32 - 1)
_SCOPE: Final[dict[str, Check]] = {"name": _text}
_VALUE: Final[dict[str, Check]] = {
    "stringValue": _text,
    "boolValue": _truth,
    "intValue": _integer(-(2**63), 2**63 - 1),
    "doubleValue": _double,
    "bytesValue": _base64,
}
_RECORD: Final[dict[str, Check]] = {
    "timeUnixNano": _UINT64,
    "observedTimeUnixNano": _UINT64,
    "severityNumber": _severity,
    "severityText": _text,
    "droppedAttributesCount": _UINT32,
    "flags": _UINT32,
    "traceId": _identifier,
    "spanId": _identifier,
    "eventName": _text,
}
