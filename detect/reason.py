"""Why an event belongs to an incident, as a sentence that names the entity and the times."""

from __future__ import annotations

from datetime import UTC, datetime

from detect.link import Link, Sighting, phrase
from detect.open_incident import OpenIncident
from detect.record import Nanoseconds

_MAX_VALUE = 160


def opening_reason(sighting: Sighting, waiting: int, continues: bool) -> str:
    """For the event that opened the incident."""
    text = f"opened the incident at {clock(sighting.time_ns)}: {sighting.severity} severity{_about(sighting)}"
    if waiting:
        text += f", with {waiting} earlier low event{'s' * (waiting > 1)} about the same entity"
    return f"{text}; continues a closed incident of the same entity" if continues else text


def waiting_reason(earlier: Sighting, opener: Sighting, link: Link) -> str:
    """For a low event that had waited when the incident was opened."""
    return (
        f"same {short(phrase(link.key))} as '{opener.title}', which opened the incident "
        f"{distance(earlier.time_ns, opener.time_ns, 'later', 'before')} (event at {clock(earlier.time_ns)})"
    )


def joining_reason(sighting: Sighting, incident: OpenIncident, link: Link, next_stage: bool) -> str:
    """For an event that joined by a link; called before the event is added."""
    use = incident.links[link.key]
    text = (
        f"same {short(phrase(link.key))} as '{use.title}' "
        f"{distance(sighting.time_ns, use.time_ns, 'later', 'before')} (event at {clock(sighting.time_ns)})"
    )
    return f"{text}; next stage {sighting.stage} after {incident.furthest}" if next_stage else text


def distance(from_ns: Nanoseconds, to_ns: Nanoseconds, later: str, before: str) -> str:
    """How far the second time is from the first: `40 s before`, `2 h 5 min later`, `at the same second`."""
    seconds = abs(to_ns - from_ns) // 10**9
    if seconds == 0:
        return "in the same second"
    return f"{_duration(seconds)} {later if to_ns > from_ns else before}"


def clock(time_ns: Nanoseconds) -> str:
    """`2025-12-10 06:55:46 UTC`."""
    return datetime.fromtimestamp(time_ns // 10**9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short(text: str) -> str:
    """At most 160 characters on one line, without control characters: entity values are what a sender wrote."""
    if len(text) <= _MAX_VALUE and text.isprintable():
        return text
    line = "".join(character if character.isprintable() else "\ufffd" for character in text[: _MAX_VALUE + 1])
    return line if len(line) <= _MAX_VALUE else f"{line[: _MAX_VALUE - 1]}…"


def _about(sighting: Sighting) -> str:
    named = {entity.kind: entity for entity in reversed(sighting.entities) if entity.kind in ("ip", "user", "host")}
    words = [
        f" {word} {short(named[kind].value)}"
        for kind, word in (("host", "on host"), ("user", "for user"), ("ip", "with address"))
        if kind in named
    ]
    return f" '{sighting.title}'{''.join(words)}"


def _duration(seconds: int) -> str:
    for unit, size, smaller, small_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // small_size
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    return f"{seconds} s"
