"""What an incident is: detection events that belong together, each with the reason why it is a member."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

from detect.event import Severity
from detect.record import Entity, Nanoseconds

IncidentState = Literal["open", "acknowledged", "closed"]


class IncidentMember(msgspec.Struct, frozen=True):
    """One event of an incident. `stage` is the ATT&CK tactic it stands for, empty when it has none."""

    event_id: UUID
    position: int
    time_ns: Nanoseconds
    stage: str
    reason: str


class IncidentChange(msgspec.Struct, frozen=True):
    """The header of an incident as it stands after a batch, and the members that the batch added.

    `revision` counts the changes, from 1. `predecessor` is the closed incident that this one continues.
    """

    id: UUID
    revision: int
    title: str
    severity: Severity
    score: float
    first_ns: Nanoseconds
    last_ns: Nanoseconds
    created_seq: int
    updated_seq: int
    event_count: int
    entities: tuple[Entity, ...]
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    added: tuple[IncidentMember, ...]
    predecessor: UUID | None = None
