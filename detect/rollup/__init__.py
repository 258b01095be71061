"""Rollups: counts and distinct counts per entity in windows of a minute, five minutes and an hour of event time."""

from __future__ import annotations

from detect.rollup.store import MINUTE_NS, ClosedWindow, EntityWindows, RollupSettings

__all__ = ["MINUTE_NS", "ClosedWindow", "EntityWindows", "RollupSettings"]
