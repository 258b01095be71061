"""What the advisor is told: an incident as values, with every piece of evidence under an id that can be looked up."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

import orjson
from jsonschema import Draft202012Validator, FormatChecker

from detect.event import SEVERITIES, Severity
from detect.record import EntityRole

EvidenceSource = Literal["journal", "caller"]

_ROLES: tuple[EntityRole, ...] = get_args(EntityRole)
_PLATFORM_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Windows", re.compile(r'[A-Za-z]:\\|"?EventID"?|\bHKLM\b|\\Windows\\|\bpowershell\b', re.IGNORECASE)),
    ("Linux", re.compile(r"\b(?:sshd|sudo|systemd|CRON|pam_unix|useradd|su|auditd)\b[\[:(]|/(?:etc|usr|var|bin)/")),
)


class InvalidIncident(ValueError):
    """The caller's incident does not follow incident.schema.json; `errors` says where and why, at most ten."""

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(self.errors))


@dataclass(frozen=True, slots=True)
class BriefEntity:
    """Someone or something the incident is about."""

    kind: str
    value: str
    role: EntityRole = ""


@dataclass(frozen=True, slots=True)
class EvidenceItem:
    """A record that supports statements. `digest` is SHA-256 in hex: of the stored record's canonical JSON
    (`source` journal), or of the caller's message in UTF-8 (`source` caller). `time` may be unknown."""

    id: str
    source: EvidenceSource
    digest: str
    time: datetime | None
    message: str


@dataclass(frozen=True, slots=True)
class BriefEvent:
    """One thing a detector said. `evidence` are ids into the brief's evidence, never empty in a stored incident."""

    rule_id: str
    title: str
    description: str
    severity: Severity
    time: datetime | None
    end_time: datetime | None
    outcome: str
    entities: tuple[BriefEntity, ...]
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    evidence: tuple[str, ...]
    stage: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IncidentBrief:
    """The advisor's whole input. `events` are in order of time; `evidence` maps an id to its record."""

    incident_id: str
    revision: int
    title: str
    severity: Severity
    state: str
    first_time: datetime | None
    last_time: datetime | None
    event_count: int
    entities: tuple[BriefEntity, ...]
    events: tuple[BriefEvent, ...]
    evidence: Mapping[str, EvidenceItem]
    platforms: tuple[str, ...] = ()

    @property
    def techniques(self) -> tuple[str, ...]:
        """Technique ids of the rules' tags, in order of first appearance."""
        return tuple(dict.fromkeys(technique for event in self.events for technique in event.techniques))

    def rule_counts(self) -> Counter[str]:
        """Events per rule title."""
        return Counter(event.title for event in self.events)


def brief_from_detail(detail: Mapping[str, Any]) -> IncidentBrief:
    """The brief of a stored incident: `detail` is store.search.incident_detail, the answer of /api/incidents/{id}."""
    return _Builder("journal").build(detail)


def brief_from_caller(incident: Any) -> IncidentBrief:
    """The brief of a caller's own incident. Raises InvalidIncident when it does not follow incident.schema.json."""
    problems = sorted(_incident_validator().iter_errors(incident), key=lambda error: list(map(str, error.path)))
    if problems:
        raise InvalidIncident([f"{error.json_path}: {error.message[:200]}" for error in problems[:10]])
    return _Builder("caller").build(incident)


@lru_cache(maxsize=1)
def incident_schema() -> dict[str, Any]:
    """The public JSON Schema of what POST /advisor/analyze takes."""
    schema: dict[str, Any] = orjson.loads(files("advise").joinpath("incident.schema.json").read_bytes())
    return schema


@lru_cache(maxsize=1)
def _incident_validator() -> Draft202012Validator:
    return Draft202012Validator(incident_schema(), format_checker=FormatChecker())


