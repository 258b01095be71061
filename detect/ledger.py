"""A gap in the loss ledger as the detector sees it: a control row becomes a record of our own and one event about it.

The record stands at position 0 of the control row's seq and is stored like any other, so that the event's evidence can
be looked up, hashed and cited.
"""

from __future__ import annotations

import msgspec

from detect.event import DetectionEvent, Evidence, event_id
from detect.record import (
    Entity,
    LogRecord,
    Logsource,
    Nanoseconds,
    NormalizedRecord,
    RecordRef,
    TenantId,
    record_digest,
)
from detect.score import severity_score

LEDGER_RULE_ID = "trustsoc-ledger-gap"
_RULE_VERSION = "1"
_ERROR_SEVERITY = 17  # OpenTelemetry log data model: ERROR


class LedgerGapControl(msgspec.Struct, tag="ledger_gap", tag_field="type", frozen=True):
    """Control row: the books of an agent's run disagree with ours by so many records."""

    agent: str
    run: str
    missing: int
    excess: int
    detail: str


def ledger_gap(
    tenant: TenantId, seq: int, received_ns: Nanoseconds, gap: LedgerGapControl
) -> tuple[NormalizedRecord, DetectionEvent]:
    """The record of a gap and the event that it raises; both are functions of the control row alone."""
    ref = RecordRef(seq, 0)
    title = "Log records are missing" if gap.missing else "Log records that their sender does not know of"
    run = f"run {gap.run}" if gap.run else "the run without a name"
    message = f"ledger gap of agent {gap.agent}, {run}: {gap.missing} missing, {gap.excess} in excess: {gap.detail}"
    entities = (Entity("host", gap.agent.lower()),)
    fields: dict[str, int | str] = {"missing": gap.missing, "excess": gap.excess, "agent": gap.agent, "run": gap.run}
    record = LogRecord(
        ref=ref,
        time_ns=received_ns,
        stated_ns=received_ns,
        observed_ns=received_ns,
        received_ns=received_ns,
        severity_number=_ERROR_SEVERITY,
        severity_text="ERROR",
        body=message,
        attributes={f"trustsoc.ledger.{name}": value for name, value in fields.items()},
        resource={"service.name": "trustsoc", "host.name": gap.agent},
        event_name="trustsoc.ledger.gap",
    )
    event = DetectionEvent(
        id=event_id(tenant, "ledger", LEDGER_RULE_ID, ref),
        kind="rule",
        detector="ledger",
        rule_id=LEDGER_RULE_ID,
        rule_version=_RULE_VERSION,
        title=title,
        description=f"The books of agent {gap.agent} and the journal do not balance: {gap.detail}",
        severity="high",
        score=severity_score("high"),
        time_ns=received_ns,
        end_ns=received_ns,
        cause=ref,
        entities=entities,
        techniques=(),
        tactics=(),
        evidence=(Evidence(ref, record_digest(record), received_ns, message),),
        matched=dict(fields),
        attributes=dict(record.attributes),
        outcome="failure",
    )
    normalized = NormalizedRecord(
        record, Logsource("trustsoc", "", "ledger"), dict(fields), entities, message, outcome="failure"
    )
    return normalized, event


__all__ = ["LEDGER_RULE_ID", "LedgerGapControl", "ledger_gap"]
