"""Coverage: which rules can fire on what arrived, which cannot, and for want of what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detect.record import Logsource
from detect.sigma import coverage
from detect.sigma.coverage import Arrivals, CoverageReport, RuleCoverage, coverage_of
from tests.unit.sigma.records import loaded, record, rule_text

WINDOWS = Logsource("windows", "process_creation", "sysmon")
SSHD = Logsource("linux", "", "sshd")


def arrived(*records: tuple[Logsource, dict[str, Any]]) -> Arrivals:
    arrivals = Arrivals()
    for logsource, fields in records:
        arrivals.add(record(fields, logsource=logsource))
    return arrivals


def of_rule(detection: str, arrivals: Arrivals, logsource: str = "{product: windows}") -> RuleCoverage:
    (found,) = coverage_of(loaded(rule_text(detection, logsource=logsource)), arrivals).rules
    return found


def test_a_rule_whose_log_source_never_came_cannot_fire() -> None:
    found = of_rule("a: {Image: x}\ncondition: a", arrived((SSHD, {"Image": "x"})))
    assert (found.verdict, found.records, found.missing) == ("no log source", 0, ("Image",))


def test_a_rule_whose_fields_came_can_fire_and_its_records_are_counted() -> None:
    found = of_rule("a: {Image: y}\ncondition: a", arrived((WINDOWS, {"Image": "x"}), (WINDOWS, {"CommandLine": "x"})))
    assert (found.verdict, found.records, found.missing, found.needed) == ("can fire", 2, (), ())


@pytest.mark.parametrize(
    ("detection", "verdict"),
    [
        ("a: {Image: x, Gone: y}\ncondition: a", "fields missing"),
        ("a: {Image: x}\nb: {Gone: y}\ncondition: a or b", "can fire"),
        ("a: {Image: x}\nb: {Gone: y}\ncondition: a and not b", "can fire"),
        ("a: {Gone: null}\ncondition: a", "can fire"),
        ("a: {Gone|exists: true}\ncondition: a", "fields missing"),
        ("a: {Image|fieldref: Gone}\ncondition: a", "fields missing"),
        ("a: {message|contains: x}\ncondition: a", "can fire"),
        ("a: [word]\ncondition: a", "can fire"),
        ("a: {Image: x}\nb: {Gone: y}\ncondition: not (a or not b)", "fields missing"),
    ],
)
def test_a_rule_can_fire_unless_what_is_missing_must_be_there(detection: str, verdict: str) -> None:
    found = of_rule(detection, arrived((WINDOWS, {"Image": "x"})))
    assert found.verdict == verdict
    assert found.needed == (("Gone",) if verdict == "fields missing" else ())


def test_fields_must_come_from_one_log_source() -> None:
    security = Logsource("windows", "", "security")
    found = of_rule(
        "a: {One: x, Two: y}\ncondition: a", arrived((WINDOWS, {"One": 1, "Three": 3}), (security, {"Two": 2}))
    )
    assert (found.verdict, found.missing, len(found.needed)) == ("fields missing", (), 1)


def test_an_empty_field_has_arrived() -> None:
    assert of_rule("a: {Image: x}\ncondition: a", arrived((WINDOWS, {"Image": ""}))).verdict == "can fire"


def test_a_correlation_can_fire_when_enough_of_its_rules_can() -> None:
    base = rule_text("a: {Image: x}\ncondition: a", title="One", extra="name: one", logsource="{product: windows}")
    other = rule_text("a: {Image: x}\ncondition: a", title="Two", extra="name: two", logsource="{product: linux}")

    def correlation(kind: str) -> str:
        block = f"type: {kind}, rules: [one, two], timespan: 1m, group-by: [Image]"
        condition = ", condition: {gte: 2}" if kind == "event_count" else ""
        return f"title: Both\nname: {kind}\ncorrelation: {{{block}{condition}}}\n"

    rules = loaded(base, other, correlation("temporal"), correlation("event_count"))
    found = {item.rule_id: item for item in coverage_of(rules, arrived((WINDOWS, {"Image": "x"}))).rules}
    assert (found["temporal"].verdict, found["temporal"].needed) == ("no log source", ("two",))
    assert found["event_count"].verdict == "can fire"


def test_accounts_add_up_and_travel_as_json() -> None:
    one, two = arrived((WINDOWS, {"Image": "x"})), arrived((WINDOWS, {"User": "x"}), (SSHD, {"user": "y"}))
    whole = arrived((WINDOWS, {"Image": "x"}), (WINDOWS, {"User": "x"}), (SSHD, {"user": "y"}))
    one.merge(Arrivals.restore(json.loads(json.dumps(two.snapshot()))))
    assert one.snapshot() == whole.snapshot()
    assert one.records == 3


@pytest.mark.parametrize("state", [None, {}, {"version": 1}, {"version": 1, "uncounted": 0, "sources": [["x"]]}])
def test_what_is_no_account_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="arrivals"):
        Arrivals.restore(state)


def test_what_senders_invent_stays_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MAX_SOURCES", 3)
    monkeypatch.setattr(coverage, "MAX_FIELDS", 4)
    monkeypatch.setattr(coverage, "MAX_SHAPES", 5)
    arrivals = Arrivals()
    for number in range(50):
        arrivals.add(record({f"name{number}": "x"}, logsource=Logsource("windows", "", f"service{number % 10}")))
    assert (len(arrivals.sources), arrivals.records, arrivals.uncounted) == (3, 50, 35)
    assert all(len(source.fields) <= 4 and source.truncated for source in arrivals.sources.values())
    # Of names that were left out nothing is known, so no rule is said to be unable for them.
    assert of_rule("a: {Never: x}\ncondition: a", arrivals).verdict == "can fire"


def test_a_report_counts_and_shows_what_each_log_source_feeds() -> None:
    rules = loaded(
        rule_text("a: {Image: x}\ncondition: a", title="W", logsource="{product: windows}"),
        rule_text("a: {user: x}\ncondition: a", title="L", logsource="{product: linux}"),
    )
    report: CoverageReport = coverage_of(rules, arrived((WINDOWS, {"Image": "x"}), (WINDOWS, {"Image": "x"})))
    assert report.sources == ((WINDOWS, 2, 1),)
    shown = json.loads(json.dumps(report.as_json()))
    assert shown["verdicts"] == {"can fire": 1, "no log source": 1, "fields missing": 0}
    assert [rule["title"] for rule in shown["rules"]] == ["W", "L"]
