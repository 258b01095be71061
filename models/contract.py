"""The contract of every model, and what all of them check before they learn.

The Protocol itself lives with the detector that calls it; this is where models and their tests import it from.
"""

from __future__ import annotations

from collections.abc import Mapping

from detect.anomaly import AnomalyModel, AnomalyScore, FeatureDeviation

LARGEST_VALUE = 1e100
"""Larger values are refused: squares and differences of them would leave the range of floats."""


def require_finite(features: Mapping[str, float]) -> None:
    """ValueError, naming the feature, for NaN, infinity and values beyond LARGEST_VALUE."""
    for feature, value in features.items():
        if not abs(value) <= LARGEST_VALUE:
            raise ValueError(f"feature {feature!r} is {value!r}: models take finite numbers up to {LARGEST_VALUE:g}")


__all__ = ["LARGEST_VALUE", "AnomalyModel", "AnomalyScore", "FeatureDeviation", "require_finite"]
