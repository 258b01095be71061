"""Which group a match belongs to: its group-by values, from the record's fields or else from its entities."""

from __future__ import annotations

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


def group_key(
    correlation: SigmaCorrelation, source: str, record: NormalizedRecord, inherited: Mapping[str, str]
) -> tuple[str, ...] | None:
    """The group-by values of a match of `source`, or None when one is missing: unknowns are not grouped together.

    `inherited` holds the group values of a correlation that fired; they stand before the completing record's own.
    """
    key = []
    for name in correlation.group_by:
        aliased = correlation.aliases.get(name, {}).get(source, name)
        value = inherited.get(aliased) or _field_text(record, aliased) or _entity_text(record, aliased)
        if not value:
            return None
        key.append(value)
    return tuple(key)


def _field_text(record: NormalizedRecord, name: str) -> str:
    return ", ".join(texts_of(value_of(record, name)))


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
