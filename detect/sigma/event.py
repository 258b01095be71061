"""From matches to detection events: identity, severity, score, and the evidence that explains them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detect.event import DetectionEvent, Evidence, Severity, event_id
from detect.record import Entity, NormalizedRecord, TenantId, record_digest
from detect.sigma.correlation import Firing
from detect.sigma.match import RuleMatch
from detect.sigma.rule import RuleHeader, SigmaCorrelation

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
    return Evidence(stored.ref, record_digest(stored), stored.time_ns, record.message[:MAX_MESSAGE_CHARACTERS])


def rule_event(tenant: TenantId, match: RuleMatch, record: NormalizedRecord, evidence: Evidence) -> DetectionEvent:
    """The event of a detection rule on one record."""
    rule, stored = match.rule, record.record
    return DetectionEvent(
        id=event_id(tenant, DETECTOR, rule.id, stored.ref),
        kind="rule",
        time_ns=stored.time_ns,
        end_ns=stored.time_ns,
        entities=record.entities,
        evidence=(evidence,),
        matched={**match.matched, **_credit(rule)},
        **_common(rule, record),
    )


def correlation_event(
    tenant: TenantId, rule: SigmaCorrelation, firing: Firing, record: NormalizedRecord
) -> DetectionEvent:
    """The event of a correlation: caused by the record that completed it, spanning the window that met it."""
    seconds = rule.span_ns // 1_000_000_000
    evidence = merged_evidence(firing)
    return DetectionEvent(
        id=event_id(tenant, DETECTOR, rule.id, record.record.ref, "\x1f".join(firing.group.values())),
        kind="correlation",
        time_ns=min((entry.time_ns for entry in evidence), default=firing.contributions[0].time_ns),
        end_ns=firing.contributions[-1].time_ns,
        entities=merged_entities(firing),
        evidence=evidence,
        matched={"count": firing.total, "group": firing.group, "timespan": f"{seconds}s", **_credit(rule)},
        **_common(rule, record),
    )


def _common(rule: RuleHeader, record: NormalizedRecord) -> dict[str, Any]:
    return {
        "detector": DETECTOR,
        "rule_id": rule.id,
        "rule_version": rule.version,
        "title": rule.title,
        "description": rule.description,
        "severity": rule.level,
        "score": SCORE_BY_LEVEL[rule.level],
        "cause": record.record.ref,
        "techniques": rule.techniques,
        "tactics": rule.tactics,
        "attributes": dict(record.record.attributes),
        "activity": record.activity,
        "outcome": record.outcome,
    }


def _credit(rule: RuleHeader) -> dict[str, str]:
    """The Detection Rule License asks that matches name the rule's author."""
    credit = {"rule_author": rule.author, "rule_license": rule.license}
    return {key: value for key, value in credit.items() if value}


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
