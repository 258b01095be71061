"""All public rules: their own test events fire them, made events are judged rightly, both matchers agree on real logs.

One module, because reading and compiling some 3,750 rules is most of its cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.evaluation_records import normalized, sampled
from detect.sigma import CompiledMatcher, NaiveMatcher, RuleSet, SigmaRule, load_rule_set
from detect.sigma.naive import holds
from tests.evaluation_data import reader
from tests.unit.sigma.synthesis import Synthesised, synthesise

pytestmark = pytest.mark.data

# One record in so many of each set: some six hundred, because the reference judges a few hundred a second.
# `python -m bench.sigma_equality` compares all.
EVERY = {"evtx_attack": 9, "mordor": 661, "loghub": 263, "access_log": 121, "hostile_web": 61}
MADE_EVERY = 61
# The share of rules that no event may be made for; they are named with the reason.
MOST_UNSOLVED = 0.01


@pytest.fixture(scope="module")
def data() -> Any:
    return reader()


@pytest.fixture(scope="module")
def rules(data: Any) -> RuleSet:
    loaded = load_rule_set(list(data.sigma_rules()))
    assert len(loaded.rules) > 3_700
    return loaded


@pytest.fixture(scope="module")
def matcher(rules: RuleSet) -> CompiledMatcher:
    return CompiledMatcher(rules.rules)


@pytest.fixture(scope="module")
def synthesised(rules: RuleSet) -> list[Synthesised]:
    return [synthesise(rule) for rule in rules.rules]


def test_every_public_rule_is_in_force(data: Any, rules: RuleSet) -> None:
    assert rules.errors == ()
    assert len(rules.rules) == len(list(data.sigma_rules()))
    assert {warning.rule_id for warning in rules.warnings} <= {rule.id for rule in rules.rules}


def test_every_regression_case_fires_its_rules(data: Any, rules: RuleSet, matcher: CompiledMatcher) -> None:
    known = {rule.id for rule in rules.rules}
    missed = []
    for case in data.sigma_regression():
        fired = [match.rule.id for event in normalized(case["events"]) for match in matcher.match(event)]
        missed += [
            f"{case['case']}: {rule_id} fired {fired.count(rule_id)} times"
            for rule_id in case["expected_rule_ids"]
            if rule_id in known and fired.count(rule_id) < (case["match_count"] or 1)
        ]
        assert known.issuperset(case["expected_rule_ids"])
    assert missed == []


def test_an_event_and_a_near_miss_can_be_made_for_nearly_every_rule(
    synthesised: list[Synthesised], record_property: Any
) -> None:
    unsolved = [f"{item.rule.path}: {item.reason}" for item in synthesised if item.reason]
    record_property("rules", len(synthesised))
    record_property("unsolved", unsolved)
    assert len(unsolved) <= MOST_UNSOLVED * len(synthesised), "\n".join(unsolved[:100])


def test_made_events_are_judged_rightly_by_both_matchers(
    synthesised: list[Synthesised], matcher: CompiledMatcher
) -> None:
    wrong = []
    for rule, event, expected in _judgements(synthesised):
        made = event.of(rule)
        if holds(rule.condition, made) is not expected:
            wrong.append(f"{rule.path}: the reference does not say {expected} of {event}")
        if any(match.rule is rule for match in matcher.match(made)) is not expected:
            wrong.append(f"{rule.path}: the compiled matcher does not say {expected} of {event}")
    assert wrong == []
    assert matcher.take_faults() == []


def _judgements(synthesised: list[Synthesised]) -> Iterator[tuple[SigmaRule, Any, bool]]:
    for item in synthesised:
        if item.positive is not None:
            yield item.rule, item.positive, True
        if item.near_miss is not None:
            yield item.rule, item.near_miss, False


def test_both_matchers_agree_on_made_events_rule_by_rule(
    rules: RuleSet, synthesised: list[Synthesised], matcher: CompiledMatcher
) -> None:
    """A sample: the reference looks at every rule of the log source for each event."""
    naive = NaiveMatcher(rules.rules)
    for rule, event, _ in list(_judgements(synthesised))[::MADE_EVERY]:
        made = event.of(rule)
        assert matcher.match(made) == naive.match(made)


def test_both_matchers_agree_on_real_records_rule_by_rule(data: Any, rules: RuleSet, matcher: CompiledMatcher) -> None:
    naive = NaiveMatcher(rules.rules)
    matches = 0
    for item in sampled(data, EVERY):
        found = matcher.match(item)
        assert found == naive.match(item)
        matches += len(found)
    assert matches > 30
    assert naive.take_faults() == matcher.take_faults() == []
