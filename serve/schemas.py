"""The JSON of the public API, as pydantic models: what OpenAPI shows is what is sent. Times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["informational", "low", "medium", "high", "critical"]

_EVENT: dict[str, Any] = {
    "event_id": "5f0c7b0e-58ab-5f0e-9e6a-0f0a7c1c8d11",
    "record": "12-3",
    "time": "2026-03-01T10:15:02.000000Z",
    "end_time": "2026-03-01T10:15:02.000000Z",
    "kind": "correlation",
    "detector": "sigma",
    "rule_id": "6d4bd0f2-7f5c-4d0d-8b8e-2a2b1a6f3f10",
    "rule_version": "9b2f6c1e",
    "title": "SSH password guessing",
    "description": "Many failed passwords from one address in a short time.",
    "severity": "high",
    "score": 70.0,
    "activity": "authentication",
    "outcome": "failure",
    "techniques": ["T1110.001"],
    "tactics": ["credential-access"],
    "entities": [{"kind": "ip", "value": "203.0.113.7", "role": "source"}],
    "evidence": [
        {
            "record": "12-3",
            "digest": "3b5d5c3712955042212316173ccf37be7f2c7f1f1f7e2a3f0e3f5f1c0a9b8c7d",
            "time": "2026-03-01T10:15:02.000000Z",
            "message": "Failed password for root from 203.0.113.7 port 40022 ssh2",
        }
    ],
    "matched": {"count": 5, "group": {"src_ip": "203.0.113.7"}},
    "attributes": {"log.file.name": "auth.log"},
    "incident_id": None,
}


class Model(BaseModel):
    """Answers ignore nothing and invent nothing."""

    model_config = ConfigDict(extra="forbid")


class EntityModel(Model):
    """Someone or something that a record is about."""

    kind: str
    value: str
    role: str = ""


class EvidenceModel(Model):
    """A stored record: its id, the SHA-256 of its canonical JSON, its time and its line."""

    record: str
    digest: str
    time: str
    message: str


class EventModel(Model):
    """One thing a detector said. `attributes` are the OTLP attributes of the record that caused it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EVENT]})

    event_id: str
    record: str
    time: str
    end_time: str
    kind: str
    detector: str
    rule_id: str
    rule_version: str
    title: str
    description: str
    severity: Severity
    score: float
    activity: str
    outcome: str
    techniques: list[str]
    tactics: list[str]
    entities: list[EntityModel]
    evidence: list[EvidenceModel]
    matched: dict[str, Any]
    attributes: dict[str, Any]
    incident_id: str | None = None
    repeats: int = Field(default=0, description="Events like this one that were folded into it; the count is exact.")
    last_repeat: str | None = None
    first_repeat: str | None = Field(default=None, description="This and what follows: where one event is asked for.")
    repeat_records: list[str] = Field(default=[], description="Record ids of the first 1,000 repeats.")
    repeat_evidence: list[EvidenceModel] = Field(default=[], description="Evidence of the first 20 repeats.")


class EventQuery(Model):
    """Which events: `from` inclusive, `to` exclusive, both event time in RFC 3339 with zone."""

    start: datetime | None = Field(default=None, alias="from")
    end: datetime | None = Field(default=None, alias="to")
    severity: Severity = Field(default="informational", description="At least this severe.")
    rule: str | None = Field(default=None, max_length=200, description="Rule id.")
    entity: str | None = Field(default=None, max_length=500, description="`kind:value`, e.g. `ip:203.0.113.7`.")
    incident: UUID | None = Field(default=None, description="Members of this incident.")
    limit: int = Field(default=100, ge=1, le=500, description="Items a page.")
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")


class EventPage(Model):
    """Newest first; `next_cursor` continues, null ends."""

    items: list[EventModel]
    next_cursor: str | None


class IncidentModel(Model):
    """Detection events that belong together."""

    incident_id: str
    revision: int
    state: Literal["open", "acknowledged", "closed"]
    title: str
    severity: Severity
    score: float
    first_time: str
    last_time: str
    created_seq: int
    updated_seq: int
    event_count: int
    entities: list[EntityModel]
    techniques: list[str]
    tactics: list[str]
    predecessor: str | None
    closed_at: str | None


class IncidentPage(Model):
    """Newest first; `next_cursor` continues, null ends."""

    items: list[IncidentModel]
    next_cursor: str | None


class MemberModel(Model):
    """One event of an incident, the ATT&CK tactic it stands for, and why it is a member."""

    position: int
    time: str
    stage: str
    reason: str
    event: EventModel


class IncidentDetail(IncidentModel):
    """An incident with its timeline, in order of time."""

    timeline: list[MemberModel]


class AdvisoryModel(Model):
    """A version of what the advisor says. `body` follows advise/advisory.schema.json."""

    incident_id: str
    version: int
    revision: int
    generator: str
    fallback_reason: str | None
    created_at: str
    body: dict[str, Any]


class LogModel(Model):
    """A stored record. `record` is its canonical JSON; `digest` is recomputed from what is stored, on request."""

    record_id: str
    time: str
    received: str
    time_mark: str
    severity: int
    logsource: str
    entities: list[str]
    message: str
    record: dict[str, Any]
    digest: str | None = None


class LogPage(Model):
    """Newest first; `next_cursor` continues, null ends. A search reads so many records and then stops: `searched_to`
    is then the event time down to which everything has been searched, and a page may be empty before the end."""

    items: list[LogModel]
    next_cursor: str | None
    searched_to: datetime | None = None


class StatusModel(Model):
    """How the installation is doing. Counts are of the caller's tenant; they are null for an administrator."""

    version: str
    ready: bool
    components: dict[str, dict[str, Any]]
    counts: dict[str, Any] | None = None


class NewTenant(Model):
    """Lower-case letters, digits, dots, dashes, underscores; at most 63 characters."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "acme"}]})

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")


class TenantModel(Model):
    """A customer or unit whose data never meets another's."""

    tenant_id: str
    name: str
    created_at: str


class NewKey(Model):
    """`scopes`: ingest sends logs, read looks, write changes, operate tells agents what to do, reveal asks what masked
    names stand for."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"label": "web-1", "scopes": ["ingest"]}]}
    )

    label: str = Field(min_length=1, max_length=100)
    scopes: list[Literal["ingest", "read", "write", "operate", "reveal"]] = Field(min_length=1)


class KeyModel(Model):
    """An API key without its secret."""

    key_id: str
    label: str
    scopes: list[str]
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None


class CreatedKey(KeyModel):
    """A new key. `key` is shown this once and stored nowhere."""

    key: str
