"""A record while it is being read: what the parsers have found so far."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from detect.normalize.definition import EntitySpec, Pattern
from detect.normalize.entities import MAX_ENTITY_LENGTH, distinct, read_entity, url_entities
from detect.normalize.message import as_json, storable
from detect.record import Entity, FieldValue, LogRecord, Logsource, MessageSource, NormalizedRecord, Outcome

UNKNOWN: Final = Logsource()
MAX_LISTED: Final = 16
MAX_LIST: Final = 256
_ENVELOPE_ATTRIBUTES: Final = ("log.", "host.", "os.", "process.runtime.", "telemetry.", "service.")


class Draft(msgspec.Struct, gc=False):
    """`name` says which parser knew the record (`sshd/accepted`); it is empty where none did.

    `whole`: the sender's attributes are among the fields already.
    """

    message: str | MessageSource
    fields: dict[str, FieldValue]
    entities: list[Entity]
    name: str = ""
    logsource: Logsource = UNKNOWN
    activity: str = "other"
    outcome: Outcome = "unknown"
    host: str = ""
    whole: bool = False

    def take(self, pattern: Pattern, match: re.Match[str]) -> None:
        """Everything that a pattern says about the message it met."""
        fields = self.fields
        for name, value in zip(pattern.names, match.groups(), strict=True):
            if value is not None:
                fields[name] = value
        fields.update(pattern.constants)
        self.name = pattern.name
        self.activity = pattern.activity
        self.outcome = pattern.outcome
        if pattern.derive is not None:
            self.outcome = pattern.derive(fields) or self.outcome
        if pattern.category or pattern.service:
            product, category, service = self.logsource
            self.logsource = Logsource(product, pattern.category or category, pattern.service or service)
        for spec in pattern.entities:
            self.mention(spec)

    def mention(self, spec: EntitySpec) -> None:
        """The entities that a field names, if the field is there and names any: each of a list's first sixteen."""
        value = self.fields.get(spec.field)
        for item in value[:MAX_LISTED] if isinstance(value, list) else (value,):
            if isinstance(item, str) and item:
                self._mention(spec, item)

    def _mention(self, spec: EntitySpec, value: str) -> None:
        if spec.kind == "url":
            self.entities.extend(url_entities(value, spec.role))
            return
        found = read_entity(spec.kind, spec.role)(value) if len(value) <= MAX_ENTITY_LENGTH else None
        if found is not None:
            self.entities.append(found)

    def finish(self, record: LogRecord) -> NormalizedRecord:
        """The normalised record: with its host, and with the sender's own attributes beside the parsed fields."""
        host = self.host or host_of(record)
        named = read_entity("host", "")(host) if host and len(host) <= MAX_ENTITY_LENGTH else None
        fields = self.fields
        if record.attributes and not self.whole:
            add_attributes(fields, record.attributes)
        message = self.message
        return NormalizedRecord(
            record,
            self.logsource,
            fields,
            distinct((named, *self.entities) if named is not None else self.entities),
            storable(message) if isinstance(message, str) else message,
            self.activity,
            self.outcome,
        )


def field_value(value: Any) -> FieldValue:
    """A value that rules can read: bytes as text, a nested object as its JSON."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [field_value(item) for item in value[:MAX_LIST]]
    return as_json(value)


def add_attributes(fields: dict[str, FieldValue], attributes: Mapping[str, Any]) -> None:
    """Puts the sender's own attributes beside the fields, without replacing any; those of the transport stay out."""
    for key, value in attributes.items():
        if key not in fields and not key.startswith(_ENVELOPE_ATTRIBUTES):
            fields[key] = field_value(value)


def host_of(record: LogRecord) -> str:
    """The host that the collector states; empty when it states none that can be one."""
    host = record.resource.get("host.name") or record.attributes.get("host.name")
    return host if isinstance(host, str) and len(host) <= MAX_ENTITY_LENGTH else ""
