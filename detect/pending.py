"""Low events that belong to no incident yet: they wait in case something worse, or enough of them, comes along."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from detect.link import JOIN_WEIGHT, STRONG_WEIGHT, Link, LinkKey, Sighting, is_contested, links_of, rivals, sources_of
from detect.record import Nanoseconds

MAX_LOOKED_AT = 64
"""Of the events that wait under one link, so many of the latest are looked at: a flood costs bounded time."""

_Key = TypeVar("_Key")


class Waiting(NamedTuple):
    """An event that waits, with its links, its public sources and its place in the order of arrival."""

    sighting: Sighting
    links: tuple[Link, ...]
    sources: set[str]
    arrival: int


class PendingSightings:
    """Bounded, in order of arrival. A rule that repeats for the same entities keeps only its latest few sightings."""

    def __init__(self, most: int, repeats: int) -> None:
        self._most = most
        self._repeats = repeats
        self._arrivals = 0
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._by_link: dict[LinkKey, dict[str, None]] = {}
        self._by_rule: dict[tuple[str, tuple[LinkKey, ...]], dict[str, None]] = {}
        self.dropped = 0

    def add(self, sighting: Sighting) -> None:
        """Lets an event wait; the oldest of its kind, or of all, gives way when there is no room."""
        links = links_of(sighting)
        self._arrivals += 1
        waiting = Waiting(sighting, links, sources_of(links), self._arrivals)
        self._waiting[sighting.event_id] = waiting
        same = self._by_rule.setdefault(_kind(waiting), {})
        same[sighting.event_id] = None
        for link in links:
            self._by_link.setdefault(link.key, {})[sighting.event_id] = None
        if len(same) > self._repeats:
            self._drop(next(iter(same)))
            self.dropped += 1
        elif len(self._waiting) > self._most:
            self._drop(next(iter(self._waiting)))
            self.dropped += 1

    def linked(self, sighting: Sighting, links: tuple[Link, ...], gap_ns: Nanoseconds) -> list[tuple[Link, Waiting]]:
        """Waiting events within the gap that share a joining link, each with the heaviest such link, as they came.

        Informational ones need a strong link, as they do to join an open incident.
        """
        sources = sources_of(links)
        found: dict[str, tuple[Link, Waiting]] = {}
        for link in links:
            if link.weight < JOIN_WEIGHT:
                continue
            for event_id in islice(reversed(self._by_link.get(link.key, {})), MAX_LOOKED_AT):
                waiting = self._waiting[event_id]
                other = waiting.sighting
                least = STRONG_WEIGHT if other.severity == "informational" else JOIN_WEIGHT
                if event_id in found or link.weight < least or abs(other.time_ns - sighting.time_ns) > gap_ns:
                    continue
                if is_contested(link.key, other.outcome) and rivals(sources, waiting.sources):
                    continue
                found[event_id] = (link, waiting)
        return sorted(found.values(), key=_by_arrival)

    def remove(self, sighting: Sighting) -> None:
        """The event waits no longer."""
        self._drop(sighting.event_id)

    def expire(self, before_ns: Nanoseconds) -> None:
        """Forgets events older than that."""
        for event_id in [name for name, waiting in self._waiting.items() if waiting.sighting.time_ns < before_ns]:
            self._drop(event_id)

    def snapshot(self) -> list[Any]:
        """The waiting events, as msgpack and JSON can hold them."""
        return [msgspec.to_builtins(waiting.sighting) for waiting in self._waiting.values()]

    def restore(self, state: list[Any]) -> None:
        """Goes on from a snapshot."""
        self._waiting.clear()
        self._by_link.clear()
        self._by_rule.clear()
        for row in state:
            self.add(msgspec.convert(row, Sighting))
        self.dropped = 0

    def _drop(self, event_id: str) -> None:
        waiting = self._waiting.pop(event_id)
        for link in waiting.links:
            _discard(self._by_link, link.key, event_id)
        _discard(self._by_rule, _kind(waiting), event_id)


def _by_arrival(found: tuple[Link, Waiting]) -> int:
    return found[1].arrival


def _kind(waiting: Waiting) -> tuple[str, tuple[LinkKey, ...]]:
    return waiting.sighting.rule_id, tuple(link.key for link in waiting.links)


def _discard(index: dict[_Key, dict[str, None]], key: _Key, event_id: str) -> None:
    held = index[key]
    held.pop(event_id, None)
    if not held:
        del index[key]