class _Builder:
    """Reads one incident's JSON; collects the evidence of its events under ids on the way."""

    def __init__(self, source: EvidenceSource) -> None:
        self._source = source
        self._evidence: dict[str, EvidenceItem] = {}
        self._numbered = 0

    def build(self, value: Mapping[str, Any]) -> IncidentBrief:
        members = [*value.get("timeline", ()), *({"event": event} for event in value.get("events", ()))]
        events = [self._event(member) for member in members]
        loose = self._items(value.get("evidence", ()))
        if loose:
            events.append(self._loose_event(value, loose))
        far = datetime.max.replace(tzinfo=UTC)
        events.sort(key=lambda event: event.time or far)
        times = [moment for event in events for moment in (event.time, event.end_time) if moment is not None]
        times += [item.time for item in self._evidence.values() if item.time is not None]
        severest = max((event.severity for event in events), key=SEVERITIES.index, default="informational")
        messages = [item.message for item in self._evidence.values()]
        return IncidentBrief(
            incident_id=str(value.get("incident_id", "")),
            revision=int(value.get("revision", 0)),
            title=str(value["title"]),
            severity=value.get("severity", severest),
            state=str(value.get("state", "open")),
            first_time=_time(value.get("first_time")) or min(times, default=None),
            last_time=_time(value.get("last_time")) or max(times, default=None),
            event_count=max(int(value.get("event_count", 0)), len(events)),
            entities=_entities(value.get("entities")) or _all_entities(events),
            events=tuple(events),
            evidence=self._evidence,
            platforms=tuple(value.get("platforms", ())) or _platforms(messages),
        )

    def _event(self, member: Mapping[str, Any]) -> BriefEvent:
        event = member["event"]
        evidence = self._items(event.get("evidence", ()))
        if not evidence and self._source == "caller":
            evidence = self._items([f"{event['title']}. {event.get('description', '')}".rstrip(". ")])
        return BriefEvent(
            rule_id=str(event.get("rule_id") or event["title"]),
            title=str(event["title"]),
            description=str(event.get("description", "")),
            severity=event.get("severity", "informational"),
            time=_time(event.get("time")),
            end_time=_time(event.get("end_time")) or _time(event.get("time")),
            outcome=str(event.get("outcome", "unknown")),
            entities=_entities(event.get("entities")),
            techniques=tuple(technique.upper() for technique in event.get("techniques", ())),
            tactics=tuple(event.get("tactics", ())),
            evidence=evidence,
            stage=str(member.get("stage", "")),
            reason=str(member.get("reason", "")),
        )

    def _loose_event(self, value: Mapping[str, Any], evidence: tuple[str, ...]) -> BriefEvent:
        """Evidence that the caller tied to no event supports the incident as a whole."""
        return BriefEvent(
            rule_id="caller",
            title=str(value["title"]),
            description="",
            severity=value.get("severity", "informational"),
            time=_time(value.get("first_time")),
            end_time=_time(value.get("last_time")),
            outcome="unknown",
            entities=_entities(value.get("entities")),
            techniques=tuple(technique.upper() for technique in value.get("techniques", ())),
            tactics=tuple(value.get("tactics", ())),
            evidence=evidence,
        )

    def _items(self, entries: Iterable[Any]) -> tuple[str, ...]:
        ids: list[str] = []
        for entry in entries:
            item = self._item({"message": entry} if isinstance(entry, str) else entry)
            self._evidence.setdefault(item.id, item)
            ids.append(item.id)
        return tuple(dict.fromkeys(ids))

    def _item(self, entry: Mapping[str, Any]) -> EvidenceItem:
        message = str(entry["message"])
        digest = str(entry.get("digest", ""))
        if self._source == "caller":
            digest = hashlib.sha256(message.encode("utf-8", "replace")).hexdigest()
        name = str(entry.get("id") or entry.get("record") or "")
        known = self._evidence.get(name)
        while not name or (known is not None and known.digest != digest):
            self._numbered += 1
            name = f"E{self._numbered}"
            known = self._evidence.get(name)
        return EvidenceItem(name, self._source, digest, _time(entry.get("time")), message)


def _time(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    moment = value if isinstance(value, datetime) else _parsed(str(value))
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise InvalidIncident([f"{str(value)[:60]!r} is outside the years 1 to 9999 in UTC"]) from error


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidIncident([f"{text[:60]!r} is no RFC 3339 time, for example 2026-03-01T10:15:02Z"]) from error


def _entities(values: Iterable[Mapping[str, Any]] | None) -> tuple[BriefEntity, ...]:
    return tuple(
        BriefEntity(str(value["kind"]), str(value["value"]), _role(value.get("role", ""))) for value in values or ()
    )


def _role(value: str) -> EntityRole:
    return next((role for role in _ROLES if role == value), "")


def _all_entities(events: Iterable[BriefEvent]) -> tuple[BriefEntity, ...]:
    return tuple(dict.fromkeys(entity for event in events for entity in event.entities))


def _platforms(messages: Sequence[str]) -> tuple[str, ...]:
    """ATT&CK platforms that the wording of the records shows; empty when none does, which means any."""
    return tuple(name for name, mark in _PLATFORM_MARKS if any(mark.search(message) for message in messages[:200]))
