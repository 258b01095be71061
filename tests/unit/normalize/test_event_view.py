"""A view of an event that works things out when they are asked for says the same as one that has worked out all."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from detect.normalize.event_view import EventView
from detect.normalize.windows import WindowsParser
from detect.record import LogRecord, NormalizedRecord
from detect.sigma import CompiledMatcher, NaiveMatcher
from tests.unit.normalize.test_windows_forms import EVENTS, PROCESS, WINDOWS, nested, read_by, record
from tests.unit.sigma.records import loaded, rule_text

ASKED = ("fields", "entities", "text", "own_text", "message", "outcome", "activity", "logsource")
RULES = loaded(
    *(
        rule_text(detection, logsource="{product: windows}")
        for detection in (
            "s: {Image: x}\ncondition: s",
            "s: {Image|endswith: b, User: null}\ncondition: s",
            "s: {User|contains: x}\nt: {CommandLine: '-'}\ncondition: s or not t",
            "s: {Level: 1}\nt: {OperationType|contains: text}\ncondition: s or t",
            "s: {ProcessId|exists: true}\nt: {md5|exists: true}\ncondition: s or not t",
            "s: {message|contains: image}\ncondition: s",
            "s: ['a\\\\b', '-']\ncondition: s",
            "s: {Image|fieldref: User}\ncondition: s",
            "s: {User|fieldref|contains: Image}\ncondition: s",
            "s: {EventID: 4688, TargetObject|contains: a}\ncondition: s",
        )
    )
)


def views(given_record: LogRecord) -> tuple[NormalizedRecord, NormalizedRecord]:
    """What one reader makes of a record when it sees such an event for the first time, and when it sees it again."""
    parser = WindowsParser(WINDOWS)
    return read_by(parser, given_record), read_by(parser, given_record)


def worked_out(view: NormalizedRecord) -> NormalizedRecord:
    return NormalizedRecord(
        view.record, view.logsource, dict(view.fields), view.entities, view.text, view.activity, view.outcome
    )


def test_an_event_of_a_known_form_waits_until_it_is_asked() -> None:
    first, view = views(record({**PROCESS, "Tags": {"#text": "t"}}))
    assert isinstance(view, EventView) and not isinstance(first, EventView)
    assert view.quick_fields["Tags"] == {"#text": "t"}
    assert view.fields["Tags"] == "t"
    assert view.entities == first.entities
    assert view.record.body == {**PROCESS, "Tags": {"#text": "t"}}


@settings(max_examples=60)
@given(EVENTS, st.booleans(), st.permutations(ASKED), st.dictionaries(st.sampled_from(["x", "Image"]), st.text()))
def test_whatever_is_asked_first_the_answers_are_those_of_a_view_that_knows_all(
    event: dict[str, Any], wrapped: bool, asked: list[str], attributes: dict[str, str]
) -> None:
    first, view = views(record(nested(event) if wrapped else event, attributes, {"host.name": "relay"}))
    expected = worked_out(first)
    for name in asked:
        if name == "text":  # the message that it makes is compared as such
            continue
        assert getattr(view, name) == getattr(expected, name)
    assert list(view.fields) == list(expected.fields)
    assert worked_out(view) == expected


@settings(max_examples=60)
@given(EVENTS, st.booleans())
def test_a_quick_look_at_a_field_shows_what_the_fields_hold(event: dict[str, Any], wrapped: bool) -> None:
    first, view = views(record(nested(event) if wrapped else event, {"more": "x"}))
    names = {*first.fields, "absent"}
    quick = {name: view.quick_fields.get(name) for name in names}
    for name, value in quick.items():
        if not isinstance(value, list | dict | bytes):
            known = first.fields.get(name)
            assert (value, type(value)) == (known, type(known))
    assert set(view.quick_fields) == set(first.fields)


@settings(max_examples=60)
@given(st.lists(EVENTS, min_size=1, max_size=3), st.booleans())
def test_the_same_rules_match_by_the_few_fields_that_they_look_at(events: list[dict[str, Any]], wrapped: bool) -> None:
    matcher, naive = CompiledMatcher(RULES.rules), NaiveMatcher(RULES.rules)
    for event in [*events, *events]:
        first, view = views(record(nested(event) if wrapped else event))
        assert matcher.match(view) == naive.match(worked_out(first))


def test_an_element_is_compared_with_another_field_by_its_text() -> None:
    _, view = views(record({**PROCESS, "Image": {"#text": "C:\\A.exe"}, "ParentImage": "c:\\a.EXE"}))
    assert view.quick_fields["Image"] == {"#text": "C:\\A.exe"}
    rules = loaded(rule_text("s: {Image|fieldref: ParentImage}\ncondition: s", logsource="{product: windows}")).rules
    assert len(CompiledMatcher(rules).match(view)) == len(NaiveMatcher(rules).match(view)) == 1
