"""What goes into a tenant detector and what comes out of it: one journal batch, and everything it changed."""

from __future__ import annotations

from typing import Literal

import msgspec

from detect.event import DetectionEvent
from detect.fold import EventFold
from detect.incident import IncidentChange
from detect.record import EntityKind, Nanoseconds, NormalizedRecord

BatchKind = Literal["otlp_protobuf", "otlp_json", "control"]
Stage = Literal["decode", "normalize", "sigma", "correlation", "rollup", "anomaly", "group"]
RollupSpan = Literal["1m", "5m", "1h"]
ROLLUP_SECONDS: dict[RollupSpan, int] = {"1m": 60, "5m": 300, "1h": 3600}


class Batch(msgspec.Struct, frozen=True):
    """One journal row. `payload` is the request body after decompression, or the control row's JSON."""

    seq: int
    received_ns: Nanoseconds
    kind: BatchKind
    payload: bytes


class Rollup(msgspec.Struct, frozen=True):
    """A closed window of one entity: counts and features. `features` maps a feature name to its value."""

    span: RollupSpan
    entity_kind: EntityKind
    entity: str
    start_ns: Nanoseconds
    features: dict[str, float]


class Poison(msgspec.Struct, frozen=True):
    """A record, rule or whole batch (position -1) that failed: counted, named and parked, never dropped silently.

    A rule that fails on several records of a batch is one of these: `position` is the first, `count` how many,
    `positions` which ones (detect.positions; empty for one record, and for more than can be listed).
    """

    seq: int
    position: int
    stage: Stage
    subject: str
    error: str
    count: int = 1
    positions: str = ""


class RetryOutcome(msgspec.Struct, frozen=True):
    """How judging a dead letter again went; `error` is empty when it went well."""

    seq: int
    position: int
    stage: Stage
    subject: str
    error: str


class BatchOutput(msgspec.Struct, frozen=True):
    """All that one batch changed. `records` pairs every decoded record with its normalised view, in order.

    `open_windows`: whether time passing would still close a window, a reason to give a silent tenant a tick row.
    """

    seq: int
    records: tuple[NormalizedRecord, ...]
    events: tuple[DetectionEvent, ...]
    rollups: tuple[Rollup, ...]
    incidents: tuple[IncidentChange, ...]
    poison: tuple[Poison, ...]
    counts: dict[str, int]
    retried: tuple[RetryOutcome, ...] = ()
    folds: tuple[EventFold, ...] = ()
    open_windows: bool = False


__all__ = [
    "ROLLUP_SECONDS",
    "Batch",
    "BatchKind",
    "BatchOutput",
    "Poison",
    "RetryOutcome",
    "Rollup",
    "RollupSpan",
    "Stage",
]
