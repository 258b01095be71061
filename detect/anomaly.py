"""Unusual windows: the contract of an anomaly model, and the detector that runs one per entity over closed rollups.

An anomaly needs three things: a model that has learned enough, a high score, and a value above the floor of its
feature (three failed logins are not worth waking anybody, however rare). Quiet windows do not exist as rollups, so a
baseline describes an entity while it is active.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from detect.batch import ROLLUP_SECONDS, Rollup, RollupSpan
from detect.event import DetectionEvent, Evidence, event_id
from detect.record import Entity, EntityKind, Nanoseconds, TenantId
from detect.rollup import ClosedWindow
from detect.score import anomaly_score, score_severity


class FeatureDeviation(NamedTuple):
    """One feature against its baseline. `deviation` is in units of `scale`, signed; `score` is 0 (usual) to 1."""

    feature: str
    observed: float
    baseline: float
    scale: float
    deviation: float
    score: float


class AnomalyScore(NamedTuple):
    """`score` is 0 (usual) to 1; `learning` says that the model knows too little, and then the score is 0.

    `deviations` has one entry a feature, the highest score first; it is empty while learning.
    """

    score: float
    learning: bool
    deviations: tuple[FeatureDeviation, ...]


class AnomalyModel(Protocol):
    """A model of one series of feature vectors, fed in order of time. All implementations obey tests/contract/models.

    `phase` is the place in a season (such as the hour of the week) for models that know seasons. A feature that is
    missing counts as 0. NaN and infinity are refused with ValueError, and then nothing was learned.
    """

    @property
    def name(self) -> str:
        """Name and version, such as `ewma-1`; part of rule_version."""
        ...

    @property
    def learning(self) -> bool:
        """Whether the model still knows too little to judge."""
        ...

    def score_one(self, features: Mapping[str, float], phase: int = 0) -> AnomalyScore:
        """Judges without learning."""
        ...

    def learn_one(self, features: Mapping[str, float], phase: int = 0) -> None:
        """Learns without judging."""
        ...

    def snapshot(self) -> Any:
        """The state as msgpack and JSON can hold it."""
        ...

    def restore(self, state: Any) -> None:
        """Goes on from a snapshot; ValueError when it belongs to another model or version."""
        ...


class Signal(NamedTuple):
    """A feature that is watched: what a person calls it, the least value worth an event, and what it implies."""

    feature: str
    phrase: str
    floor: float
    marked_by: str = "last"
    tactics: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    activity: str = "other"


_FAILED_LOGINS = Signal(
    "auth_failure", "failed logins", 10, "auth_failure", ("credential-access",), ("T1110",), "authentication"
)
_EVENTS = Signal("events", "log records", 300)
_PROCESSES = Signal("process_starts", "process starts", 60, "process_starts", activity="process")
_REQUESTS = Signal("http_requests", "web requests", 300, "http_requests", activity="http")
_CLIENT_ERRORS = Signal("http_4xx", "refused web requests (4xx)", 30, "http_4xx", activity="http")
_SERVER_ERRORS = Signal("http_5xx", "failed web requests (5xx)", 20, "http_5xx", activity="http")
_BYTES = Signal("bytes_sent", "bytes sent by the web server", 50_000_000, "http_requests", activity="http")

SIGNALS: dict[EntityKind, tuple[Signal, ...]] = {
    "host": (
        *(_FAILED_LOGINS, _EVENTS, _PROCESSES, _REQUESTS, _CLIENT_ERRORS, _SERVER_ERRORS, _BYTES),
        Signal("distinct_users", "different users", 15),
        Signal("distinct_source_ips", "different source addresses", 50),
    ),
    "user": (
        *(_FAILED_LOGINS, _EVENTS, _PROCESSES),
        Signal("distinct_hosts", "different hosts", 5),
        Signal("distinct_source_ips", "different source addresses", 5),
    ),
    "ip": (
        *(_FAILED_LOGINS, _EVENTS, _REQUESTS, _CLIENT_ERRORS, _SERVER_ERRORS),
        Signal("distinct_users", "different users", 8),
        Signal("distinct_hosts", "different hosts", 5),
        Signal("distinct_urls", "different paths", 60),
    ),
}
"""What is watched for each kind of entity. Floors are per five-minute window."""


class AnomalySettings(msgspec.Struct, frozen=True):
    """`threshold` is the model's score (0 to 1) from which a window is unusual.

    After an event the same entity raises none for `rest_windows` windows. An unusual window is not learned, but after
    `frozen_windows` unusual ones in a row learning goes on: then this is the new normal. `max_models` bounds the
    entities with a model; the one longest unseen is forgotten (`models_forgotten`) and learns anew.
    """

    span: RollupSpan = "5m"
    threshold: float = 0.5
    rest_windows: int = 12
    frozen_windows: int = 6
    max_models: int = 4096


class _Watched:
    """The model of one entity, and how it stands with alarms."""

    __slots__ = ("frozen", "model", "rest_until")

    def __init__(self, model: AnomalyModel) -> None:
        self.model = model
        self.rest_until: Nanoseconds = 0
        self.frozen = 0


class AnomalyDetector:
    """Runs one model per entity over the closed windows of one span."""

    def __init__(
        self, tenant: TenantId, new_model: Callable[[], AnomalyModel], settings: AnomalySettings | None = None
    ) -> None:
        self._tenant = tenant
        self._new_model = new_model
        self._settings = settings or AnomalySettings()
        self._watched: OrderedDict[tuple[str, str], _Watched] = OrderedDict()
        self._counts = {"windows_judged": 0, "windows_learning": 0, "models_forgotten": 0}

    def observe(self, closed: ClosedWindow) -> list[DetectionEvent]:
        """Judges a closed window and learns from it; windows of other spans are passed over."""
        rollup = closed.rollup
        signals = SIGNALS.get(rollup.entity_kind)
        if rollup.span != self._settings.span or signals is None:
            return []
        watched = self._entity(rollup)
        features = {signal.feature: rollup.features.get(signal.feature, 0.0) for signal in signals}
        phase = hour_of_week(rollup.start_ns)
        verdict = watched.model.score_one(features, phase)
        self._counts["windows_learning" if verdict.learning else "windows_judged"] += 1
        unusual = _unusual(verdict, signals, self._settings.threshold)
        if not unusual:
            watched.frozen = 0
            watched.model.learn_one(features, phase)
            return []
        watched.frozen += 1
        if watched.frozen > self._settings.frozen_windows:
            watched.model.learn_one(features, phase)
        if rollup.start_ns < watched.rest_until:
            return []
        watched.rest_until = rollup.start_ns + (self._settings.rest_windows + 1) * self._length_ns
        return [self._event(closed, unusual, watched.model.name)]

    def take_counts(self) -> dict[str, int]:
        """windows_judged, windows_learning and models_forgotten since the last call."""
        taken = self._counts
        self._counts = dict.fromkeys(taken, 0)
        return taken

    def snapshot(self) -> list[list[Any]]:
        """The state as msgpack and JSON can hold it; the entity longest unseen first."""
        return [
            [kind, name, watched.rest_until, watched.frozen, watched.model.snapshot()]
            for (kind, name), watched in self._watched.items()
        ]

    def restore(self, state: list[list[Any]]) -> None:
        """Goes on from a snapshot; ValueError when it was made with another model."""
        self._watched = OrderedDict()
        for kind, name, rest_until, frozen, model in state:
            watched = self._watched[kind, name] = _Watched(self._new_model())
            watched.rest_until, watched.frozen = rest_until, frozen
            watched.model.restore(model)

    @property
    def _length_ns(self) -> Nanoseconds:
        return ROLLUP_SECONDS[self._settings.span] * 10**9

    def _entity(self, rollup: Rollup) -> _Watched:
        key = (rollup.entity_kind, rollup.entity)
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(self._new_model())
            if len(self._watched) > self._settings.max_models:
                self._watched.popitem(last=False)
                self._counts["models_forgotten"] += 1
        else:
            self._watched.move_to_end(key)
        return watched

    def _event(
        self, closed: ClosedWindow, unusual: list[tuple[Signal, FeatureDeviation]], model: str
    ) -> DetectionEvent:
        rollup = closed.rollup
        lead, deviation = unusual[0]
        evidence = _evidence(closed, [signal for signal, _ in unusual])
        cause = closed.evidence(lead.marked_by).ref
        score = anomaly_score(deviation.score)
        rule_id = f"anomaly.{rollup.entity_kind}.{lead.feature}"
        window = f"{rollup.span}\x1f{rollup.entity_kind}\x1f{rollup.entity}\x1f{rollup.start_ns}"
        return DetectionEvent(
            id=event_id(self._tenant, "anomaly", rule_id, cause, window),
            kind="anomaly",
            detector="anomaly",
            rule_id=rule_id,
            rule_version=model,
            title=f"Unusual number of {lead.phrase}",
            description=(
                f"{_number(deviation.observed)} {lead.phrase} in {rollup.span} for {rollup.entity_kind} "
                f"{rollup.entity}; usual while active: {_number(deviation.baseline)} "
                f"(typical deviation {_number(deviation.scale)})"
            ),
            severity=score_severity(score),
            score=score,
            time_ns=rollup.start_ns,
            end_ns=rollup.start_ns + self._length_ns,
            cause=cause,
            entities=(Entity(rollup.entity_kind, rollup.entity, "source" if rollup.entity_kind == "ip" else ""),),
            techniques=lead.techniques,
            tactics=lead.tactics,
            evidence=evidence,
            matched={"window": rollup.span, "features": [_explained(found) for _, found in unusual]},
            attributes={},
            activity=lead.activity,
            outcome="failure" if lead.feature == "auth_failure" else "unknown",
        )


def hour_of_week(time_ns: Nanoseconds) -> int:
    """0 for the hour that begins Monday 00:00 UTC, to 167."""
    hours = time_ns // (3600 * 10**9)
    return (hours + 72) % 168


def _unusual(
    verdict: AnomalyScore, signals: tuple[Signal, ...], threshold: float
) -> list[tuple[Signal, FeatureDeviation]]:
    by_feature = {signal.feature: signal for signal in signals}
    return [
        (by_feature[found.feature], found)
        for found in verdict.deviations
        if found.score >= threshold and found.observed >= by_feature[found.feature].floor
    ]


def _evidence(closed: ClosedWindow, signals: list[Signal]) -> tuple[Evidence, ...]:
    found = {closed.evidence("first").ref: closed.evidence("first")}
    for signal in signals:
        evidence = closed.evidence(signal.marked_by)
        found[evidence.ref] = evidence
    return tuple(sorted(found.values(), key=lambda evidence: (evidence.time_ns, evidence.ref)))


def _explained(found: FeatureDeviation) -> dict[str, Any]:
    return {
        "feature": found.feature,
        "observed": found.observed,
        "baseline": round(found.baseline, 3),
        "scale": round(found.scale, 3),
        "deviation": round(found.deviation, 2),
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}"
