"""The line that a person would read of a record that is no line: made of its fields, when someone wants to read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from detect.record import MAX_MESSAGE, AnyValue, FieldValue

# Neither UTF-8 nor PostgreSQL's text can hold these.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"\{([^{}]{1,256})\}")
_EVENT_LIMIT: Final = 4096
_VALUE_LIMIT: Final = 1024


def storable(text: str) -> str:
    """The text with U+FFFD for what a database cannot hold."""
    if "\x00" not in text:
        if text.isascii():
            return text
        with suppress(UnicodeEncodeError):  # which is what surrogates make of it; to look for them takes longer
            text.encode()
            return text
    return _UNSTORABLE.sub("\ufffd", text)


def as_json(value: Any) -> str:
    """Compact JSON text of any value; what JSON cannot hold is written as Python shows it."""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError, OverflowError):
        return repr(value)[:65536]


class FieldMessage(NamedTuple):
    """The message is the text of a field."""

    field: str

    def render(self, body: AnyValue, fields: Mapping[str, FieldValue], limit: int = MAX_MESSAGE) -> str:
        """The field's text; of a record that has lost it, its body."""
        text = fields.get(self.field)
        return storable((text if isinstance(text, str) else as_json(body))[:limit])


class BodyMessage(NamedTuple):
    """The message is the body: JSON as it was sent, or compact JSON of a map."""

    def render(self, body: AnyValue, fields: Mapping[str, FieldValue], limit: int = MAX_MESSAGE) -> str:
        """The body as text."""
        return storable((body if isinstance(body, str) else as_json(body))[:limit])


class EventMessage(NamedTuple):
    """The message is `Provider EventID: name=value …` of the first `own` fields, which are the event's own."""

    title: str
    own: int

    def render(self, body: AnyValue, fields: Mapping[str, FieldValue], limit: int = MAX_MESSAGE) -> str:
        """All values that are not empty, each cut at 1,024 characters, 4,096 in all."""
        parts = [f"{fields.get('Provider_Name') or self.title} {fields.get('EventID')}:"]
        length, most = 0, min(limit, _EVENT_LIMIT)
        for name, value in islice(fields.items(), self.own):
            if length > most:
                break
            if (not value and value in (None, "")) or name in ("EventID", "Provider_Name"):
                continue
            part = f"{name}={value}"
            if len(part) > _VALUE_LIMIT:
                part = part[:_VALUE_LIMIT]
            length += len(part) + 1
            if length <= _EVENT_LIMIT:
                parts.append(part)
        return storable(" ".join(parts)[:limit])


class TemplateMessage(NamedTuple):
    """The message is a template with fields in braces: `{verb} {requestURI}`; `unknown` stands for a missing one."""

    template: str

    def render(self, body: AnyValue, fields: Mapping[str, FieldValue], limit: int = MAX_MESSAGE) -> str:
        """The template with each field's text, cut at 1,024 characters."""
        return storable(_PLACEHOLDER.sub(lambda match: _shown(fields.get(match[1])), self.template)[:limit])


def _shown(value: FieldValue) -> str:
    return "unknown" if value in (None, "", []) else str(value)[:_VALUE_LIMIT]
