"""Which records an advisory quotes: few enough to read, chosen so that nothing that happened goes unmentioned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from advise.brief import BriefEvent, EvidenceItem, IncidentBrief
from detect.event import severity_rank

EVIDENCE_LIMIT = 12
_FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen evidence in order of time, and what was left out, by count. Rules are keyed by title.

    `by_weight` are the ids of the same evidence, the most telling first.
    """

    items: tuple[EvidenceItem, ...]
    by_weight: tuple[str, ...]
    omitted_records: int
    omitted_by_rule: dict[str, int]

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the chosen evidence."""
        return frozenset(item.id for item in self.items)


def select_evidence(brief: IncidentBrief, limit: int = EVIDENCE_LIMIT) -> Selection:
    """At most `limit` records: one for each rule (severest first), one for each tactic, the first and the last, then
    one by one from the rules with the fewest events. The same brief always gives the same selection."""
    chosen: dict[str, None] = {}
    queue = [*_per_rule(brief), *_per_tactic(brief), *_ends(brief), *_by_rarity(brief)]
    for evidence_id in queue:
        if len(chosen) >= limit:
            break
        chosen.setdefault(evidence_id)
    items = sorted((brief.evidence[key] for key in chosen), key=_when)
    omitted = Counter(
        event.title for event in brief.events if event.evidence and not any(key in chosen for key in event.evidence)
    )
    return Selection(tuple(items), tuple(chosen), len(brief.evidence) - len(chosen), dict(sorted(omitted.items())))


def _when(item: EvidenceItem) -> tuple[datetime, str]:
    return (item.time or _FAR, item.id)


def _per_rule(brief: IncidentBrief) -> list[str]:
    first: dict[str, BriefEvent] = {}
    for event in brief.events:
        known = first.get(event.rule_id)
        severer = known is None or severity_rank(event.severity) > severity_rank(known.severity)
        if event.evidence and severer:
            first[event.rule_id] = event
    severest = sorted(first.values(), key=lambda event: -severity_rank(event.severity))
    return [event.evidence[-1] for event in severest]


def _per_tactic(brief: IncidentBrief) -> list[str]:
    first: dict[str, str] = {}
    for event in brief.events:
        for tactic in (*event.tactics, event.stage):
            if tactic and event.evidence:
                first.setdefault(tactic, event.evidence[0])
    return list(first.values())


def _ends(brief: IncidentBrief) -> list[str]:
    ordered = sorted(brief.evidence.values(), key=_when)
    return [item.id for item in (*ordered[:1], *ordered[-1:])]


def _by_rarity(brief: IncidentBrief) -> list[str]:
    """Round robin over the rules, the rarest first: the n-th record of every rule before the n+1st of any."""
    by_rule: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for event in brief.events:
        by_rule[event.rule_id].append(event.evidence)
    return interleaved([interleaved(events) for events in sorted(by_rule.values(), key=len)])


def interleaved(queues: Sequence[Sequence[str]]) -> list[str]:
    """The first of each queue, then the second of each, and so on, without repeats."""
    longest = max((len(queue) for queue in queues), default=0)
    return list(dict.fromkeys(queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)))
