"""Turns what a detector says into rows, in the order of the columns. Pure; any text a sender can make fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detect.batch import BatchOutput, Rollup, RollupSpan
from detect.event import DetectionEvent, Evidence
from detect.fold import EventFold
from detect.incident import IncidentChange, IncidentMember
from detect.record import Entity, Logsource, TenantId
from store.values import bounded, json_text, key_text, text, timestamp

_ENTITY_BYTES = 512
_TITLE_BYTES = 1024


def entity_label(entity: Entity) -> str:
    """`kind:value`, as raw_logs.entities holds it and the search takes it."""
    return key_text(f"{entity.kind}:{entity.value}", _ENTITY_BYTES)


def logsource_label(logsource: Logsource) -> str:
    """`product/category/service`, unknown parts empty."""
    return text("/".join(logsource), _TITLE_BYTES)


def rule_id_text(rule_id: str) -> str:
    """A rule's id as its events hold it: rules without an id go by their title, which may be any text."""
    return text(rule_id, _TITLE_BYTES)


def event_row(tenant: TenantId, event: DetectionEvent) -> tuple[object, ...]:
    """The columns of `event_insert`."""
    return (
        tenant,
        event.id,
        event.cause.seq,
        event.cause.position,
        timestamp(event.time_ns),
        timestamp(event.end_ns),
        event.kind,
        text(event.detector, _TITLE_BYTES),
        rule_id_text(event.rule_id),
        text(event.rule_version, _TITLE_BYTES),
        text(event.title, _TITLE_BYTES),
        text(event.description),
        event.severity,
        bounded(event.score, 0.0, 100.0),
        text(event.activity, _TITLE_BYTES),
        text(event.outcome, _TITLE_BYTES),
        [text(item, _TITLE_BYTES) for item in event.techniques],
        [text(item, _TITLE_BYTES) for item in event.tactics],
        json_text([_entity(entity) for entity in event.entities]),
        json_text(_evidence(event.evidence)),
        json_text(event.matched),
        json_text(event.attributes),
    )


def fold_row(tenant: TenantId, fold: EventFold) -> tuple[object, ...]:
    """The columns of `event_fold_upsert`."""
    return (
        tenant,
        fold.event_id,
        rule_id_text(fold.rule_id),
        fold.count,
        timestamp(fold.first_ns),
        timestamp(fold.last_ns),
        [str(ref) for ref in fold.records],
        json_text(_evidence(fold.samples)),
    )


def rollup_columns(outputs: Sequence[BatchOutput]) -> dict[RollupSpan, tuple[list[Any], ...]]:
    """Per span the columns of `rollup_upsert_*` after the tenant; the last word on a window wins."""
    latest: dict[RollupSpan, dict[tuple[str, str, int], Rollup]] = {}
    for output in outputs:
        for rollup in output.rollups:
            key = (rollup.entity_kind, key_text(rollup.entity), rollup.start_ns)
            latest.setdefault(rollup.span, {})[key] = rollup
    return {
        span: (
            [kind for kind, _, _ in windows],
            [entity for _, entity, _ in windows],
            [timestamp(start_ns) for _, _, start_ns in windows],
            [json_text(rollup.features) for rollup in windows.values()],
        )
        for span, windows in latest.items()
    }


def newest_incidents(outputs: Sequence[BatchOutput]) -> list[IncidentChange]:
    """The newest header of every incident that changed, by id, so that writers lock rows in one order."""
    newest: dict[bytes, IncidentChange] = {}
    for output in outputs:
        for change in output.incidents:
            known = newest.get(change.id.bytes)
            if known is None or known.revision < change.revision:
                newest[change.id.bytes] = change
    return [newest[key] for key in sorted(newest)]


def incident_row(tenant: TenantId, incident: IncidentChange) -> tuple[object, ...]:
    """The columns of `incident_upsert`."""
    return (
        tenant,
        incident.id,
        incident.revision,
        text(incident.title, _TITLE_BYTES),
        incident.severity,
        bounded(incident.score, 0.0, 100.0),
        timestamp(incident.first_ns),
        timestamp(incident.last_ns),
        incident.created_seq,
        incident.updated_seq,
        incident.event_count,
        json_text([_entity(entity) for entity in incident.entities]),
        [text(item, _TITLE_BYTES) for item in incident.techniques],
        [text(item, _TITLE_BYTES) for item in incident.tactics],
        incident.predecessor,
    )


def member_columns(outputs: Sequence[BatchOutput]) -> tuple[list[Any], ...]:
    """The columns of `incident_member_insert` after the tenant."""
    members: list[tuple[IncidentChange, IncidentMember]] = [
        (change, member) for output in outputs for change in output.incidents for member in change.added
    ]
    return (
        [change.id for change, _ in members],
        [member.event_id for _, member in members],
        [member.position for _, member in members],
        [timestamp(member.time_ns) for _, member in members],
        [text(member.stage, _TITLE_BYTES) for _, member in members],
        [text(member.reason) for _, member in members],
    )


def _evidence(items: Sequence[Evidence]) -> list[dict[str, Any]]:
    return [
        {"ref": str(item.ref), "digest": item.digest, "time_ns": item.time_ns, "message": text(item.message)}
        for item in items
    ]


def _entity(entity: Entity) -> dict[str, str]:
    return {"kind": entity.kind, "value": key_text(entity.value, _ENTITY_BYTES), "role": entity.role}
