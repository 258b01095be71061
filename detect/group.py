"""Grouping of detection events into incidents: by entity, time and kill chain, deterministically and explainably.

An event joins the open incident with which it shares the heaviest link (link.py), when it is near enough in time.
Of equal links the incident that the event takes to a later stage wins, then the one with more stages, then the worse,
then the one last changed. Informational events need a strong link: the same host alone would sweep in everything
that goes on there. Events of medium severity and above open an incident when they find none; lower ones wait,
and open one only when enough different rules speak of the same entity. Incidents are never merged by themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec

from detect.event import DetectionEvent, severity_rank
from detect.incident import IncidentChange
from detect.link import (
    COMMON_HOSTS,
    COMMON_WEIGHT,
    JOIN_WEIGHT,
    LINK_WEIGHTS,
    NEXT_STAGE_WEIGHT,
    RIVAL_WEIGHT,
    STRONG_WEIGHT,
    Link,
    LinkKey,
    Sighting,
    is_contested,
    links_of,
    rivals,
    sources_of,
)
from detect.open_incident import OpenIncident
from detect.pending import PendingSightings, Waiting
from detect.reason import joining_reason, opening_reason, waiting_reason
from detect.record import Nanoseconds, TenantId

_INCIDENT_NAMESPACE = UUID("0d8a4d8e-5e0f-5f5b-9a53-7c9a2f6b1c44")
_MEDIUM_RANK = severity_rank("medium")
_HOUR_NS: Nanoseconds = 3600 * 10**9


class GroupingSettings(msgspec.Struct, frozen=True):
    """Times are event times in nanoseconds.

    `gap_ns`: an event further than this from an incident's first and last event does not join it, and an incident
    idle for longer closes. `max_span_ns`: no incident grows longer. `successor_ns`: how long a closed incident waits
    for new evidence. `low_rules`: so many different low rules about one entity within the gap open an incident.
    `max_members` events of an incident, and `max_repeats` with the same rule and entities, are listed; the count
    stays exact. The other bounds are on state: open incidents (the one longest unchanged closes early), waiting low
    events, remembered links of closed incidents, and entities remembered with their hosts.
    """

    gap_ns: Nanoseconds = _HOUR_NS
    max_span_ns: Nanoseconds = 24 * _HOUR_NS
    successor_ns: Nanoseconds = 7 * 24 * _HOUR_NS
    low_rules: int = 3
    max_members: int = 500
    max_repeats: int = 50
    max_open: int = 1000
    max_waiting: int = 1000
    max_waiting_repeats: int = 20
    max_closed_links: int = 10_000
    max_places: int = 4096
    max_candidates: int = 64


class _Candidate(NamedTuple):
    order: tuple[int, int, int, int, int]
    incident: OpenIncident
    link: Link
    next_stage: bool


class IncidentGrouper:
    """All open incidents of one tenant. Feed events in the order of the journal."""

    def __init__(self, tenant: TenantId, settings: GroupingSettings | None = None) -> None:
        self._tenant = tenant
        self._settings = settings or GroupingSettings()
        self._open: OrderedDict[UUID, OpenIncident] = OrderedDict()
        self._by_link: dict[LinkKey, OrderedDict[UUID, None]] = {}
        self._closed: OrderedDict[LinkKey, tuple[UUID, Nanoseconds]] = OrderedDict()
        self._places: OrderedDict[LinkKey, dict[str, None]] = OrderedDict()
        self._pending = PendingSightings(self._settings.max_waiting, self._settings.max_waiting_repeats)
        self._changed: dict[UUID, OpenIncident] = {}
        self._touch = 0
        self._counts = {"incidents_opened": 0, "incidents_closed_early": 0, "members_not_listed": 0}

    def observe(self, event: DetectionEvent, seq: int) -> None:
        """Takes an event into the incident it belongs to, opens one for it, or lets it wait."""
        sighting = Sighting.of(event)
        links = self._weighted(sighting, links_of(sighting))
        self._touch += 1
        best = self._best(sighting, links)
        if best is not None:
            reason = partial(joining_reason, sighting, best.incident, best.link, best.next_stage)
            self._join(best.incident, sighting, links, reason)
        elif severity_rank(sighting.severity) >= _MEDIUM_RANK:
            self._open_incident(sighting, links, self._pending.linked(sighting, links, self._settings.gap_ns), seq)
        else:
            self._wait(sighting, links, seq)
        self._remember_places(sighting, links)

    def observe_repeat(self, event: DetectionEvent) -> bool:
        """Counts an event that is not written in the incident it belongs to; one that waits need not wait twice.

        False, and nothing changes, when it would open an incident: then it has to be written.
        """
        sighting = Sighting.of(event)
        links = self._weighted(sighting, links_of(sighting))
        best = self._best(sighting, links)
        if best is None:
            return severity_rank(sighting.severity) < _MEDIUM_RANK
        self._touch += 1
        self._take_in(best.incident, sighting, links)
        self._counts["members_not_listed"] += 1
        self._remember_places(sighting, links)
        return True

    def tick(self, watermark_ns: Nanoseconds) -> None:
        """Closes incidents idle beyond the gap and forgets low events that waited longer than that."""
        before = watermark_ns - self._settings.gap_ns
        for incident in [incident for incident in self._open.values() if incident.last_ns < before]:
            self._close(incident)
        self._pending.expire(before)

    def take_changes(self, seq: int) -> list[IncidentChange]:
        """One change for each incident touched since the last call, in the order they were first touched."""
        changes = [incident.take_change(seq) for incident in self._changed.values()]
        self._changed.clear()
        return changes

    def take_counts(self) -> dict[str, int]:
        """incidents_opened, incidents_closed_early, members_not_listed and lows_dropped since the last call."""
        taken = {**self._counts, "lows_dropped": self._pending.dropped}
        self._counts = dict.fromkeys(self._counts, 0)
        self._pending.dropped = 0
        return taken

    def snapshot(self) -> dict[str, Any]:
        """The state between two batches, after take_changes, as msgpack can hold it."""
        return {
            "touch": self._touch,
            "open": [incident.snapshot() for incident in self._open.values()],
            "closed": [[*key, incident_id.bytes, last_ns] for key, (incident_id, last_ns) in self._closed.items()],
            "places": [[*key, list(hosts)] for key, hosts in self._places.items()],
            "pending": self._pending.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a snapshot."""
        self._touch = state["touch"]
        incidents = [OpenIncident.restored(row) for row in state["open"]]
        self._open = OrderedDict((incident.id, incident) for incident in incidents)
        uses = [(use.touch, key, incident.id) for incident in incidents for key, use in incident.links.items()]
        self._by_link = {}
        for _, key, incident_id in sorted(uses, key=lambda use: use[0]):
            self._by_link.setdefault(key, OrderedDict())[incident_id] = None
        self._closed = OrderedDict(((kind, name), (UUID(bytes=raw), at)) for kind, name, raw, at in state["closed"])
        self._places = OrderedDict(((kind, name), dict.fromkeys(hosts)) for kind, name, hosts in state["places"])
        self._pending.restore(state["pending"])
        self._changed = {}

    def _weighted(self, sighting: Sighting, links: tuple[Link, ...]) -> tuple[Link, ...]:
        """The links with their weights lowered where the value was met on many hosts."""
        hosts = {entity.value for entity in sighting.entities if entity.kind == "host"}
        weighted = []
        for link in links:
            if link.key[0] in ("user", "internal") and len(hosts | set(self._places.get(link.key, ()))) >= COMMON_HOSTS:
                weighted.append(Link(link.key, COMMON_WEIGHT))
            else:
                weighted.append(link)
        return tuple(sorted(weighted, key=lambda link: (-link.weight, link.key)))

    def _remember_places(self, sighting: Sighting, links: tuple[Link, ...]) -> None:
        hosts = [entity.value for entity in sighting.entities if entity.kind == "host"]
        for link in links:
            if link.key[0] not in ("user", "internal"):
                continue
            places = self._places.setdefault(link.key, {})
            self._places.move_to_end(link.key)
            for host in hosts[: COMMON_HOSTS - len(places)]:
                places[host] = None
        while len(self._places) > self._settings.max_places:
            self._places.popitem(last=False)

    def _best(self, sighting: Sighting, links: tuple[Link, ...]) -> _Candidate | None:
        best: _Candidate | None = None
        sources = sources_of(links)
        for link in links:
            if link.weight + NEXT_STAGE_WEIGHT < JOIN_WEIGHT:
                break
            if best is not None and link.weight + NEXT_STAGE_WEIGHT < best.order[0]:
                break
            found = reversed(self._by_link.get(link.key, {}))
            for incident_id in islice(found, self._settings.max_candidates):
                candidate = self._judged(self._open[incident_id], sighting, link, sources)
                if candidate is not None and (best is None or candidate.order > best.order):
                    best = candidate
        return best

    def _judged(self, incident: OpenIncident, sighting: Sighting, link: Link, sources: set[str]) -> _Candidate | None:
        if not incident.accepts(sighting, self._settings.gap_ns, self._settings.max_span_ns):
            return None
        weight = link.weight
        if is_contested(link.key, sighting.outcome) and rivals(sources, incident.sources):
            weight = RIVAL_WEIGHT
        next_stage = incident.is_next_stage(sighting.stage)
        if weight > COMMON_WEIGHT and next_stage:
            weight += NEXT_STAGE_WEIGHT
        if weight < (STRONG_WEIGHT if sighting.severity == "informational" else JOIN_WEIGHT):
            return None
        order = (weight, len(incident.stages), incident.rank, incident.last_touch, -incident.created_seq)
        return _Candidate(order, incident, link, next_stage)

    def _join(
        self, incident: OpenIncident, sighting: Sighting, links: tuple[Link, ...], reason: Callable[[], str]
    ) -> None:
        repeats = incident.repeats(sighting)
        listed = incident.listed < self._settings.max_members and repeats < self._settings.max_repeats
        text = reason() if listed else ""
        self._take_in(incident, sighting, links)
        if listed:
            last = repeats + 1 == self._settings.max_repeats
            incident.list_member(sighting, f"{text}; further repeats are counted, not listed" if last else text)
        else:
            self._counts["members_not_listed"] += 1

    def _take_in(self, incident: OpenIncident, sighting: Sighting, links: tuple[Link, ...]) -> None:
        for key in incident.add(sighting, links, self._touch):
            holders = self._by_link.setdefault(key, OrderedDict())
            holders[incident.id] = None
            holders.move_to_end(incident.id)
        self._open.move_to_end(incident.id)
        self._changed[incident.id] = incident

    def _open_incident(
        self, sighting: Sighting, links: tuple[Link, ...], waiting: list[tuple[Link, Waiting]], seq: int
    ) -> None:
        incident_id = uuid5(_INCIDENT_NAMESPACE, f"{self._tenant}\x1f{sighting.event_id}")
        incident = OpenIncident(incident_id, seq, self._predecessor(sighting, links))
        self._open[incident_id] = incident
        self._counts["incidents_opened"] += 1
        for link, (earlier, earlier_links, *_) in waiting:
            if incident.accepts(earlier, self._settings.gap_ns, self._settings.max_span_ns):
                self._pending.remove(earlier)
                self._join(incident, earlier, earlier_links, partial(waiting_reason, earlier, sighting, link))
        continues = incident.predecessor is not None
        self._join(incident, sighting, links, partial(opening_reason, sighting, len(waiting), continues))
        while len(self._open) > self._settings.max_open:
            self._counts["incidents_closed_early"] += 1
            self._close(next(iter(self._open.values())))

    def _wait(self, sighting: Sighting, links: tuple[Link, ...], seq: int) -> None:
        if sighting.severity == "low":
            waiting = self._pending.linked(sighting, links, self._settings.gap_ns)
            rules: dict[LinkKey, set[str]] = {}
            for _, other in waiting:
                if other.sighting.severity == "low":
                    for link in other.links:
                        rules.setdefault(link.key, {sighting.rule_id}).add(other.sighting.rule_id)
            for link in links:
                if link.weight >= JOIN_WEIGHT and len(rules.get(link.key, ())) >= self._settings.low_rules:
                    self._open_incident(sighting, links, waiting, seq)
                    return
        self._pending.add(sighting)

    def _predecessor(self, sighting: Sighting, links: tuple[Link, ...]) -> UUID | None:
        """The incident that a new one continues: full or idle but still open, else closed not long ago."""
        for link in links:
            if link.weight < STRONG_WEIGHT:
                break
            holders = self._by_link.get(link.key)
            if holders:
                return next(reversed(holders))
            closed = self._closed.get(link.key)
            if closed is not None and abs(sighting.time_ns - closed[1]) <= self._settings.successor_ns:
                return closed[0]
        return None

    def _close(self, incident: OpenIncident) -> None:
        del self._open[incident.id]
        for key in incident.links:
            holders = self._by_link[key]
            del holders[incident.id]
            if not holders:
                del self._by_link[key]
            if LINK_WEIGHTS[key[0]] >= STRONG_WEIGHT:
                self._closed[key] = (incident.id, incident.last_ns)
                self._closed.move_to_end(key)
        while len(self._closed) > self._settings.max_closed_links:
            self._closed.popitem(last=False)
