"""The Sigma detector of one tenant: rules on each record, correlations over their matches, state that can be saved."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from detect.batch import Poison
from detect.event import DetectionEvent, Evidence
from detect.positions import ranges_text
from detect.record import NormalizedRecord, RecordRef, TenantId
from detect.sigma.compiled import CompiledMatcher
from detect.sigma.correlation import CorrelationState, Firing, Signal
from detect.sigma.correlation_snapshot import ContributionReader, ContributionWriter
from detect.sigma.event import correlation_event, evidence_of, merged_entities, merged_evidence, rule_event
from detect.sigma.match import RuleMatcher
from detect.sigma.rule import RuleSet, SigmaRule

SNAPSHOT_VERSION = 1


class SigmaDetector:
    """Judges records in journal order. Time passes only through `tick`; equal input gives equal events and state."""

    def __init__(
        self,
        tenant: TenantId,
        rules: RuleSet,
        matcher: Callable[[Sequence[SigmaRule]], RuleMatcher] = CompiledMatcher,
    ) -> None:
        self._tenant = tenant
        self._build_matcher = matcher
        self._watermark_ns = 0
        self._latest = RecordRef(0, -1)
        self._faults: dict[tuple[str, str], tuple[Poison, list[int]]] = {}
        self._states: dict[str, CorrelationState] = {}
        self.replace_rules(rules)

    @property
    def rules(self) -> RuleSet:
        """The rule set in force."""
        return self._rules

    def observe(self, record: NormalizedRecord, only: str = "") -> list[DetectionEvent]:
        """The events that this record causes: rules in their order, then the correlations that they complete.

        `only` is the one rule to judge by, for a record that the others have seen already.
        """
        self._latest = record.record.ref
        matches = self._matcher.match(record)
        for fault in self._matcher.take_faults():
            if not only or fault.rule_id == only:
                self._add_fault(record.record.ref, "sigma", fault.rule_id, fault.error)
        if only:
            matches = tuple(match for match in matches if match.rule.id == only)
        if not matches:
            return []
        events: list[DetectionEvent] = []
        signals: deque[Signal] = deque()
        evidence = evidence_of(record)
        for match in matches:
            if match.rule.id not in self._rules.silent:
                events.append(rule_event(self._tenant, match, record, evidence))
            if match.rule.id in self._fed_by:
                stored, told = record.record, ((evidence,), record.entities)
                signals.append(Signal(match.rule.id, stored.time_ns, stored.ref, record, *told, {}))
        self._spread(signals, events)
        return events

    def _spread(self, signals: deque[Signal], events: list[DetectionEvent]) -> None:
        """Hand matches to the correlations they feed, and what these make of them to those further out."""
        while signals:
            signal = signals.popleft()
            for state in self._fed_by.get(signal.source, ()):
                self._correlate(state, signal, events, signals)

    def _correlate(
        self, state: CorrelationState, signal: Signal, events: list[DetectionEvent], signals: deque[Signal]
    ) -> None:
        try:
            firing = state.observe(signal, self._watermark_ns)
            if firing is not None:
                self._tell(state, firing, signal.record, events, signals)
        except Exception as error:  # isolation: one faulty correlation must not stop the others
            self._add_fault(signal.ref, "correlation", state.correlation.id, f"{type(error).__name__}: {error}")

    def _tell(
        self,
        state: CorrelationState,
        firing: Firing,
        record: NormalizedRecord | None,
        events: list[DetectionEvent],
        signals: deque[Signal],
    ) -> None:
        rule = state.correlation
        if rule.id not in self._rules.silent:
            events.append(correlation_event(self._tenant, rule, firing, record))
        time_ns = firing.contributions[-1].time_ns if record is None else record.record.time_ns
        told = merged_evidence(firing), merged_entities(firing)
        signals.append(Signal(rule.id, time_ns, firing.cause, record, *told, firing.group))

    def tick(self, watermark_ns: int) -> list[DetectionEvent]:
        """Event time has passed `watermark_ns`: close windows, forget what no window can reach.

        Returns the events of conditions that time has met, in the order of the correlations; their causes are records
        of earlier batches.
        """
        events: list[DetectionEvent] = []
        if watermark_ns <= self._watermark_ns:
            return events
        self._watermark_ns = watermark_ns
        signals: deque[Signal] = deque()
        for state in self._states.values():
            try:
                for firing in state.close(watermark_ns):
                    self._tell(state, firing, None, events, signals)
                self._spread(signals, events)
                state.expire(watermark_ns)
            except Exception as error:  # isolation: as above
                fault = f"{type(error).__name__}: {error}"
                self._add_fault(self._latest, "correlation", state.correlation.id, fault)
        return events

    @property
    def is_waiting(self) -> bool:
        """Whether the passing of time could still cause an event."""
        return any(state.is_waiting for state in self._states.values())

    def take_faults(self) -> list[Poison]:
        """Rules that raised since the last call: one entry for each, at its first record, with all it raised on."""
        faults, self._faults = self._faults, {}
        return [
            poison
            if len(positions) == 1
            else Poison(
                poison.seq,
                poison.position,
                poison.stage,
                poison.subject,
                f"{poison.error} (on {len(positions)} records)",
                len(positions),
                ranges_text(positions),
            )
            for poison, positions in faults.values()
        ]

    def _add_fault(self, ref: RecordRef, stage: Any, rule_id: str, error: str) -> None:
        known = self._faults.get((stage, rule_id))
        if known is None:
            self._faults[stage, rule_id] = (Poison(ref.seq, ref.position, stage, rule_id, error[:500]), [ref.position])
        else:
            known[1].append(ref.position)

    def counters(self) -> dict[str, dict[str, int]]:
        """For each correlation: groups held, what the bounds evicted, matches that came too late."""
        return {
            rule_id: {"groups": state.group_count, "evicted": state.evicted, "late": state.late}
            for rule_id, state in self._states.items()
        }

    def snapshot(self, numbers: Mapping[Evidence, int] | None = None) -> dict[str, Any]:
        """All state as plain JSON values; with `numbers`, evidence stands as its number."""
        writer = None if numbers is None else ContributionWriter(numbers)
        return {
            "version": SNAPSHOT_VERSION,
            "watermark_ns": self._watermark_ns,
            "correlations": {rule_id: state.snapshot(writer) for rule_id, state in self._states.items()},
        }

    def evidence(self) -> Collection[tuple[Evidence, ...]]:
        """What the correlations cite; what several of them hold of one match is given once."""
        return {id(cited): cited for state in self._states.values() for cited in state.evidence()}.values()

    def restore(self, state: object, evidence: Sequence[Evidence] | None = None) -> None:
        """Take over a snapshot, with the evidence by number where it was made so. State of correlations that are gone
        or have changed is left out.

        Raises ValueError when it is no snapshot of this version; then nothing has changed.
        """
        if not isinstance(state, dict) or state.get("version") != SNAPSHOT_VERSION:
            raise ValueError("not a snapshot of the Sigma detector in a version that this program reads")
        states, reader = self._fresh_states(self._rules), ContributionReader(evidence)
        try:
            for rule_id, saved in state["correlations"].items():
                fresh = states.get(rule_id)
                if fresh is not None and fresh.fingerprint == saved["fingerprint"]:
                    fresh.restore(saved, reader)
            watermark_ns = int(state["watermark_ns"])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the snapshot of the Sigma detector is damaged: {error}") from error
        self._watermark_ns = watermark_ns
        self._adopt(states)

    def replace_rules(self, rules: RuleSet) -> None:
        """Judge by other rules from now on. Correlations whose text and sources are unchanged keep their state."""
        states = self._fresh_states(rules)
        for rule_id, fresh in states.items():
            held = self._states.get(rule_id)
            if held is not None and held.fingerprint == fresh.fingerprint:
                states[rule_id] = held
        self._rules = rules
        self._matcher = self._build_matcher(rules.rules)
        self._adopt(states)

    def _fresh_states(self, rules: RuleSet) -> dict[str, CorrelationState]:
        fingerprints = _fingerprints(rules)
        return {rule.id: CorrelationState(rule, fingerprints[rule.id]) for rule in rules.correlations}

    def _adopt(self, states: dict[str, CorrelationState]) -> None:
        self._states = states
        self._fed_by: dict[str, list[CorrelationState]] = {}
        for state in states.values():
            for source in state.correlation.sources:
                self._fed_by.setdefault(source, []).append(state)


def _fingerprints(rules: RuleSet) -> dict[str, str]:
    """What each correlation means: its own version and, down to the detection rules, those of its sources."""
    versions: dict[str, str] = {rule.id: rule.version for rule in rules.rules}
    fingerprints: dict[str, str] = {}
    for correlation in rules.correlations:
        parts = (correlation.version, *(versions[source] for source in correlation.sources))
        versions[correlation.id] = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
        fingerprints[correlation.id] = versions[correlation.id]
    return fingerprints
