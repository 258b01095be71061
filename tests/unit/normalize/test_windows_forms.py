"""Windows events of a form that was seen before are read by a plan: the plan must give what reading them anew gives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.evaluation_records import bodies
from detect.normalize import Normalizer, default_definitions, naming, windows
from detect.normalize.draft import Draft
from detect.record import LogRecord, Logsource, NormalizedRecord, RecordRef
from tests.evaluation_data import reader

DEFINITIONS = default_definitions()
SYSMON = "Microsoft-Windows-Sysmon/Operational"
PROCESS = {
    "EventID": 1,
    "Channel": SYSMON,
    "Computer": "WS07",
    "Image": "C:\\Windows\\cmd.exe",
    "User": "EXAMPLE\\Eve",
    "CommandLine": "cmd /c curl http://203.0.113.9/x",
    "Hashes": "MD5=D41D8CD98F00B204E9800998ECF8427E,IMPHASH=0",
}


def record(body: Any, attributes: dict[str, Any] | None = None, resource: dict[str, Any] | None = None) -> LogRecord:
    return LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, attributes or {}, resource or {})


def nested(event: dict[str, Any]) -> dict[str, Any]:
    system = {
        "Provider": {"#attributes": {"Name": "Microsoft-Windows-Sysmon"}},
        "EventID": event["EventID"],
        "Channel": event["Channel"],
        "Computer": event["Computer"],
    }
    return {"Event": {"System": system, "EventData": {k: v for k, v in event.items() if k not in system}}}


def real_events() -> Iterator[Any]:
    data = reader()
    yield from islice(bodies(data, "evtx_attack"), 0, None, 3)
    yield from islice(bodies(data, "mordor"), 0, 20_000, 40)


@pytest.mark.data
def test_real_events_are_the_same_to_a_normalizer_that_has_seen_many_and_to_one_that_has_seen_none() -> None:
    experienced = Normalizer(DEFINITIONS)
    events = list(real_events())
    for event in events:
        experienced.normalize(record(event))
    fresh = Normalizer(DEFINITIONS)
    for number, event in enumerate(events):
        if number % 200 == 0:
            fresh = Normalizer(DEFINITIONS)
        assert experienced.normalize(record(event)) == fresh.normalize(record(event))


@pytest.mark.parametrize("body", [PROCESS, nested(PROCESS)], ids=["flat", "nested"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"User": None},
        {"User": ["EXAMPLE\\Eve", "x"]},
        {"User": ""},
        {"Image": {"#text": "C:\\x.exe"}},
        {"Image": {"#attributes": {"a": 1}}},
        {"Image": {"a": 1}},
        {"Hashes": ""},
        {"Hashes": 7},
        {"Hashes": "MD5=" + "0" * 5000},
        {"CommandLine": None},
        {"Computer": ""},
        {"Computer": "x" * 600},
        {"Channel": 5},
        {"EventID": "1"},
        {"EventID": True},
        {"EventID": 1.0},
        {"EventID": None},
        {"EventID": {"#text": 1}},
    ],
    ids=str,
)
def test_an_odd_event_of_a_known_form_is_read_as_if_it_were_the_first(
    body: dict[str, Any], change: dict[str, Any]
) -> None:
    experienced, fresh = Normalizer(DEFINITIONS), Normalizer(DEFINITIONS)
    for _ in range(3):
        experienced.normalize(record(body))
    odd = {**PROCESS, **change}
    given_record = record(nested(odd) if "Event" in body else odd, {"x": "y"}, {"host.name": "relay"})
    first = fresh.normalize(given_record)
    assert experienced.normalize(given_record) == first
    assert experienced.normalize(given_record) == first


def test_the_body_attributes_and_text_of_one_event_give_one_view() -> None:
    normalizer = Normalizer(DEFINITIONS)
    for _ in range(2):
        views = [
            normalizer.normalize(record(PROCESS)),
            normalizer.normalize(record(None, PROCESS)),
            normalizer.normalize(record("", PROCESS)),
        ]
        assert {view.logsource for view in views} == {Logsource("windows", "process_creation", "sysmon")}
        assert len({view.message for view in views}) == len({view.entities for view in views}) == 1
        assert views[0].fields == views[1].fields == views[2].fields


def test_the_record_itself_stays_as_it_came() -> None:
    normalizer = Normalizer(DEFINITIONS)
    body = {**PROCESS, "EventID": "1"}
    for _ in range(2):
        assert normalizer.normalize(record(body)).fields["EventID"] == 1
    assert body["EventID"] == "1" and "md5" not in body


def test_a_message_is_made_of_the_event_only_and_is_no_text_of_its_own() -> None:
    view = Normalizer(DEFINITIONS).normalize(record(PROCESS, {"x": "y"}))
    assert view.own_text == ""
    assert view.message.startswith("sysmon 1: Channel=") and "x=y" not in view.message
    assert view.fields["x"] == "y"


LONG = {**{f"Name{number}": "long \u00e9\x00 " * number for number in range(40)}, "Data": "x" * 5000, "Last": "word"}


@pytest.mark.parametrize("body", [PROCESS, PROCESS | LONG, PROCESS | {"Message": "\ud800 said " * 300}])
@pytest.mark.parametrize("limit", [0, 1, 20, 100, 1000, 4095, 4096, 5000])
def test_the_start_of_a_message_is_made_without_the_rest(body: dict[str, Any], limit: int) -> None:
    view = Normalizer(DEFINITIONS).normalize(record(body))
    assert view.message_start(limit) == view.message[:limit]


def test_what_is_remembered_stays_in_bounds_and_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_PLANS", 3)
    monkeypatch.setattr(naming, "MAX_KNOWN", 4)
    small, fresh = Normalizer(DEFINITIONS), Normalizer(DEFINITIONS)
    for number in range(60):
        event = {**PROCESS, f"Name{number % 7}": "x", "User": f"user{number % 11}"}
        for body in (event, nested(event)):
            assert small.normalize(record(body)) == fresh.normalize(record(body))


VALUES = (
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["", "-", "x", "A\\b", "1", "\ud800", "a\x00"])
)
NAMES = [
    *("Image", "User", "Hashes", "EventType", "OperationType", "ObjectName", "ObjectValueName", "Keywords", "Level"),
    *("Message", "NewProcessName", "CommandLine", "SourceName", "Threat Name", "Data"),
]
EVENTS = st.fixed_dictionaries(
    {
        "EventID": st.sampled_from([1, "1", 12, 4688, 4657, "x", True, None]),
        "Channel": st.sampled_from([SYSMON, "Security", ""]),
        "Computer": VALUES,
    },
    optional=dict.fromkeys(
        NAMES,
        VALUES
        | st.lists(VALUES | st.dictionaries(st.sampled_from(["#text", "Name"]), VALUES, max_size=2), max_size=2)
        | st.dictionaries(st.sampled_from(["#text", "a"]), VALUES, max_size=2),
    ),
)
(WINDOWS,) = (definition for definition in DEFINITIONS if definition.name == "windows")


def read_by(parser: windows.WindowsParser, given_record: LogRecord) -> NormalizedRecord:
    body = given_record.body
    assert isinstance(body, dict)
    view = parser.view(given_record, body, "", "")
    if view is not None:
        return view
    draft = Draft("", {}, [])
    assert parser.read(body, draft)
    return draft.finish(given_record)


@settings(max_examples=60)
@given(st.lists(EVENTS, min_size=1, max_size=4), st.booleans())
def test_events_are_read_the_same_whatever_came_before(events: list[dict[str, Any]], wrapped: bool) -> None:
    experienced = windows.WindowsParser(WINDOWS)
    given_records = [record(nested(event) if wrapped else event) for event in events * 2]
    for given_record in given_records:
        assert read_by(experienced, given_record) == read_by(windows.WindowsParser(WINDOWS), given_record)


ODD = (
    VALUES | st.just({"#attributes": {"Name": {"#text": "x"}}}) | st.lists(VALUES, max_size=1) | st.just({"Name": "x"})
)
OTHER_SHAPES = [
    *("event_id", "channel", "winlog.event_id", "Event.System.EventID", "Event.System.EventID.#text", "EventCode"),
    *("winlog", "Event", "System", "EventData", "UserData"),
]
SHAPE_VALUES = ODD | st.just({"event_id": 5, "EventID": 7, "Image": "y"})
CHANGES = st.lists(
    st.tuples(st.sampled_from(["body", "Event", "System", "EventData"]), st.sampled_from(OTHER_SHAPES), SHAPE_VALUES)
    | st.tuples(st.sampled_from(["System", "EventData"]), st.sampled_from([*PROCESS, "Keywords", "Provider"]), ODD),
    max_size=2,
)

ODD_ATTRIBUTES = st.dictionaries(st.sampled_from([*OTHER_SHAPES, "Channel", "User"]), SHAPE_VALUES, max_size=2)
ATTRIBUTES = st.just({}) | ODD_ATTRIBUTES | ODD_ATTRIBUTES.map(lambda odd: {**PROCESS, **odd})


def changed(changes: list[tuple[str, str, Any]], wrapped: bool) -> dict[str, Any]:
    """One and the same event but for some of its parts; in a flat one all parts are the body."""
    body: dict[str, Any] = nested(PROCESS) if wrapped else dict(PROCESS)
    parts = {"body": body, "Event": body, "System": body, "EventData": body}
    if wrapped:
        parts |= {"Event": body["Event"], "System": body["Event"]["System"], "EventData": body["Event"]["EventData"]}
    for part, name, value in changes:
        parts[part][name] = value
    return body


@pytest.mark.parametrize("wrapped", [False, True], ids=["flat", "nested"])
@example([([], {}), ([], {"EventCode": 1, "SourceName": "x"})])
@example([([("body", "event_id", 5), ("body", "channel", "x")], {})])
@example([([("body", "winlog.event_id", 5)], {})])
@example([([("body", "Event.System.EventID", 5)], {})])
@given(st.lists(st.tuples(CHANGES, ATTRIBUTES), min_size=2, max_size=4))
def test_no_record_changes_what_is_read_of_the_next(
    wrapped: bool, variations: list[tuple[list[tuple[str, str, Any]], dict[str, Any]]]
) -> None:
    experienced = Normalizer(DEFINITIONS)
    for changes, attributes in variations * 2:
        given_record = record(changed(changes, wrapped), attributes)
        assert experienced.normalize(given_record) == Normalizer(DEFINITIONS).normalize(given_record)


def test_what_is_null_in_one_event_is_there_in_the_next() -> None:
    logon = {**PROCESS, "EventID": 4625, "Channel": "Security"}
    whole, bare = nested(logon), nested({**logon, "Computer": None})
    for first, second in ((whole, bare), (bare, whole)):
        normalizer = Normalizer(DEFINITIONS)
        normalizer.normalize(record(first))
        fields = normalizer.normalize(record(second)).fields
        assert fields == Normalizer(DEFINITIONS).normalize(record(second)).fields
        assert ("Computer" in fields) == (second is whole)


@pytest.mark.parametrize("data", [None, "text", ["x"], 7], ids=repr)
def test_an_event_without_a_map_of_data_is_read(data: Any) -> None:
    body = nested(PROCESS)
    body["Event"]["EventData"] = data
    assert Normalizer(DEFINITIONS).normalize(record(body)).fields["Computer"] == "WS07"
