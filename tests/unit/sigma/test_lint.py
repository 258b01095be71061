"""Lint names what is wrong, doubtful or slow, with its line, and says nothing of rules that are sound."""

from __future__ import annotations

import pytest

from detect.normalize import default_definitions
from detect.sigma import load_rule_set, starter_pack
from detect.sigma.lint import CHECKS, Finding, lint
from detect.sigma.lint_condition import constant_truth
from detect.sigma.lint_document import unused_detections
from detect.sigma.syntax import And, Atom, Expression, Not, Or

SOUND = """\
title: A Sound Rule
id: 0a1b2c3d-0000-4000-8000-000000000001
status: test
description: It looks for something in particular.
author: A Person
level: medium
tags: [attack.execution, attack.t1059.001, cve.2021-44228, detection.threat-hunting]
logsource: {product: windows, category: process_creation}
detection:
  selection: {Image|endswith: '\\powershell.exe', CommandLine|contains: ' -enc '}
  condition: selection
"""


def findings(*texts: str) -> list[Finding]:
    sources = [(f"{number}.yml", text) for number, text in enumerate(texts)]
    return lint(sources, load_rule_set(sources), default_definitions())


def checks(text: str) -> dict[str, int]:
    """Check and line of everything found."""
    return {finding.check: finding.line for finding in findings(text)}


def test_a_sound_rule_is_left_alone() -> None:
    assert findings(SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "check", "line"),
    [
        ("condition: selection", "condition: selektion", "not-loaded", 11),
        ("id: 0a1b2c3d-0000-4000-8000-000000000001\n", "", "missing-id", 1),
        ("level: medium\n", "", "missing-level", 1),
        ("status: test\n", "", "missing-status", 1),
        ("author: A Person\n", "", "missing-author", 1),
        ("attack.execution", "attack.executing", "unknown-tactic", 7),
        ("attack.t1059.001", "attack.t10590", "unknown-tactic", 7),
        ("cve.2021-44228", "CVE 2021", "odd-tag", 7),
        ("product: windows", "product: windoze", "unknown-logsource", 8),
        ("Image|endswith", "image|endswith", "misspelt-field", 9),
        ("CommandLine|contains", "CommadnLine|contains", "misspelt-field", 9),
        ("condition: selection", "condition: not selection", "slow-condition", 11),
        ("condition: selection", "unused: {User: x}\n  condition: selection", "unused-detection", 11),
        ("condition: selection", "condition: selection or not selection", "always-true", 11),
        ("condition: selection", "condition: selection and not selection", "never-true", 11),
        ("CommandLine|contains: ' -enc '", "CommandLine|re: '^.{5,}$'", None, 0),
        ("Image|endswith: '\\powershell.exe', CommandLine|contains: ' -enc '", "User|re: '[a-z]+'", "slow-regex", 11),
        (
            "Image|endswith: '\\powershell.exe', CommandLine|contains: ' -enc '",
            "User|re: 'ab(c{500}){2}.{999}'",
            None,
            0,
        ),
    ],
)
def test_each_check_finds_what_it_is_for(old: str, new: str, check: str | None, line: int) -> None:
    assert old in SOUND
    found = checks(SOUND.replace(old, new))
    if check is not None:
        assert found.get(check) == line, found
        assert check in CHECKS
    else:
        assert found.keys() <= {"slow-regex", "huge-regex"}


def test_a_document_that_is_not_yaml_is_an_error_with_its_line() -> None:
    [finding] = findings("title: [\n  a\n")
    assert (finding.check, finding.weight) == ("not-loaded", "error") and finding.line > 1


def test_a_rule_is_known_by_its_id_however_that_is_written() -> None:
    written = SOUND.replace("0a1b2c3d", "0A1B2C3D").replace("condition: selection", "condition: not selection")
    [finding] = findings(written)
    assert (finding.check, finding.rule_id) == ("slow-condition", "0a1b2c3d-0000-4000-8000-000000000001")


def test_equal_ids_and_titles_are_named_with_the_other_place() -> None:
    twice = findings(SOUND, SOUND)
    assert {finding.check for finding in twice} == {"duplicate-id", "duplicate-title"}
    assert all(finding.path == "1.yml" for finding in twice)
    assert any("also that of 0.yml:1" in finding.text for finding in twice)


def test_a_placeholder_without_values_is_a_warning() -> None:
    text = SOUND.replace("CommandLine|contains: ' -enc '", "User|expand: '%nobody_defined_this%'")
    assert "placeholder-without-list" in checks(text)


def test_checks_can_be_left_out() -> None:
    sources = [("a.yml", SOUND.replace("level: medium\n", ""))]
    assert lint(sources, load_rule_set(sources), default_definitions(), ["missing-level"]) == []


def test_the_starter_pack_has_no_errors_and_knows_its_log_sources() -> None:
    sources = starter_pack()
    found = lint(sources, load_rule_set(sources), default_definitions())
    assert [finding for finding in found if finding.weight == "error"] == []
    assert {finding.check for finding in found} <= {"slow-regex", "huge-regex", "slow-condition"}


@pytest.mark.parametrize(
    ("condition", "unused"),
    [
        ("selection and not filter", ["other"]),
        ("1 of them", []),
        ("all of sel*", ["filter", "other"]),
        ("1 of selection* or (other)", ["filter"]),
        (["selection", "filter"], ["other"]),
    ],
)
def test_detections_that_no_condition_speaks_of(condition: object, unused: list[str]) -> None:
    detection = {"selection": {}, "filter": {}, "other": {}, "condition": condition}
    assert unused_detections(detection) == unused


A, B = Atom("a", "equals", "1"), Atom("b", "equals", "1")
EVERYWHERE = Atom(None, "contains", "")
MANY = tuple(Atom("a", "equals", str(number)) for number in range(20))


@pytest.mark.parametrize(
    ("condition", "truth"),
    [
        (A, None),
        (Not(A), None),
        (Or((A, Not(A))), True),
        (And((A, Not(A))), False),
        (And((Or((A, B)), Not(A), Not(B))), False),
        (EVERYWHERE, True),
        (Or((A, EVERYWHERE)), True),
        (Not(EVERYWHERE), False),
        (Or((*MANY, EVERYWHERE)), True),
        (And((*MANY, Not(EVERYWHERE))), False),
        (Or(MANY), None),
        (And(MANY), None),
    ],
)
def test_conditions_without_a_choice_are_seen(condition: Expression, truth: bool | None) -> None:
    assert constant_truth(condition) is truth


def test_every_check_has_a_weight_and_says_what_it_means() -> None:
    assert all(weight in ("error", "warning", "note") and text for weight, text in CHECKS.values())
