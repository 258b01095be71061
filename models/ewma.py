"""Exponentially weighted baseline with a robust scale: the first model, cheap enough for every entity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from models.contract import AnomalyScore, FeatureDeviation, require_finite

_DEVIATION_TO_SIGMA = 1.2533141373155001
"""sqrt(pi / 2): the mean absolute deviation of a normal distribution times this is its standard deviation."""

_LARGEST_DEVIATION = 100.0


class _Level:
    """Weighted mean and mean absolute deviation of one feature (in one phase)."""

    __slots__ = ("deviation", "mean", "seen")

    def __init__(self, seen: int = 0, mean: float = 0.0, deviation: float = 0.0) -> None:
        self.seen = seen
        self.mean = mean
        self.deviation = deviation


class EwmaModel:
    """Judges each feature by its distance from an exponentially weighted mean, in robust standard deviations.

    The scale is the exponentially weighted mean absolute deviation (not the variance), never below
    `relative_floor` times the mean's size, and one value moves mean and scale by at most `clip` scales: a single
    attack hardly widens the band. A feature's score is q / (1 + q) with q = (deviation / `half_score_at`) ** 2, so
    0.5 is reached at `half_score_at` deviations; the whole score is the highest of the features. With
    `direction="up"` only values above the baseline score. Results do not depend on a feature's unit: multiplying
    all its values by a positive number changes no score.

    With `phases` > 1 a phase that was learned `phase_probation` times is judged by its own baseline, others by the
    overall one; 168 with detect.anomaly.hour_of_week is a weekly season.

    Where it fails: slow drift is learned as normal (an attacker who doubles his rate every hour is never unusual); a
    regular burst that happens less often than its memory of about 1/`alpha` windows is unusual every time unless a
    season is set; heavy-tailed series raise alarms in proportion to their tail; features are judged apart, so a
    strange combination of usual values is not seen.
    """

    scale_invariant: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        probation: int = 24,
        half_score_at: float = 6.0,
        relative_floor: float = 0.05,
        clip: float = 4.0,
        direction: Literal["up", "both"] = "up",
        phases: int = 1,
        phase_probation: int = 20,
    ) -> None:
        """ValueError for parameters that make no sense."""
        if not (0 < alpha < 1 and probation >= 2 and half_score_at > 0 and relative_floor >= 0 and clip > 0):
            raise ValueError("alpha must lie in (0, 1), probation be 2 or more, the others positive")
        if phases < 1 or phase_probation < 2:
            raise ValueError("phases must be 1 or more, phase_probation 2 or more")
        self._alpha = alpha
        self._probation = probation
        self._half_score_at = half_score_at
        self._relative_floor = relative_floor
        self._clip = clip
        self._direction = direction
        self._phases = phases
        self._phase_probation = phase_probation
        self._seen = 0
        self._phase_seen: dict[int, int] = {}
        self._levels: dict[str, _Level] = {}
        self._phase_levels: dict[tuple[int, str], _Level] = {}

    @property
    def name(self) -> str:
        """Name and version of the method."""
        return "ewma-1"

    @property
    def learning(self) -> bool:
        """True until `probation` vectors were learned."""
        return self._seen < self._probation

    def score_one(self, features: Mapping[str, float], phase: int = 0) -> AnomalyScore:
        """Judges a vector; a feature that was never seen is judged against a baseline of 0."""
        require_finite(features)
        if self.learning:
            return AnomalyScore(0.0, True, ())
        deviations = [
            self._judged(feature, features.get(feature, 0.0), phase % self._phases)
            for feature in sorted({*features, *self._levels})
        ]
        deviations.sort(key=_by_score)
        return AnomalyScore(deviations[0].score if deviations else 0.0, False, tuple(deviations))

    def learn_one(self, features: Mapping[str, float], phase: int = 0) -> None:
        """Learns a vector. A feature first seen now counts as 0 in all vectors before."""
        require_finite(features)
        phase %= self._phases
        for feature in {*features, *self._levels}:
            value = features.get(feature, 0.0)
            self._learn(self._levels.setdefault(feature, _Level(self._seen)), value)
            if self._phases > 1:
                level = self._phase_levels.setdefault((phase, feature), _Level(self._phase_seen.get(phase, 0)))
                self._learn(level, value)
        self._seen += 1
        if self._phases > 1:
            self._phase_seen[phase] = self._phase_seen.get(phase, 0) + 1

    def snapshot(self) -> Any:
        """Name, count, levels by feature, and for seasonal models counts and levels by phase; in sorted order."""
        return [
            self.name,
            self._seen,
            sorted([feature, level.seen, level.mean, level.deviation] for feature, level in self._levels.items()),
            sorted([phase, count] for phase, count in self._phase_seen.items()),
            sorted(
                [phase, feature, level.seen, level.mean, level.deviation]
                for (phase, feature), level in self._phase_levels.items()
            ),
        ]

    def restore(self, state: Any) -> None:
        """Goes on from a snapshot of a model made with the same parameters."""
        name, seen, levels, phase_seen, phase_levels = state
        if name != self.name:
            raise ValueError(f"this snapshot is of model {name!r}, not of {self.name!r}")
        self._seen = seen
        self._levels = {feature: _Level(*level) for feature, *level in levels}
        self._phase_seen = {phase: count for phase, count in phase_seen}
        self._phase_levels = {(phase, feature): _Level(*level) for phase, feature, *level in phase_levels}

    def _scale(self, level: _Level) -> float:
        return max(_DEVIATION_TO_SIGMA * level.deviation, self._relative_floor * abs(level.mean))

    def _judged(self, feature: str, value: float, phase: int) -> FeatureDeviation:
        level = self._levels.get(feature) or _Level()
        if self._phase_seen.get(phase, 0) >= self._phase_probation:
            level = self._phase_levels.get((phase, feature)) or _Level()
        scale = self._scale(level)
        distance = value - level.mean
        if distance == 0:
            deviation = 0.0
        elif abs(distance) >= _LARGEST_DEVIATION * scale:
            deviation = _LARGEST_DEVIATION if distance > 0 else -_LARGEST_DEVIATION
        else:
            deviation = distance / scale
        counted = max(0.0, deviation) if self._direction == "up" else abs(deviation)
        strength = (counted / self._half_score_at) ** 2
        return FeatureDeviation(feature, value, level.mean, scale, deviation, strength / (1 + strength))

    def _learn(self, level: _Level, value: float) -> None:
        weight = max(self._alpha, 1 / (level.seen + 1))
        distance = value - level.mean
        reach = self._clip * self._scale(level)
        if level.seen >= self._probation and reach > 0:
            distance = min(reach, max(-reach, distance))
        level.mean += weight * distance
        if level.seen:
            level.deviation += weight * (abs(distance) - level.deviation)
        level.seen += 1


def _by_score(found: FeatureDeviation) -> tuple[float, float, str]:
    return (-found.score, -abs(found.deviation), found.feature)
