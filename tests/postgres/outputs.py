"""Outputs of a detector, written by hand, for tests of the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from detect.batch import BatchOutput, Poison, Rollup
from detect.event import DetectionEvent, Evidence, event_id
from detect.fold import EventFold
from detect.incident import IncidentChange, IncidentMember
from detect.record import Entity, LogRecord, Logsource, NormalizedRecord, RecordRef, TenantId, record_digest

RECEIVED = datetime(2026, 3, 4, 5, 6, 7, 891234, tzinfo=UTC)
TIME_NS = 1_772_600_000_000_000_000
SECOND = 1_000_000_000


def log_record(seq: int, position: int, body: object = "sshd: Failed password", **other: Any) -> LogRecord:
    time_ns = other.pop("time_ns", TIME_NS + (seq * 100 + position) * SECOND)
    values = {
        "attributes": {"host.name": "web-1"},
        "resource": {"service.name": "sshd"},
        "severity_number": 9,
        "severity_text": "INFO",
    } | other
    return LogRecord(
        ref=RecordRef(seq, position),
        time_ns=time_ns,
        stated_ns=time_ns,
        observed_ns=time_ns,
        received_ns=TIME_NS,
        body=body,
        **values,
    )


def normalized(
    record: LogRecord, message: str | None = None, entities: tuple[Entity, ...] | None = None
) -> NormalizedRecord:
    return NormalizedRecord(
        record=record,
        logsource=Logsource("linux", "", "sshd"),
        fields={},
        entities=(Entity("ip", "198.51.100.7", "source"), Entity("user", "root")) if entities is None else entities,
        text=str(record.body) if message is None else message,
    )


def event(tenant: TenantId, record: NormalizedRecord, rule_id: str = "r-1", **other: Any) -> DetectionEvent:
    raw = record.record
    values = {
        "severity": "high",
        "score": 70.0,
        "entities": record.entities,
        "title": "Password guessing",
        "matched": {"EventID": 1},
        "attributes": raw.attributes,
        "time_ns": raw.time_ns,
    } | other
    return DetectionEvent(
        id=event_id(tenant, "sigma", rule_id, raw.ref),
        kind="rule",
        detector="sigma",
        rule_id=rule_id,
        rule_version="1",
        description="Many failed logins",
        end_ns=raw.time_ns,
        cause=raw.ref,
        techniques=("T1110.001",),
        tactics=("credential-access",),
        evidence=(Evidence(raw.ref, record_digest(raw), raw.time_ns, record.message),),
        **values,
    )


def incident(tenant: TenantId, events: tuple[DetectionEvent, ...], revision: int = 1, **other: Any) -> IncidentChange:
    values = {"title": "Attack on web-1", "severity": "high", "score": 80.0} | other
    return IncidentChange(
        id=incident_id(tenant),
        revision=revision,
        first_ns=events[0].time_ns,
        last_ns=events[-1].time_ns,
        created_seq=1,
        updated_seq=events[-1].cause.seq,
        event_count=len(events),
        entities=(Entity("host", "web-1"),),
        techniques=("T1110.001",),
        tactics=("credential-access",),
        added=tuple(
            IncidentMember(item.id, place, item.time_ns, "credential-access", "same source address")
            for place, item in enumerate(events)
        ),
        **values,
    )


def fold(first: DetectionEvent, count: int, repeats: tuple[NormalizedRecord, ...]) -> EventFold:
    """What a batch adds to the repeats of an event, which are `count` with these."""
    times = [item.record.time_ns for item in repeats]
    samples = tuple(
        Evidence(item.record.ref, record_digest(item.record), time, "m")
        for item, time in zip(repeats, times, strict=True)
    )
    refs = tuple(item.record.ref for item in repeats)
    return EventFold(first.id, first.rule_id, count, len(repeats), min(times), max(times), refs, samples)


def incident_id(tenant: TenantId) -> UUID:
    return uuid5(tenant, "incident")


def output(seq: int, **parts: Any) -> BatchOutput:
    values = {"records": (), "events": (), "rollups": (), "incidents": (), "poison": (), "counts": {}} | parts
    return BatchOutput(seq=seq, **values)


def full_output(tenant: TenantId, seq: int, revision: int = 1) -> BatchOutput:
    """Three records, an event for each, an incident of them, a repeat, a rollup, a dead letter."""
    records = tuple(normalized(log_record(seq, position)) for position in range(3))
    events = tuple(event(tenant, record) for record in records)
    return output(
        seq,
        records=records,
        events=events,
        rollups=(Rollup("1m", "ip", "198.51.100.7", TIME_NS // (60 * SECOND) * 60 * SECOND, {"count": float(seq)}),),
        incidents=(incident(tenant, events, revision),),
        poison=(Poison(seq, 1, "sigma", "rule-9", "division by zero"),),
        folds=(fold(events[0], 1, records[1:2]),),
    )
