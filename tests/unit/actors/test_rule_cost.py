"""Rules are measured on records that were judged already: the candidates, one record in so many, and no more."""

from __future__ import annotations

from actors.rule_cost import RuleCosts
from detect.batch import BatchOutput
from detect.sigma.compiled import CompiledMatcher
from tests.unit.sigma.records import loaded, record, rule_text

RULES = loaded(
    rule_text("a: {kind: login}\ncondition: a", title="login", extra="name: login"),
    rule_text("a: {kind: logout}\ncondition: a", title="logout", extra="name: logout"),
    rule_text("a: {kind: login}\nb: {other: x}\ncondition: not a or b", title="nearly all", extra="name: nearly"),
)


def output(kind: str, count: int) -> BatchOutput:
    records = tuple(record({"kind": kind}, position=position) for position in range(count))
    return BatchOutput(1, records, (), (), (), (), {})


def names(matcher: CompiledMatcher, kind: str) -> set[str]:
    return {rule.title for rule in matcher.considered(record({"kind": kind}))}


def test_only_rules_that_may_be_true_are_considered() -> None:
    matcher = CompiledMatcher(RULES.rules)
    assert names(matcher, "logout") == {"logout", "nearly all"}
    assert names(matcher, "login") == {"login", "nearly all"}
    assert names(matcher, "something") == {"nearly all"}


def test_every_rule_that_matches_was_considered() -> None:
    matcher = CompiledMatcher(RULES.rules)
    for kind in ("login", "logout", "x"):
        judged = record({"kind": kind})
        assert {match.rule.id for match in matcher.match(judged)} <= {rule.id for rule in matcher.considered(judged)}


def test_one_record_in_so_many_is_measured_whatever_the_batches() -> None:
    seconds: dict[str, float] = {}
    costs = RuleCosts(seconds, every=10)
    matcher = CompiledMatcher(RULES.rules)
    costs.observe([output("login", 4), output("login", 5)], matcher)
    assert seconds == {}
    costs.observe([output("login", 1)], matcher)
    assert {rule.title for rule in RULES.rules if rule.id in seconds} == {"login", "nearly all"}
    costs.observe([output("login", 0), output("logout", 35)], matcher)
    assert len(seconds) == 3
    assert all(spent > 0 for spent in seconds.values())
