"""Which group a match belongs to: its group-by values, from the record's fields or else from its entities."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from detect.record import EntityKind, EntityRole, NormalizedRecord
from detect.sigma.rule import SigmaCorrelation
from detect.sigma.values import texts_of, value_of

# Group-by names that stand for an entity when the record has no field of that name, so that one correlation can join
# records of different sources. The roles are tried in order; None is any role.
ENTITY_NAMES: dict[str, tuple[EntityKind, tuple[EntityRole | None, ...]]] = {
    "src_ip": ("ip", ("source",)),
    "source_ip": ("ip", ("source",)),
    "SourceIp": ("ip", ("source",)),
    "IpAddress": ("ip", ("source",)),
    "c-ip": ("ip", ("source",)),
    "dst_ip": ("ip", ("target",)),
    "DestinationIp": ("ip", ("target",)),
    "user": ("user", ("actor", "target", None)),
    "User": ("user", ("actor", "target", None)),
    "target_user": ("user", ("target",)),
    "TargetUserName": ("user", ("target",)),
    "host": ("host", (None,)),
    "hostname": ("host", (None,)),
    "Computer": ("host", (None,)),
    "process": ("process", (None,)),
    "domain": ("domain", (None,)),
}


MAX_TEXT = 512
"""Characters of a group-by value, or of a value that is counted, beyond which it is held by its beginning and a hash:
whoever writes the records must not say how much a correlation remembers. No number is that long."""
_BEGINNING = 448

GroupKey = str | tuple[str, ...]
"""The values of a group: one alone stands for itself, which is the usual case and the quickest to look up."""


def key_parts(key: GroupKey) -> tuple[str, ...]:
    """The values, one for each group-by name."""
    return (key,) if isinstance(key, str) else key


def joined_key(parts: tuple[str, ...]) -> GroupKey:
    """The inverse of key_parts."""
    return parts[0] if len(parts) == 1 else parts


def held_text(text: str) -> str:
    """The text, or what stands for one that is too long to be kept: of equal texts the same, and held as it is."""
    if len(text) <= MAX_TEXT:
        return text
    return text[:_BEGINNING] + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class GroupKeys:
    """The group-by values of one correlation's matches, and the values that it counts."""

    def __init__(self, correlation: SigmaCorrelation) -> None:
        self._names = {source: _fields(correlation, source, correlation.group_by) for source in correlation.sources}
        self._values = {
            source: _fields(correlation, source, correlation.value_fields) for source in correlation.sources
        }
        self.has_values = bool(correlation.value_fields)

    def only_field(self, source: str) -> str | None:
        """The field whose text alone is the key, where a record has one; None when a key has not one part."""
        names = self._names[source]
        return names[0] if len(names) == 1 else None

    def only_value(self, source: str) -> str | None:
        """The field whose text alone is the value, where a record has one; None when a value has not one part."""
        names = self._values[source]
        return names[0] if len(names) == 1 else None

    def key(self, source: str, record: NormalizedRecord | None, inherited: Mapping[str, str]) -> GroupKey | None:
        """The group-by values of a match, or None when one is missing: unknowns are not grouped together.

        `inherited` holds the group values of a correlation that fired; they stand before the completing record's own.
        A correlation that fired because time had passed has no record.
        """
        key = []
        for name in self._names[source]:
            value = inherited.get(name) or _of_record(record, name)
            if not value:
                return None
            key.append(held_text(value))
        return joined_key(tuple(key))

    def value(self, source: str, record: NormalizedRecord | None, inherited: Mapping[str, str]) -> str | None:
        """The value that the correlation counts or adds up: the first text of each field; None when one is missing."""
        texts = []
        for name in self._values[source]:
            text = None if record is None else next(iter(texts_of(value_of(record, name))), None)
            text = inherited.get(name) if text is None else text
            if text is None:
                return None
            texts.append(text)
        return held_text("\x1f".join(texts))


def _fields(correlation: SigmaCorrelation, source: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(correlation.aliases.get(name, {}).get(source, name) for name in names)


def _of_record(record: NormalizedRecord | None, name: str) -> str | None:
    if record is None:
        return None
    return ", ".join(texts_of(value_of(record, name))) or _entity_text(record, name)


def _entity_text(record: NormalizedRecord, name: str) -> str | None:
    known = ENTITY_NAMES.get(name)
    if known is None:
        return None
    kind, roles = known
    for role in roles:
        value = record.entity(kind, role)
        if value is not None:
            return value
    return None
