"""The order of ATT&CK tactics, and how far a set of sightings has advanced along it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from detect.record import Nanoseconds

TACTICS: tuple[str, ...] = (
    "reconnaissance",
    "resource-development",
    "initial-access",
    "execution",
    "persistence",
    "privilege-escalation",
    "defense-evasion",
    "credential-access",
    "discovery",
    "lateral-movement",
    "collection",
    "command-and-control",
    "exfiltration",
    "impact",
)
"""Short names of the ATT&CK Enterprise tactics (version 18) in the order of its matrix."""

_POSITION = {tactic: position for position, tactic in enumerate(TACTICS)}


def tactic_position(tactic: str) -> int:
    """The place of a tactic in the matrix; an unknown name stands behind all."""
    return _POSITION.get(tactic, len(TACTICS))


def in_chain_order(tactics: Iterable[str]) -> tuple[str, ...]:
    """The different tactics by their place in the matrix."""
    return tuple(sorted(set(tactics), key=lambda tactic: (tactic_position(tactic), tactic)))


def longest_advance(first_seen: Mapping[str, Nanoseconds]) -> int:
    """The greatest number of tactics that were first seen one after another in the order of the matrix.

    Tactics seen at the same time may count in either order.
    """
    by_time = sorted((time_ns, tactic_position(tactic)) for tactic, time_ns in first_seen.items())
    ends: list[int] = []
    for _, position in by_time:
        at = bisect_left(ends, position)
        ends[at : at + 1] = [position]
    return len(ends)
