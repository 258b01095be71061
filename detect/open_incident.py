"""The state of one open incident: what it knows of its members, and the change that a batch made to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from uuid import UUID

from detect.event import SEVERITIES, Severity, severity_rank
from detect.incident import IncidentChange, IncidentMember
from detect.kill_chain import in_chain_order, longest_advance, tactic_position
from detect.link import Link, LinkKey, Sighting, is_internal, sources_of
from detect.record import Entity, Nanoseconds
from detect.score import RuleShare, incident_score, raised

STAGES_THAT_RAISE = 3
"""An incident with this many stages (one tactic an event) first seen in kill-chain order is one severity higher."""

MAX_SHOWN_ENTITIES = 50
_MAX_LINKS, _MAX_ENTITIES, _MAX_RULES, _MAX_FOLDS, _MAX_TECHNIQUES = 500, 500, 200, 2000, 100


class LinkUse:
    """The last event that used a link: its title, its time, and its number among all events of the tenant."""

    __slots__ = ("time_ns", "title", "touch")

    def __init__(self, title: str, time_ns: Nanoseconds, touch: int) -> None:
        self.title = title
        self.time_ns = time_ns
        self.touch = touch


class OpenIncident:
    """One incident that can still grow. Counts are exact; lists are bounded, and what exceeds them is only counted."""

    def __init__(self, incident_id: UUID, seq: int, predecessor: UUID | None) -> None:
        self.id = incident_id
        self.predecessor = predecessor
        self.created_seq = seq
        self.updated_seq = seq
        self.revision = 0
        self.first_ns: Nanoseconds = 0
        self.last_ns: Nanoseconds = 0
        self.events = 0
        self.listed = 0
        self.last_touch = 0
        self.rank = 0
        self.advanced = False
        self.links: dict[LinkKey, LinkUse] = {}
        self.sources: set[str] = set()
        self.entities: dict[Entity, int] = {}
        self.rules: dict[str, tuple[str, int, float, int]] = {}
        self.folds: dict[str, int] = {}
        self.tactics: set[str] = set()
        self.stages: dict[str, Nanoseconds] = {}
        self.techniques: dict[str, int] = {}
        self.added: list[IncidentMember] = []

    def accepts(self, sighting: Sighting, gap_ns: Nanoseconds, span_ns: Nanoseconds) -> bool:
        """Whether the event is near enough in time: within the gap, and the whole within the span."""
        if not self.events:
            return True
        near = sighting.time_ns <= self.last_ns + gap_ns and sighting.end_ns >= self.first_ns - gap_ns
        return near and max(self.last_ns, sighting.end_ns) - min(self.first_ns, sighting.time_ns) <= span_ns

    def repeats(self, sighting: Sighting) -> int:
        """How many members have the same rule and the same entities."""
        return self.folds.get(_fold_key(sighting), 0)

    def is_next_stage(self, stage: str) -> bool:
        """Whether a tactic comes later in the kill chain than all stages of the incident."""
        return bool(stage and self.stages) and tactic_position(stage) > tactic_position(self.furthest)

    @property
    def furthest(self) -> str:
        """The stage of the incident that comes last in the kill chain; empty without any."""
        return max(self.stages, key=tactic_position, default="")

    def add(self, sighting: Sighting, links: Iterable[Link], touch: int) -> list[LinkKey]:
        """Takes an event in, without listing it; gives back the keys by which the incident can now be found."""
        self.first_ns = min(self.first_ns, sighting.time_ns) if self.events else sighting.time_ns
        self.last_ns = max(self.last_ns, sighting.end_ns)
        self.events += 1
        self.last_touch = touch
        self.rank = max(self.rank, severity_rank(sighting.severity))
        self._add_rule(sighting)
        self._add_tactics(sighting)
        for entity in sighting.entities:
            if entity in self.entities or len(self.entities) < _MAX_ENTITIES:
                self.entities[entity] = self.entities.get(entity, 0) + 1
        fold = _fold_key(sighting)
        if fold in self.folds or len(self.folds) < _MAX_FOLDS:
            self.folds[fold] = self.folds.get(fold, 0) + 1
        held = tuple(link for link in links if link.key in self.links or len(self.links) < _MAX_LINKS)
        for link in held:
            self.links[link.key] = LinkUse(sighting.title, sighting.time_ns, touch)
        self.sources |= sources_of(held)
        return [link.key for link in held]

    def list_member(self, sighting: Sighting, reason: str) -> None:
        """Names the event that was added last as a member, with the reason."""
        self.listed += 1
        member = IncidentMember(UUID(sighting.event_id), self.events - 1, sighting.time_ns, sighting.stage, reason)
        self.added.append(member)

    def take_change(self, seq: int) -> IncidentChange:
        """The next revision: the header as it stands, and the members listed since the last one."""
        self.revision += 1
        self.updated_seq = seq
        added, self.added = tuple(self.added), []
        shares = [RuleShare(score, count) for _, _, score, count in self.rules.values()]
        shown = sorted(self.entities.items(), key=lambda item: (-item[1], item[0]))[:MAX_SHOWN_ENTITIES]
        return IncidentChange(
            id=self.id,
            revision=self.revision,
            title=self.title(),
            severity=self.severity(),
            score=incident_score(shares, len(self.stages)),
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            created_seq=self.created_seq,
            updated_seq=seq,
            event_count=self.events,
            entities=tuple(entity for entity, _ in shown),
            techniques=tuple(name for name, _ in sorted(self.techniques.items(), key=lambda item: (item[1], item[0]))),
            tactics=in_chain_order(self.tactics),
            added=added,
            predecessor=self.predecessor,
        )

    def severity(self) -> Severity:
        """That of the worst member, one step higher once the kill chain advanced STAGES_THAT_RAISE; never lowered."""
        worst = SEVERITIES[self.rank]
        return raised(worst) if self.advanced else worst

    def title(self) -> str:
        """The most severe rule, and the source (or user) and host most often named."""
        lead = max(self.rules.values(), key=lambda rule: (rule[1], rule[2]))[0]
        source = self._main(lambda e: e.kind == "ip" and e.role == "source" and not is_internal(e.value))
        source = source or self._main(lambda e: e.kind in ("ip", "domain") and e.role == "source")
        user = "" if source else self._main(lambda e: e.kind == "user")
        host = self._main(lambda e: e.kind == "host")
        others = len({entity.value for entity in self.entities if entity.kind == "host"}) - 1
        parts = [lead]
        if source:
            parts.append(f"from {source}")
        elif user:
            parts.append(f"by user {user}")
        if host:
            parts.append(f"on {host}" if others < 1 else f"on {host} and {others} other host{'s' * (others > 1)}")
        return " ".join(parts)

    def snapshot(self) -> list[Any]:
        """The state between two batches, as msgpack can hold it."""
        return [
            self.id.bytes,
            None if self.predecessor is None else self.predecessor.bytes,
            [self.created_seq, self.updated_seq, self.revision, self.first_ns, self.last_ns],
            [self.events, self.listed, self.last_touch, self.rank, self.advanced],
            [[*key, use.title, use.time_ns, use.touch] for key, use in self.links.items()],
            sorted(self.sources),
            [[*entity, count] for entity, count in self.entities.items()],
            [[rule_id, *rule] for rule_id, rule in self.rules.items()],
            [[fold, count] for fold, count in self.folds.items()],
            sorted(self.tactics),
            [[stage, time_ns] for stage, time_ns in self.stages.items()],
            [[technique, position] for technique, position in self.techniques.items()],
        ]

    @classmethod
    def restored(cls, state: list[Any]) -> OpenIncident:
        """The incident that gave this snapshot."""
        raw_id, predecessor, times, counts, links, sources, entities, rules, folds, tactics, stages, techniques = state
        incident = cls(UUID(bytes=raw_id), times[0], None if predecessor is None else UUID(bytes=predecessor))
        _, incident.updated_seq, incident.revision, incident.first_ns, incident.last_ns = times
        incident.events, incident.listed, incident.last_touch, incident.rank, incident.advanced = counts
        incident.links = {(kind, value): LinkUse(*use) for kind, value, *use in links}
        incident.sources = set(sources)
        incident.entities = {Entity(*entity): count for *entity, count in entities}
        incident.rules = {rule_id: (title, rank, score, count) for rule_id, title, rank, score, count in rules}
        incident.folds = dict(folds)
        incident.tactics = set(tactics)
        incident.stages = dict(stages)
        incident.techniques = dict(techniques)
        return incident

    def _add_rule(self, sighting: Sighting) -> None:
        held = self.rules.get(sighting.rule_id)
        if held is None and len(self.rules) >= _MAX_RULES:
            return
        title, rank, score, count = held or (sighting.title, 0, 0.0, 0)
        rank = max(rank, severity_rank(sighting.severity))
        self.rules[sighting.rule_id] = (title, rank, max(score, sighting.score), count + 1)

    def _add_tactics(self, sighting: Sighting) -> None:
        self.tactics.update(sighting.tactics)
        stage = sighting.stage
        if stage and sighting.time_ns < self.stages.get(stage, sighting.time_ns + 1):
            self.stages[stage] = sighting.time_ns
            self.advanced = self.advanced or longest_advance(self.stages) >= STAGES_THAT_RAISE
        position = tactic_position(stage)
        for technique in sighting.techniques:
            if technique in self.techniques or len(self.techniques) < _MAX_TECHNIQUES:
                self.techniques[technique] = min(self.techniques.get(technique, position), position)

    def _main(self, wanted: Any) -> str:
        found = [(count, entity.value) for entity, count in self.entities.items() if wanted(entity)]
        return max(found, key=lambda item: item[0])[1] if found else ""


def _fold_key(sighting: Sighting) -> str:
    return _fold(sighting.rule_id, sighting.entities)


@lru_cache(maxsize=1024)
def _fold(rule_id: str, entities: tuple[Entity, ...]) -> str:
    text = "\x1f".join((rule_id, *sorted(f"{entity.kind}={entity.value}" for entity in entities)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
