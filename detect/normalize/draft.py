"""A record while it is being read: what the parsers have found so far."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from detect.normalize.definition import EntitySpec, Pattern
from detect.normalize.entities import canonical_ip, distinct, entity, url_entities
from detect.record import Entity, FieldValue, LogRecord, Logsource, NormalizedRecord, Outcome

UNKNOWN: Final = Logsource()
# Neither UTF-8 nor PostgreSQL's text can hold these.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ENVELOPE_ATTRIBUTES: Final = ("log.", "host.", "os.", "process.runtime.", "telemetry.", "service.")


class Draft(msgspec.Struct, gc=False):
    """`name` says which parser knew the record (`sshd/accepted`); it is empty where none did."""

    message: str
    fields: dict[str, FieldValue]
    entities: list[Entity]
    name: str = ""
    logsource: Logsource = UNKNOWN
    activity: str = "other"
    outcome: Outcome = "unknown"
    host: str = ""

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
        """The entity that a field names, if the field is there and names one."""
        value = self.fields.get(spec.field)
        if not isinstance(value, str) or not value:
            return
        if spec.kind == "url":
            self.entities.extend(url_entities(value, spec.role))
            return
        if spec.kind == "domain" and canonical_ip(value):
            return
        found = entity(spec.kind, value, spec.role)
        if found is not None:
            self.entities.append(found)

    def finish(self, record: LogRecord) -> NormalizedRecord:
        """The normalised record: with its host, and with the sender's own attributes beside the parsed fields."""
        host = self.host or _host_of(record)
        named = entity("host", host) if host else None
        for key, value in record.attributes.items():
            if not key.startswith(_ENVELOPE_ATTRIBUTES) and key not in self.fields:
                self.fields[key] = field_value(value)
        message = self.message
        if not message.isascii() or "\x00" in message:
            message = _UNSTORABLE.sub("\ufffd", message)
        return NormalizedRecord(
            record,
            self.logsource,
            self.fields,
            distinct((named, *self.entities) if named is not None else self.entities),
            message,
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
        return [field_value(item) for item in value[:256]]
    return as_json(value)


def as_json(value: Any) -> str:
    """Compact JSON text of any value; what JSON cannot hold is written as Python shows it."""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError, OverflowError):
        return repr(value)[:65536]


def _host_of(record: LogRecord) -> str:
    host = record.resource.get("host.name") or record.attributes.get("host.name")
    return host if isinstance(host, str) else ""
