"""From matches to detection events: identity, severity, score, and the evidence that explains them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detect.event import DetectionEvent, Evidence, Severity, event_id
from detect.record import Entity, NormalizedRecord, TenantId, record_digest
from detect.sigma.correlation import Firing
from detect.sigma.match import RuleMatch
from detect.sigma.rule import COUNTING_KINDS, RuleHeader, SigmaCorrelation

DETECTOR = "sigma"
SCORE_BY_LEVEL: dict[Severity, float] = {
    "informational": 5.0,
    "low": 20.0,
    "medium": 45.0,
    "high": 70.0,
    "critical": 90.0,
}
MAX_MESSAGE_CHARACTERS = 1000
MAX_EVIDENCE = 20
MAX_ENTITIES = 50


def evidence_of(record: NormalizedRecord) -> Evidence:
    """The record as evidence: its place, its digest, and up to 1,000 characters of what it says."""
    stored = record.record
    said = record.message_start(MAX_MESSAGE_CHARACTERS)
    return Evidence(stored.ref, record_digest(stored), stored.time_ns, said)


def rule_event(tenant: TenantId, match: RuleMatch, record: NormalizedRecord, evidence: Evidence) -> DetectionEvent:
    """The event of a detection rule on one record."""
    rule, stored = match.rule, record.record
    # In the order of the fields: to give them by name takes twice as long.
    return DetectionEvent(
        event_id(tenant, DETECTOR, rule.id, stored.ref),
        "rule",
        DETECTOR,
        rule.id,
        rule.version,
        rule.title,
        rule.description,
        rule.level,
        SCORE_BY_LEVEL[rule.level],
        stored.time_ns,
        stored.time_ns,
        stored.ref,
        record.entities,
        rule.techniques,
        rule.tactics,
        (evidence,),
        match.matched | _credit(rule),
        dict(stored.attributes),
        record.activity,
        record.outcome,
    )


def correlation_event(
    tenant: TenantId, rule: SigmaCorrelation, firing: Firing, record: NormalizedRecord | None
) -> DetectionEvent:
    """The event of a correlation: caused by the record that completed it, spanning the window that met it.

    One that fired because time had passed is caused by the last record of its window, which is no longer at hand
    (`record` is None): such an event has that record's place and evidence, and not its attributes.
    """
    evidence = merged_evidence(firing)
    about = _of_record(record) if record is not None else {"cause": firing.cause, "attributes": {}}
    return DetectionEvent(
        id=event_id(tenant, DETECTOR, rule.id, firing.cause, "\x1f".join(firing.group.values())),
        kind="correlation",
        time_ns=min((entry.time_ns for entry in evidence), default=firing.contributions[0].time_ns),
        end_ns=firing.contributions[-1].time_ns,
        entities=merged_entities(firing),
        evidence=evidence,
        matched=_measured(rule, firing) | _credit(rule),
        **_of_rule(rule),
        **about,
    )


def _measured(rule: SigmaCorrelation, firing: Firing) -> dict[str, Any]:
    measured: dict[str, Any] = {"count": firing.total}
    if rule.kind not in COUNTING_KINDS:
        measured = {"value": firing.total, "count": len(firing.contributions)}
    if rule.closes:
        held = {rule.sources[item.source] for item in firing.contributions}
        absent = [source for source in rule.sources if source not in held or rule.awaits_silence]
        measured |= {"absent": absent} if absent and (rule.alternatives or rule.awaits_silence) else {}
    return measured | {"group": firing.group, "timespan": f"{rule.span_ns // 1_000_000_000}s"}


def _of_rule(rule: RuleHeader) -> dict[str, Any]:
    return {
        "detector": DETECTOR,
        "rule_id": rule.id,
        "rule_version": rule.version,
        "title": rule.title,
        "description": rule.description,
        "severity": rule.level,
        "score": SCORE_BY_LEVEL[rule.level],
        "techniques": rule.techniques,
        "tactics": rule.tactics,
    }


def _of_record(record: NormalizedRecord) -> dict[str, Any]:
    return {
        "cause": record.record.ref,
        "attributes": dict(record.record.attributes),
        "activity": record.activity,
        "outcome": record.outcome,
    }


def _credit(rule: RuleHeader) -> dict[str, str]:
    """The Detection Rule License asks that matches name the rule's author."""
    credit = {"rule_author": rule.author} if rule.author else {}
    if rule.license:
        credit["rule_license"] = rule.license
    return credit


def merged_evidence(firing: Firing) -> tuple[Evidence, ...]:
    """The evidence of all contributions in the order of time, each record once; the first and last ten of many."""
    unique = {entry.ref: entry for item in firing.contributions for entry in item.evidence}
    ordered = sorted(unique.values(), key=lambda entry: (entry.time_ns, entry.ref))
    if len(ordered) <= MAX_EVIDENCE:
        return tuple(ordered)
    half = MAX_EVIDENCE // 2
    return (*ordered[:half], *ordered[-half:])


def merged_entities(firing: Firing) -> tuple[Entity, ...]:
    """The entities of all contributions in the order of appearance, each once, the first fifty."""
    entities: Iterable[Entity] = (entity for item in firing.contributions for entity in item.entities)
    return tuple(dict.fromkeys(entities))[:MAX_ENTITIES]
