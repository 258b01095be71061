"""The starter pack: every rule with the lines it must and must not fire on, through the real normaliser and detector.

A rule's document carries `tests` with `positive`, `negative` (something ordinary) and `near_miss` (almost it). A case
of a detection rule is one line, or one JSON object for structured logs. A case of a correlation is a list of
`[second, line]`, or `[second, line, times, every]` for a line that repeats; `{n}` in it becomes its number.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any
from uuid import UUID

import pytest
import yaml

from detect.event import SEVERITIES
from detect.normalize import Normalizer, default_normalizer
from detect.record import LogRecord, NormalizedRecord, RecordRef
from detect.sigma import CompiledMatcher, RuleSet, SigmaDetector, load_rule_set, starter_pack
from tests.evaluation_data import reader
from tests.unit.sigma.records import SECOND, T0, TENANT

DOCUMENTS = [
    (path, document)
    for path, text in starter_pack()
    for document in yaml.load_all(text, yaml.CSafeLoader)
    if document is not None
]
RULES = [document for _, document in DOCUMENTS if "detection" in document]
CORRELATIONS = [document for _, document in DOCUMENTS if "correlation" in document]
KINDS = ("positive", "negative", "near_miss")


@cache
def rule_set() -> RuleSet:
    """The pack with every rule speaking for itself, so that those which only feed others can be tested too."""
    return dataclasses.replace(load_rule_set(starter_pack()), silent=frozenset())


@cache
def matcher() -> CompiledMatcher:
    return CompiledMatcher(rule_set().rules)


@cache
def normalizer() -> Normalizer:
    return default_normalizer()


def seen(body: Any, at: float = 0.0, position: int = 0) -> NormalizedRecord:
    time_ns = T0 + round(at * SECOND)
    return normalizer().normalize(
        LogRecord(RecordRef(1, position), time_ns, time_ns, time_ns, time_ns, 9, "INFO", body, {}, {})
    )


def cases(documents: list[dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(document, kind, case, id=f"{document['title']}-{kind}-{number}".replace(" ", "_"))
        for document in documents
        for kind in KINDS
        for number, case in enumerate(document["tests"][kind])
    ]


def test_the_pack_loads_without_a_single_error() -> None:
    assert rule_set().errors == ()
    assert len(rule_set().rules) + len(rule_set().correlations) == len(DOCUMENTS) >= 45


@pytest.mark.parametrize(("document", "kind", "case"), cases(RULES))
def test_a_rule_fires_on_what_it_is_for_and_not_on_what_is_near(document: dict[str, Any], kind: str, case: Any) -> None:
    found = {match.rule.id for match in matcher().match(seen(case))}
    assert (document["id"] in found) is (kind == "positive")


def expanded(sequence: list[list[Any]]) -> Iterator[tuple[float, str]]:
    for at, line, *repeat in sequence:
        times, every = repeat or (1, 0)
        for number in range(times):
            yield at + number * every, line.replace("{n}", str(number))


@pytest.mark.parametrize(("document", "kind", "case"), cases(CORRELATIONS))
def test_a_correlation_fires_on_what_it_is_for_and_not_on_what_is_near(
    document: dict[str, Any], kind: str, case: list[list[Any]]
) -> None:
    detector = SigmaDetector(TENANT, rule_set())
    fired = Counter(
        event.rule_id
        for position, (at, line) in enumerate(expanded(case))
        for event in detector.observe(seen(line, at, position))
    )
    assert fired[document["id"]] == (1 if kind == "positive" else 0)


@pytest.mark.parametrize(("path", "document"), DOCUMENTS, ids=[document["title"] for _, document in DOCUMENTS])
def test_a_rule_is_complete(path: str, document: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z0-9_]+\.yml", path)
    assert UUID(document["id"]).version == 4
    assert document["author"] == "Trust SOC" and document["license"] == "Apache-2.0"
    assert document["level"] in SEVERITIES and document["status"] == "test" and document["date"]
    assert document["falsepositives"] and len(document["description"]) > 20 and document["tags"]
    assert all(document["tests"][kind] for kind in KINDS)


def test_ids_titles_and_names_are_unique() -> None:
    for key in ("id", "title", "name"):
        values = [document[key] for _, document in DOCUMENTS if key in document]
        assert [value for value, count in Counter(values).items() if count > 1] == []


@pytest.mark.data
def test_techniques_are_active_and_stand_under_a_tactic_that_is_tagged() -> None:
    techniques = {technique["id"]: technique for technique in reader().attack_techniques()}
    for rule in (*rule_set().rules, *rule_set().correlations):
        assert rule.techniques, rule.title
        tactics = {tactic for name in rule.techniques for tactic in techniques[name]["tactics"]}
        assert all(techniques[name]["active"] for name in rule.techniques), rule.title
        assert set(rule.tactics) <= tactics, (rule.title, rule.tactics, tactics)
        assert all(set(rule.tactics) & set(techniques[name]["tactics"]) for name in rule.techniques), rule.title


@pytest.mark.data
def test_ordinary_logs_raise_next_to_nothing() -> None:
    detector = SigmaDetector(TENANT, load_rule_set(starter_pack()))
    fired: Counter[tuple[str, str]] = Counter()
    lines = 0
    for position, item in enumerate(reader().normal_lines()):
        lines += 1
        for event in detector.observe(seen(item["line"], at=position, position=position)):
            fired[event.severity, event.title] += 1
    assert lines > 15_000
    assert sum(count for (severity, _), count in fired.items() if severity not in ("informational", "low")) <= 3, fired


@pytest.mark.data
def test_real_password_guessing_is_found() -> None:
    """The OpenSSH sample of loghub is full of it; times are taken one second apart, as its lines come."""
    detector = SigmaDetector(TENANT, load_rule_set(starter_pack()))
    fired: Counter[str] = Counter()
    for position, item in enumerate(reader().loghub("OpenSSH")):
        for event in detector.observe(seen(item["line"], at=position, position=position)):
            fired[event.title] += 1
    assert fired["SSH Password Guessing From One Source"] >= 5
    assert fired["SSH Login After Password Guessing"] == 0
