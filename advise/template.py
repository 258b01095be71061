"""The deterministic advisory: everything it says is computed from the brief, the rules' tags and the corpus.

It is complete by itself. A model's sentence may join it later (guard.merge); nothing of it is ever taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from advise.brief import BriefEvent, EvidenceItem, IncidentBrief
from advise.candidates import Candidate, TechniqueMapping, confidence_origin
from advise.knowledge import Corpus, Playbook
from advise.recommend import actions_for, checks_for
from advise.sanitize import clean, defang
from advise.select import Selection, interleaved
from advise.wording import about, counted, listed, shown, span, stands_in, tactic_name, times, timestamp
from detect.event import Severity, severity_rank

TEMPLATE = "template"
TIMELINE_LIMIT = 15
EVIDENCE_PER_STATEMENT = 4
HIL_CONFIDENCE = 0.8
_FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Sources:
    """What an advisory is written from, besides the brief. `digest` is knowledge.corpus_digest of the corpus; `remarks`
    are sentences on what was missing (a degraded corpus, a retriever that did not answer)."""

    corpus: Corpus = field(repr=False)
    digest: str
    playbooks: Sequence[Playbook] = field(default=(), repr=False)
    remarks: tuple[str, ...] = ()


def write_advisory(
    brief: IncidentBrief, selection: Selection, mapping: TechniqueMapping, sources: Sources, fallback_reason: str | None
) -> dict[str, Any]:
    """The template advisory as JSON that follows advisory.schema.json. `fallback_reason` says why no model wrote."""
    writer = _Writer(brief, selection)
    candidates = mapping.candidates
    actions = actions_for(candidates, sources.playbooks, sources.corpus)
    summary = writer.summary(candidates)
    timeline = writer.timeline()
    techniques = [_technique(candidate) for candidate in candidates]
    checks = checks_for(candidates, sources.corpus, brief.platforms)
    confidence = max((candidate.confidence for candidate in candidates), default=0.0)
    evidence = writer.evidence([*summary, *timeline, *techniques, *checks, *actions])
    reasons = hil_reasons(brief.severity, confidence, mapping.disagreements, actions, evidence)
    return {
        "schema_version": 1,
        "incident_id": brief.incident_id,
        "revision": brief.revision,
        "title": clean(brief.title).text,
        "severity": brief.severity,
        "generator": TEMPLATE,
        "fallback_reason": fallback_reason,
        "confidence": round(confidence, 3),
        "confidence_origin": confidence_origin(),
        "hil_required": bool(reasons),
        "hil_reasons": reasons,
        "first_time": timestamp(brief.first_time),
        "last_time": timestamp(brief.last_time),
        "summary": summary,
        "timeline": timeline,
        "techniques": techniques,
        "next_checks": checks,
        "actions": actions,
        "notes": [*writer.notes(candidates, evidence, fallback_reason), *sources.remarks],
        "omitted": {"records": len(brief.evidence) - len(evidence), "by_rule": _by_rule(selection)},
        "evidence": evidence,
        "corpus": {
            "name": "MITRE ATT&CK Enterprise",
            "version": sources.corpus.version,
            "digest": sources.digest,
            "notice": sources.corpus.notice,
        },
    }


def hil_reasons(
    severity: Severity,
    confidence: float,
    disagreements: Sequence[str],
    actions: Sequence[dict[str, Any]],
    evidence: Sequence[dict[str, Any]],
) -> list[str]:
    """Why a human must decide; empty when nothing asks for one. Code alone decides this, no model is heard."""
    reasons = []
    if confidence < HIL_CONFIDENCE:
        reasons.append(f"confidence {confidence:.2f} is below {HIL_CONFIDENCE}")
    if severity_rank(severity) >= severity_rank("high"):
        reasons.append(f"severity is {severity}")
    reasons += disagreements
    if any(action["disruptive"] for action in actions):
        reasons.append("a recommended action is disruptive")
    if tainted := sum(item["tainted"] for item in evidence):
        reasons.append(f"{counted(tainted, 'quoted record')} read like instructions to the reader")
    return reasons


def _technique(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "name": candidate.name,
        "tactics": list(candidate.tactics),
        "basis": candidate.basis,
        "confidence": candidate.confidence,
        "why": candidate.why,
        "model_verdict": "not_asked",
        "source_version": candidate.source_version,
        "url": candidate.url,
        "evidence": list(candidate.evidence),
    }


def _by_rule(selection: Selection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for title, count in selection.omitted_by_rule.items():
        name = clean(title).text
        counts[name] = counts.get(name, 0) + count
    return counts


class _Writer:
    def __init__(self, brief: IncidentBrief, selection: Selection) -> None:
        self._brief = brief
        self._selection = selection

    def summary(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        brief, ends = self._brief, [item.id for item in (*self._selection.items[:1], *self._selection.items[-1:])]
        if not ends:
            return []
        rules = list(dict.fromkeys(event.title for event in brief.events))
        when = f" {span(brief.first_time, brief.last_time)}" if brief.first_time and brief.last_time else ""
        facts = f"{counted(brief.event_count, 'detection')} by {counted(len(rules), 'rule')}{when}"
        concern = about(brief.entities)
        text = f"{facts}, highest severity {brief.severity}" + (f", concerning {concern}." if concern else ".")
        statements = [self._statement(text, ends)]
        chain = [tactic_name(event.tactics[0]) for event in brief.events if event.tactics]
        stages = list(dict.fromkeys(chain))
        if len(stages) > 1:
            cited = [event.evidence[0] for event in brief.events if event.tactics and event.evidence]
            text = f"In order of first appearance the rules place it in {listed(stages, 14)}."
            statements.append(self._statement(text, cited))
        named = [item for item in candidates if item.basis != "retrieval"] or list(candidates[:1])
        if named:
            labels = [f"{item.id} {item.name}".strip() for item in named]
            source = (
                "The rules tag" if named[0].basis != "retrieval" else "No rule names a technique; retrieval suggests"
            )
            cited = [key for item in named for key in item.evidence[:1]]
            statements.append(self._statement(f"{source} {listed(labels, 4)}.", cited))
        return statements

    def timeline(self) -> list[dict[str, Any]]:
        """One entry a rule, in order of first appearance; beyond TIMELINE_LIMIT the severest rules stay."""
        groups: dict[str, list[BriefEvent]] = {}
        for event in self._brief.events:
            if event.evidence:
                groups.setdefault(event.rule_id, []).append(event)
        severest = sorted(groups.values(), key=lambda events: -max(severity_rank(event.severity) for event in events))
        kept = sorted(severest[:TIMELINE_LIMIT], key=lambda events: (events[0].time or _FAR, events[0].rule_id))
        return [self._entry(events) for events in kept]

    def _entry(self, events: Sequence[BriefEvent]) -> dict[str, Any]:
        first = events[0]
        severity = max((event.severity for event in events), key=severity_rank)
        starts = [event.time for event in events if event.time is not None]
        ends = [event.end_time for event in events if event.end_time is not None]
        when = f", {span(min(starts), max(ends))}" if starts and ends else ""
        concern = about(dict.fromkeys(entity for event in events for entity in event.entities))
        title = clean(first.title).text
        text = f"“{title}” matched {times(len(events))} ({severity}){when}" + (f": {concern}." if concern else ".")
        cited = interleaved([event.evidence for event in events])
        quoted = [key for key in cited if key in self._selection.ids]
        statement = self._statement(text, [*quoted, *cited] if quoted else cited[:2])
        return {
            **statement,
            "time": timestamp(min(starts, default=None)),
            "rule_id": clean(first.rule_id).text,
            "severity": severity,
            "stage": tactic_name(first.stage or next(iter(first.tactics), "")),
            "count": len(events),
        }

    def _statement(self, text: str, cited: Iterable[str]) -> dict[str, Any]:
        """A sentence with its evidence. `quotes` are entity values in it that stand literally in a cited record."""
        ids = list(dict.fromkeys(cited))[:EVIDENCE_PER_STATEMENT]
        messages = [self._brief.evidence[key].message for key in ids]
        values = dict.fromkeys(entity.value for entity in self._brief.entities if shown(entity) == entity.value)
        quotes = [
            value for value in values if stands_in(value, text) and any(stands_in(value, line) for line in messages)
        ]
        return {"text": defang(text), "evidence": ids, "quotes": quotes[:20], "origin": TEMPLATE}

    def evidence(self, citing: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Every selected or cited record, in order of time."""
        ids = {item.id for item in self._selection.items}
        ids.update(key for statement in citing for key in statement["evidence"])
        items = sorted((self._brief.evidence[key] for key in ids), key=lambda item: (item.time or _FAR, item.id))
        return [_quotation(item) for item in items]

    def notes(
        self, candidates: Sequence[Candidate], evidence: Sequence[dict[str, Any]], fallback_reason: str | None
    ) -> list[str]:
        """What the advisory does not show or know. About the advisory, not about the incident: no evidence."""
        notes = [generator_note(fallback_reason)]
        if missing := len(self._brief.evidence) - len(evidence):
            notes.append(f"{counted(missing, 'further record')} of this incident are not quoted here.")
        if (events := self._brief.event_count - len(self._brief.events)) > 0:
            notes.append(f"{counted(events, 'further detection')} of this incident were not read for this advisory.")
        if withheld := [item["id"] for item in evidence if item["tainted"]]:
            names = listed(withheld, 6)
            notes.append(f"The text of {names} reads like an instruction and is withheld; open the record to see it.")
        if not candidates:
            notes.append("No rule names an ATT&CK technique and retrieval found none.")
        rules = {event.rule_id for event in self._brief.events if event.evidence}
        if len(rules) > TIMELINE_LIMIT:
            notes.append(f"The timeline shows the {TIMELINE_LIMIT} severest of {len(rules)} rules.")
        if any(item.basis == "retrieval" for item in candidates):
            notes.append("Techniques that only retrieval found are suggestions to check, most of them will not apply.")
        return notes


def _quotation(item: EvidenceItem) -> dict[str, Any]:
    quoted = clean(item.message)
    return {
        "id": item.id,
        "record": item.id if item.source == "journal" else f"caller:{item.id}",
        "source": item.source,
        "digest": item.digest,
        "time": timestamp(item.time),
        "message": defang(quoted.text),
        "tainted": quoted.tainted,
        "redacted": list(quoted.redacted),
    }


def generator_note(fallback_reason: str | None) -> str:
    """One sentence on who wrote: the first note of every advisory."""
    if fallback_reason == "llm_off":
        return "Written without a language model: none is configured."
    if fallback_reason is None:
        return "Everything in this advisory is computed from the records, the rules and ATT&CK."
    return f"Written without a language model ({fallback_reason})."


__all__ = ["TEMPLATE", "Sources", "generator_note", "hil_reasons", "write_advisory"]
