"""Every parser definition carries lines and what must come of them; here they are held to it."""

from __future__ import annotations

from typing import Any

import pytest

from detect.normalize import Normalizer, ParserError, default_definitions, load_parsers
from detect.normalize.definition import Fixture
from detect.record import LogRecord, Logsource, RecordRef

DEFINITIONS = default_definitions()
FIXTURES = [
    pytest.param(fixture, id=f"{definition.name}-{number}")
    for definition in DEFINITIONS
    for number, fixture in enumerate(definition.fixtures)
]


def record(body: Any, attributes: dict[str, Any] | None = None, resource: dict[str, Any] | None = None) -> LogRecord:
    return LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, attributes or {}, resource or {})


@pytest.fixture(scope="module")
def normalizer() -> Normalizer:
    return Normalizer(DEFINITIONS)


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_fixture_gives_what_it_says(fixture: Fixture, normalizer: Normalizer) -> None:
    given = record(fixture.line, fixture.attributes, fixture.resource)
    view = normalizer.normalize(given)
    if fixture.name or isinstance(fixture.line, str):
        assert normalizer.recognise(given) == fixture.name
    if fixture.logsource is not None:
        spec = fixture.logsource
        assert view.logsource == Logsource(spec.product, spec.category, spec.service)
    assert {name: view.fields.get(name) for name in fixture.fields} == fixture.fields
    if fixture.activity is not None:
        assert view.activity == fixture.activity
    if fixture.outcome is not None:
        assert view.outcome == fixture.outcome
    if fixture.entities:
        assert [tuple(part for part in entity if part) for entity in view.entities] == list(fixture.entities)


def test_every_definition_has_fixtures_and_every_file_a_name_of_its_own() -> None:
    assert all(definition.fixtures for definition in DEFINITIONS)
    assert len({definition.name for definition in DEFINITIONS}) == len(DEFINITIONS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: x\npatterns: [{name: a}]", r"bad.yml: .*regex"),
        ("name: x\nsurprise: 1", r"bad.yml: .*surprise"),
        ("name: [", r"bad.yml: "),
    ],
)
def test_a_definition_that_cannot_be_read_is_named(text: str, reason: str) -> None:
    with pytest.raises(ParserError, match=reason):
        load_parsers({"bad.yml": text})


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{name: a, regex: '('}", "x/a: the expression does not compile"),
        ("{name: a, regex: '(b)'}", "x/a: every group needs a name"),
        ("{name: a, regex: b, derive: magic}", "x/a: there is no derivation 'magic'"),
    ],
)
def test_a_pattern_that_cannot_be_compiled_is_named(pattern: str, reason: str) -> None:
    with pytest.raises(ParserError, match=reason):
        Normalizer([*DEFINITIONS, *load_parsers({"bad.yml": f"name: x\npatterns: [{pattern}]"})])
