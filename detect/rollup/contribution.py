"""What one record adds to the windows of its entities: counters, and values whose number is counted."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from detect.record import Entity, EntityKind, FieldValue, NormalizedRecord
from detect.rollup.sketch import ValueHasher

EntityKey = tuple[EntityKind, str]

COUNTED_KINDS: tuple[EntityKind, ...] = ("host", "user", "ip")
"""Kinds of entity that have windows. An address counts where it is the source or plays no stated part."""

MAX_ENTITY_LENGTH = 256

_ACTIVITY_COUNTERS: dict[str, str] = {
    "session": "sessions",
    "process": "process_starts",
    "http": "http_requests",
    "file": "file_events",
    "account": "account_changes",
    "service": "service_events",
    "schedule": "schedule_changes",
    "network": "network_events",
}
_LOGIN_COUNTERS = {"failure": "auth_failure", "success": "auth_success"}
_DIMENSIONS: dict[EntityKind, str] = {
    "user": "users",
    "ip": "source_ips",
    "host": "hosts",
    "process": "processes",
    "url": "urls",
}
OWN_DIMENSION: dict[EntityKind, str] = {kind: _DIMENSIONS[kind] for kind in COUNTED_KINDS}
"""The dimension that says nothing about an entity of that kind, because it holds the entity itself."""
REMEMBERED_DIMENSIONS: tuple[str, ...] = ("hosts", "processes", "source_ips", "users")
"""Dimensions whose values are remembered per entity, so that new ones can be counted."""


class Contribution(NamedTuple):
    """`values` are (dimension, keyed hash of the value); each is told apart by dimension, so hashes may repeat."""

    entities: tuple[EntityKey, ...]
    counters: tuple[str, ...]
    bytes_sent: int
    values: tuple[tuple[str, int], ...]


def contribution(record: NormalizedRecord, hasher: ValueHasher) -> Contribution:
    """The share of one record. Every entity is counted once, however often the record names it."""
    entities: dict[EntityKey, None] = {}
    values: dict[tuple[str, int], None] = {}
    for entity in record.entities:
        dimension = _DIMENSIONS.get(entity.kind)
        if dimension is None or not _counts(entity):
            continue
        if entity.kind in COUNTED_KINDS:
            entities[entity.kind, bounded(entity.value)] = None
        values[dimension, hasher(entity.value)] = None
    if record.activity == "http":
        address = record.fields.get("cs-uri-stem")
        if isinstance(address, str):
            values["urls", hasher(address)] = None
    counters = _counters(record.activity, record.outcome)
    sent = 0
    if record.activity == "http":
        counters += _status_counter(record.fields.get("sc-status"))
        sent = max(0, _whole(record.fields.get("sc-bytes")))
    return Contribution(tuple(entities), counters, sent, tuple(values))


def bounded(value: str) -> str:
    """The value itself, or for over-long ones a prefix with a digest: keys of state have a bounded size."""
    if len(value) <= MAX_ENTITY_LENGTH:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{value[: MAX_ENTITY_LENGTH - 65]}~{digest}"


def _counts(entity: Entity) -> bool:
    return bool(entity.value) and not (entity.kind == "ip" and entity.role == "target")


def _counters(activity: str, outcome: str) -> tuple[str, ...]:
    if activity == "authentication":
        counter: str | None = _LOGIN_COUNTERS.get(outcome, "auth_unknown")
    else:
        counter = _ACTIVITY_COUNTERS.get(activity)
    named = () if counter is None else (counter,)
    return (*named, "failures") if outcome == "failure" else named


def _status_counter(status: FieldValue) -> tuple[str, ...]:
    code = _whole(status)
    if 400 <= code < 500:
        return ("http_4xx",)
    return ("http_5xx",) if 500 <= code < 600 else ()


def _whole(value: FieldValue) -> int:
    """The number a field states, 0 when it states none; at most 15 digits, so that sums stay exact as floats."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value if abs(value) < 10**15 else 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    return 0
