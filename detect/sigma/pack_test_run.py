"""Running the tests of a rule pack through the normaliser, the matcher and the correlations that judge real records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from detect.normalize import Normalizer
from detect.record import LogRecord, Logsource, Nanoseconds, NormalizedRecord, RecordRef, TenantId
from detect.sigma.compiled import CompiledMatcher
from detect.sigma.detector import SigmaDetector
from detect.sigma.identity import canonical_reference
from detect.sigma.pack_tests import PackTest, PackTestEvent, PackTestProblem, tests_of
from detect.sigma.rule import RuleSet, SigmaCorrelation, SigmaRule

_START_NS: Final[Nanoseconds] = 1_767_225_600 * 10**9
_LATENESS_NS: Final[Nanoseconds] = 300 * 10**9
_AFTERWARDS_NS: Final[Nanoseconds] = 366 * 86_400 * 10**9
_TENANT = TenantId(UUID(int=0))


@dataclass(frozen=True, slots=True)
class PackTestOutcome:
    """How a test went: `got` is how many times the rule was met. `fault` says why it could not be run."""

    path: str
    line: int
    rule: str
    title: str
    name: str
    passed: bool
    expect: Literal["match", "none"] | int
    got: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class PackTestReport:
    """All outcomes in order, and the rules that have no test."""

    outcomes: tuple[PackTestOutcome, ...]
    untested: tuple[SigmaRule | SigmaCorrelation, ...]

    @property
    def failed(self) -> int:
        """How many tests did not pass."""
        return sum(not outcome.passed for outcome in self.outcomes)


def run_pack_tests(
    rules: RuleSet,
    sources: Sequence[tuple[str, str]],
    test_sources: Sequence[tuple[str, str]],
    normalizer: Normalizer,
) -> PackTestReport:
    """Runs every test of the sources against the rules loaded from them. A test of a rule that did not load fails."""
    tester = _Tester(rules, normalizer)
    outcomes: list[PackTestOutcome] = []
    tested: set[str] = set()
    for test in tests_of(sources, test_sources):
        rule = tester.find(test.rule)
        if rule is not None:
            tested.add(rule.id)
        outcomes.append(_outcome(tester, test, rule))
    everything: tuple[SigmaRule | SigmaCorrelation, ...] = (*rules.rules, *rules.correlations)
    return PackTestReport(tuple(outcomes), tuple(rule for rule in everything if rule.id not in tested))


def _outcome(
    tester: _Tester, test: PackTest | PackTestProblem, rule: SigmaRule | SigmaCorrelation | None
) -> PackTestOutcome:
    title = "" if rule is None else rule.title
    if isinstance(test, PackTestProblem):
        return PackTestOutcome(test.path, test.line, test.rule, title, "", False, "match", 0, test.reason)
    got, fault = 0, "" if rule is not None else "no such rule was loaded"
    if rule is not None:
        got, fault = tester.count(rule, test.events)
    expect = test.expect
    met = got >= 1 if expect == "match" else got == 0 if expect == "none" else got == expect
    return PackTestOutcome(test.path, test.line, test.rule, title, test.name, met and not fault, expect, got, fault)


class _Tester:
    """Rules as they are judged by, every one speaking for itself, so that those that only feed others can be tested."""

    def __init__(self, rules: RuleSet, normalizer: Normalizer) -> None:
        self._rules = dataclasses.replace(rules, silent=frozenset())
        self._matcher = CompiledMatcher(rules.rules)
        self._normalizer = normalizer
        self._by_id: dict[str, SigmaRule | SigmaCorrelation] = {}
        everything: tuple[SigmaRule | SigmaCorrelation, ...] = (*rules.rules, *rules.correlations)
        for rule in everything:
            self._by_id[rule.id] = rule
            if rule.name:
                self._by_id.setdefault(rule.name, rule)

    def find(self, reference: str) -> SigmaRule | SigmaCorrelation | None:
        """The rule of an id or name."""
        return self._by_id.get(canonical_reference(reference))

    def count(self, rule: SigmaRule | SigmaCorrelation, events: Sequence[PackTestEvent]) -> tuple[int, str]:
        """How many events met a detection rule, or how often a correlation fired; and the first fault, if any."""
        records = [self._record(position, event, rule) for position, event in enumerate(events)]
        if isinstance(rule, SigmaCorrelation):
            return self._firings(rule, records)
        found = sum(any(match.rule.id == rule.id for match in self._matcher.match(record)) for record in records)
        return found, next((fault.error for fault in self._matcher.take_faults() if fault.rule_id == rule.id), "")

    def _firings(self, rule: SigmaCorrelation, records: Sequence[NormalizedRecord]) -> tuple[int, str]:
        detector = SigmaDetector(_TENANT, self._rules, lambda _: self._matcher)
        found, latest_ns = [], 0
        for record in records:
            found.extend(detector.observe(record))
            latest_ns = max(latest_ns, record.record.time_ns)
            found.extend(detector.tick(latest_ns - _LATENESS_NS))
        found.extend(detector.tick(latest_ns + _AFTERWARDS_NS))
        faults = [fault.error for fault in detector.take_faults() if fault.subject == rule.id]
        return sum(event.rule_id == rule.id for event in found), next(iter(faults), "")

    def _record(self, position: int, event: PackTestEvent, rule: SigmaRule | SigmaCorrelation) -> NormalizedRecord:
        time_ns = _START_NS + round(event.at_s * 10**9)
        record = LogRecord(
            RecordRef(1, position), time_ns, time_ns, time_ns, time_ns, 9, "INFO", event.body,
            event.attributes or {}, event.resource or {},
        )  # fmt: skip
        if event.fields is None:
            return self._normalizer.normalize(record)
        logsource = event.logsource or self._logsource(rule)
        return NormalizedRecord(record, logsource, dict(event.fields), (), event.message)

    def _logsource(self, rule: SigmaRule | SigmaCorrelation) -> Logsource:
        """The rule's own log source; a correlation's is that of the first rule below it."""
        while isinstance(rule, SigmaCorrelation):
            rule = self._by_id[rule.sources[0]]
        return rule.logsource
