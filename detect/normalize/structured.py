"""Bodies that are objects: flattened with dots, and read under the names that are common across products."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from detect.normalize.definition import Definition, EntitySpec
from detect.normalize.draft import Draft, field_value
from detect.record import FieldValue

MAX_FIELDS: Final = 2048
MAX_LEVELS: Final = 24
MAX_PAIRED: Final = 16384
_PRIORITY = re.compile(r"<\d{1,3}>")
_PAIR = re.compile(r"([A-Za-z][\w.-]{0,63})=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\"]*))(?=\s|$)")
_MESSAGE_KEYS: Final = ("message", "msg", "Message", "log", "MESSAGE", "event.original")
_HOST_KEYS: Final = ("host.name", "hostname", "host")
_NESTED: Final = frozenset({dict, list, tuple, bytes})


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text is; None when it is anything else."""
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_pairs(line: str) -> dict[str, FieldValue]:
    """The `name=value name="value"` pairs of a line that begins with one; empty for any other line."""
    start = _PRIORITY.match(line)
    line = line[start.end() : MAX_PAIRED] if start else line[:MAX_PAIRED]
    if not _PAIR.match(line):
        return {}
    return {name: bare or quoted.replace('\\"', '"') for name, quoted, bare in _PAIR.findall(line)}


def flatten(value: Mapping[str, Any]) -> dict[str, FieldValue]:
    """The object with nested names joined by dots; objects inside a list give one list for each of their names.

    At most MAX_FIELDS fields; what nests deeper than MAX_LEVELS stays as its JSON text.
    """
    if len(value) <= MAX_FIELDS and _NESTED.isdisjoint(map(type, value.values())):
        return dict(value)
    fields: dict[str, FieldValue] = {}
    pending: list[tuple[str, Any, int, bool]] = [(str(key), item, 1, False) for key, item in value.items()]
    pending.reverse()
    while pending and len(fields) < MAX_FIELDS:
        name, item, level, listed = pending.pop()
        if isinstance(item, dict) and item and level < MAX_LEVELS:
            pending.extend((f"{name}.{key}", part, level + 1, listed) for key, part in reversed(item.items()))
        elif isinstance(item, list) and any(isinstance(part, dict | list) for part in item) and level < MAX_LEVELS:
            pending.extend((name, part, level + 1, True) for part in reversed(item[:MAX_FIELDS]))
        elif listed:
            _append(fields, name, field_value(item))
        else:
            fields[name] = field_value(item)
    return fields


def _append(fields: dict[str, FieldValue], name: str, value: FieldValue) -> None:
    known = fields.get(name)
    if name not in fields:
        fields[name] = value if isinstance(value, list) else [value]
    elif isinstance(known, list):
        known.extend(value if isinstance(value, list) else [value])
    else:
        fields[name] = [known, value]


def message_field(fields: Mapping[str, FieldValue]) -> str:
    """The name of the field that holds the object's own message; empty when none does."""
    for key in _MESSAGE_KEYS:
        text = fields.get(key)
        if isinstance(text, str) and text:
            return key
    return ""


class GenericEntities:
    """Entities under the names that common loggers, OpenTelemetry's semantic conventions and ECS use."""

    def __init__(self, definition: Definition) -> None:
        self._specs: tuple[EntitySpec, ...] = definition.entities

    def read(self, draft: Draft) -> None:
        """Adds what the draft's fields name, and the host where they name one."""
        fields = draft.fields
        if not fields:
            return
        for spec in self._specs:
            if spec.field in fields:
                draft.mention(spec)
        for key in _HOST_KEYS:
            host = fields.get(key)
            if isinstance(host, str) and host:
                draft.host = host
                return
