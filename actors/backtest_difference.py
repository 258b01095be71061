"""What other rules would have said, rule by rule and day by day, against what is stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from uuid import UUID

import orjson

from actors.replay_difference import NO_REPEATS, Repeats, ReplayDifference, Verdict, add_repeats, no_repeats
from detect.event import DetectionEvent
from store.values import iso_time, text, timestamp

SAMPLES = 5
_EVIDENCE_EVENTS = 5000
_EVIDENCE_SHOWN = 3
_NAMES: Mapping[Verdict, str] = {
    "same": "same", "missing": "lost", "new": "new", "changed": "changed", "pending": "pending",
}  # fmt: skip


@dataclass(slots=True)
class _OfRule:
    title: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NAMES.values(), 0))
    days: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=no_repeats)


class BacktestDifference(ReplayDifference):
    """Counts of every rule, in all and by day of the event (UTC), with the first few events and what they rest on."""

    def __init__(self) -> None:
        super().__init__()
        self._rules: dict[str, _OfRule] = {}
        self._evidence: dict[UUID, list[dict[str, Any]]] = {}

    def keep_evidence(self, events: Sequence[DetectionEvent]) -> None:
        """Remembers what the first few thousand events rest on, in case they are among the samples."""
        for event in events:
            if len(self._evidence) >= _EVIDENCE_EVENTS:
                return
            self._evidence[event.id] = [
                {"record": str(item.ref), "time": iso_time(timestamp(item.time_ns)), "message": text(item.message)}
                for item in event.evidence[:_EVIDENCE_SHOWN]
            ]

    def add(
        self, verdict: Verdict, row: Mapping[str, Any], columns: Sequence[str] = (), repeats: Repeats = NO_REPEATS
    ) -> None:
        """Counts one event."""
        self.counts[verdict] += 1
        add_repeats(self.repeats, repeats)
        name = _NAMES[verdict]
        rule = self._rules.setdefault(row["rule_id"], _OfRule(row["title"]))
        rule.counts[name] += 1
        add_repeats(rule.repeats, repeats)
        day = row["time"].astimezone(UTC).date().isoformat()
        by_day = rule.days.setdefault(day, dict.fromkeys(_NAMES.values(), 0))
        by_day[name] += 1
        kept = rule.samples.setdefault(name, [])
        if verdict not in ("same", "pending") and len(kept) < SAMPLES:
            kept.append(self._sample(row) | ({"columns": list(columns)} if columns else {}))

    def by_rule(self) -> list[dict[str, Any]]:
        """Ready for JSON, in the order of the rules' ids."""
        return [
            {
                "rule_id": rule_id,
                "title": rule.title,
                **rule.counts,
                "repeats": rule.repeats,
                "days": [{"day": day, **counts} for day, counts in sorted(rule.days.items())],
                "samples": {name: kept for name, kept in rule.samples.items() if kept},
            }
            for rule_id, rule in sorted(self._rules.items())
        ]

    def totals(self) -> dict[str, Any]:
        """The counts of all rules together."""
        return {name: self.counts[verdict] for verdict, name in _NAMES.items()} | {"repeats": self.repeats}

    def _sample(self, row: Mapping[str, Any]) -> dict[str, Any]:
        event_id = UUID(int=row["event_id"].int)
        evidence = self._evidence.get(event_id)
        if evidence is None and "evidence" in row:
            stored = orjson.loads(row["evidence"])[:_EVIDENCE_SHOWN]
            evidence = [
                {"record": item["ref"], "time": iso_time(timestamp(item["time_ns"])), "message": item["message"]}
                for item in stored
            ]
        return {
            "event_id": str(event_id),
            "record": f"{row['seq']}-{row['position']}",
            "time": iso_time(row["time"]),
            "severity": row["severity"],
            "title": row["title"],
            "evidence": evidence or [],
        }
