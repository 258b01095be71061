"""Tests inside packs run through the production code, and say what was expected and what came."""

from __future__ import annotations

import pytest

from detect.normalize import default_normalizer
from detect.sigma import load_rule_set, starter_pack
from detect.sigma.archive import is_test_file
from detect.sigma.pack_test_run import PackTestReport, run_pack_tests

RULE = """\
title: Root Login
id: 0a1b2c3d-0000-4000-8000-000000000002
name: root_login
logsource: {product: linux, service: sshd}
detection:
  selection: ['Accepted password for root']
  condition: selection
"""
CORRELATION = """\
title: Root Logins
id: 0a1b2c3d-0000-4000-8000-000000000003
correlation:
  type: event_count
  rules: [root_login]
  group-by: [hostname]
  timespan: 1m
  condition: {gte: 3}
"""
LINE = "Nov 22 09:00:00 web-1 sshd[1]: Accepted password for root from 203.0.113.9 port 22 ssh2"


def run(tests: str, rule: str = RULE, beside: str = "") -> PackTestReport:
    text = RULE + (tests if rule is RULE else "") + ("---\n" + rule + tests if rule is not RULE else "")
    sources = [("rule.yml", text)]
    rules = load_rule_set(sources)
    assert rules.errors == ()
    test_sources = [("rule.test.yml", beside)] if beside else []
    return run_pack_tests(rules, sources, test_sources, default_normalizer())


def test_the_short_form_passes_and_fails_by_kind() -> None:
    report = run(f"tests:\n  positive: ['{LINE}', nothing]\n  negative: [nothing, '{LINE}']\n  near_miss: [x]\n")
    assert [(outcome.name, outcome.passed, outcome.got) for outcome in report.outcomes] == [
        ("positive 1", True, 1),
        ("positive 2", False, 0),
        ("negative 1", True, 0),
        ("negative 2", False, 1),
        ("near_miss 1", True, 0),
    ]
    assert report.failed == 2 and report.outcomes[0].line == 9


@pytest.mark.parametrize(
    ("case", "passed", "got"),
    [
        (f"{{name: n, expect: match, event: '{LINE}'}}", True, 1),
        (f"{{expect: 2, events: ['{LINE}', other, '{LINE}']}}", True, 2),
        (f"{{expect: 2, events: [{{line: '{LINE}', times: 3, every: 1}}]}}", False, 3),
        ("{expect: match, event: {fields: {user: x}, message: Accepted password for root}}", True, 1),
        ("{expect: match, event: {fields: {a: accepted PASSWORD for root}}}", True, 1),
        (
            "{expect: none, event: {fields: {a: Accepted password for root}, logsource: {product: windows}}}",
            True,
            0,
        ),
        (
            "{expect: match, event: {body: {SYSLOG_IDENTIFIER: sshd, MESSAGE: Accepted password for root from x}}}",
            True,
            1,
        ),
        ("{expect: none, event: {SYSLOG_IDENTIFIER: sshd, MESSAGE: else}}", True, 0),
    ],
)
def test_the_long_form_takes_lines_bodies_and_fields(case: str, passed: bool, got: int) -> None:
    [outcome] = run(f"tests:\n  cases:\n    - {case}\n").outcomes
    assert (outcome.passed, outcome.got, outcome.fault) == (passed, got, "")


def test_correlations_count_firings_over_time() -> None:
    cases = f"""\
tests:
  positive: [[[0, '{LINE}', 3, 10]]]
  near_miss: [[[0, '{LINE}', 3, 40]]]
  cases:
    - {{expect: 2, events: [{{line: '{LINE}', times: 3}}, {{at: 3600, line: '{LINE}', times: 3}}]}}
    - {{expect: 1, events: [{{fields: {{hostname: h}}, message: Accepted password for root, times: 3}}]}}
"""
    report = run(cases, CORRELATION)
    assert [(outcome.passed, outcome.got) for outcome in report.outcomes] == [
        (True, 1),
        (True, 0),
        (True, 2),
        (True, 1),
    ]
    assert [rule.title for rule in report.untested] == ["Root Login"]


def test_a_rule_is_found_however_its_id_is_written() -> None:
    rule = RULE.replace("0a1b2c3d", "0A1B2C3D") + f"tests: {{positive: ['{LINE}']}}\n"
    sources = [("rule.yml", rule)]
    beside = f"rule: '{{0A1B2C3D-0000-4000-8000-000000000002}}'\ntests: {{positive: ['{LINE}']}}\n"
    report = run_pack_tests(load_rule_set(sources), sources, [("rule.test.yml", beside)], default_normalizer())
    assert [(outcome.passed, outcome.fault) for outcome in report.outcomes] == [(True, "")] * 2
    assert report.untested == ()


def test_tests_may_stand_beside_a_rule_and_name_it() -> None:
    report = run(
        "", beside=f"rule: root_login\ntests: {{positive: ['{LINE}']}}\n---\nrule: absent\ntests: {{positive: [a]}}\n"
    )
    assert [(outcome.passed, outcome.fault) for outcome in report.outcomes] == [
        (True, ""),
        (False, "no such rule was loaded"),
    ]
    assert is_test_file("a/B.Test.YML") and not is_test_file("a/test.yml")


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("tests: 5", "must map some of"),
        ("tests: {positiv: [a]}", "tests.positiv is none of"),
        ("tests: {positive: [5]}", "must be a line or an object"),
        ("tests: {positive: [[[a, b]]]}", "an event of a list must be"),
        ("tests: {positive: [[]]}", "must hold 1 to"),
        ("tests: {positive: [[[0, a, 1000000, 0]]]}", "`times` must be"),
        ("tests: {cases: [a]}", "must be a map with"),
        ("tests: {cases: [{event: a}]}", "`expect` must be"),
        ("tests: {cases: [{expect: true, event: a}]}", "`expect` must be"),
        ("tests: {cases: [{expect: match, evnt: a}]}", "it holds evnt"),
        ("tests: {cases: [{expect: match, events: a}]}", "`events` must be a list"),
        ("tests: {cases: [{expect: match, event: {line: a, at: b}}]}", "are seconds"),
        ("tests: {cases: [{expect: match, event: {fields: a}}]}", "`fields` must be a map"),
    ],
)
def test_a_test_that_is_not_written_as_it_must_be_fails_with_the_reason(tests: str, reason: str) -> None:
    report = run(tests + "\n")
    assert report.failed == 1 and reason in report.outcomes[0].fault


def test_the_starter_pack_passes_its_own_tests() -> None:
    sources = starter_pack()
    report = run_pack_tests(load_rule_set(sources), sources, (), default_normalizer())
    assert report.failed == 0 and report.untested == () and len(report.outcomes) > 300
