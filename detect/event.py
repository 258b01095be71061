"""What a detector says: an event with its evidence. Events are values; their ids are functions of the journal."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha1
from typing import Any, Literal, assert_never
from uuid import UUID, SafeUUID

import msgspec

from detect.record import Entity, Nanoseconds, RecordRef, TenantId

EventKind = Literal["rule", "correlation", "anomaly", "ioc", "yara", "hybrid"]
Severity = Literal["informational", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("informational", "low", "medium", "high", "critical")

_NAMESPACE_BYTES = UUID("6f1a7f0e-53a0-5d2e-9f6b-2f6a1c0e7d11").bytes
_UNMARKED = ~(0xC000 << 48 | 0xF000 << 64)
_VERSION_5 = 0x8000 << 48 | 5 << 76
_set = object.__setattr__  # a UUID refuses its own


class Evidence(msgspec.Struct, frozen=True):
    """A stored record that supports a statement: where it is, its digest (record.record_digest), what it says."""

    ref: RecordRef
    digest: str
    time_ns: Nanoseconds
    message: str


class DetectionEvent(msgspec.Struct, frozen=True):
    """One thing a detector said about one record, window or group of records.

    `score` is 0 to 100 (score.py). `techniques` are ATT&CK ids in upper case (`T1110.001`), `tactics` ATT&CK short
    names (`credential-access`). `matched` explains: the fields and values that met the rule, or the features that
    made an anomaly. `attributes` are the OTLP attributes of the record that caused it. `end_ns` equals `time_ns`
    unless the event speaks of a span.
    """

    id: UUID
    kind: EventKind
    detector: str
    rule_id: str
    rule_version: str
    title: str
    description: str
    severity: Severity
    score: float
    time_ns: Nanoseconds
    end_ns: Nanoseconds
    cause: RecordRef
    entities: tuple[Entity, ...]
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    matched: dict[str, Any]
    attributes: dict[str, Any]
    activity: str = "other"
    outcome: str = "unknown"


def event_id(tenant: TenantId, detector: str, rule_id: str, cause: RecordRef, extra: str = "") -> UUID:
    """UUIDv5 (RFC 9562) over (tenant, detector, rule, seq, position, extra): any replay converges on the same id.

    `extra` tells apart events that one record causes for one rule, such as a window or a group.
    """
    rest = f"{cause.seq}-{cause.position}\x1f{extra}"
    # A sender's text may hold lone surrogates, which UTF-8 cannot encode.
    named = _beginning(tenant.int, detector, rule_id) + rest.encode("utf-8", "backslashreplace")
    digest = sha1(named, usedforsecurity=False).digest()
    # What uuid5 does, in half the time: the constructor would look at each of its seven ways to say what it makes.
    made = object.__new__(UUID)
    _set(made, "int", int.from_bytes(digest[:16], "big") & _UNMARKED | _VERSION_5)
    _set(made, "is_safe", SafeUUID.unknown)
    return made


@lru_cache(maxsize=4096)
def _beginning(tenant: int, detector: str, rule_id: str) -> bytes:
    """What the names of a rule's events have in common, with the namespace before it."""
    return _NAMESPACE_BYTES + f"{UUID(int=tenant)}\x1f{detector}\x1f{rule_id}\x1f".encode("utf-8", "backslashreplace")


def severity_rank(severity: Severity) -> int:
    """0 for informational to 4 for critical."""
    match severity:
        case "informational":
            return 0
        case "low":
            return 1
        case "medium":
            return 2
        case "high":
            return 3
        case "critical":
            return 4
        case _:
            assert_never(severity)
