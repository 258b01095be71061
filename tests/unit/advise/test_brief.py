"""The advisor's input: the API's incident, or a caller's own that follows the public schema."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advise.brief import InvalidIncident, brief_from_caller, brief_from_detail
from tests.unit.advise.incidents import ssh_incident


def test_a_stored_incident_keeps_the_records_ids_and_digests() -> None:
    brief = brief_from_detail(ssh_incident())
    assert brief.evidence["12-0"].digest == ssh_incident()["timeline"][0]["event"]["evidence"][0]["digest"]
    assert brief.evidence["17-2"].time == datetime(2026, 11, 22, 10, 5, 40, tzinfo=UTC)
    assert brief.techniques == ("T1110.001", "T1078", "T1053.003")
    assert brief.platforms == ("Linux",)
    assert len(brief.evidence) == 22


def test_an_answer_of_the_api_may_be_sent_back_as_it_stands() -> None:
    brief = brief_from_caller(ssh_incident())
    item = brief.evidence["12-0"]
    assert item.source == "caller"
    assert item.digest == hashlib.sha256(item.message.encode()).hexdigest()


def test_evidence_without_ids_is_numbered_and_equal_ids_of_different_texts_are_kept_apart() -> None:
    brief = brief_from_caller({"title": "x", "evidence": ["one", {"id": "E1", "message": "two"}, "three"]})
    assert {key: item.message for key, item in brief.evidence.items()} == {"E1": "one", "E2": "two", "E3": "three"}


def test_an_event_without_records_is_its_own_evidence() -> None:
    brief = brief_from_caller({"title": "x", "events": [{"title": "Odd login", "techniques": ["t1078"]}]})
    assert brief.events[0].evidence == ("E1",)
    assert brief.evidence["E1"].message == "Odd login"
    assert brief.techniques == ("T1078",)


@pytest.mark.parametrize(
    ("incident", "where"),
    [
        ([], "$"),
        ({"title": "x"}, "$"),
        ({"title": "", "evidence": ["a"]}, "$.title"),
        ({"title": "x", "evidence": []}, "$.evidence"),
        ({"title": "x", "evidence": ["a"], "severity": "huge"}, "$.severity"),
        ({"title": "x", "events": [{"title": "y", "techniques": ["T1"]}]}, "$.events[0].techniques[0]"),
        ({"title": "x", "evidence": [{"id": "a b", "message": "m"}]}, "$.evidence[0]"),
        ({"title": "x", "evidence": ["a" * 20_000]}, "$.evidence[0]"),
        ({"title": "x", "evidence": ["a"] * 201}, "$.evidence"),
    ],
)
def test_what_breaks_the_schema_is_named_by_its_place(incident: Any, where: str) -> None:
    with pytest.raises(InvalidIncident) as caught:
        brief_from_caller(incident)
    assert any(error.startswith(f"{where}:") for error in caught.value.errors)


@pytest.mark.parametrize("time", ["yesterday", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_time_that_is_none_is_named(time: str) -> None:
    with pytest.raises(InvalidIncident, match=time.replace("+", r"\+")):
        brief_from_caller({"title": "x", "evidence": [{"message": "m", "time": time}]})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["title", "events", "evidence", "timeline", "event", "message"]), inner)
    ),
    max_leaves=12,
)


@given(_JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        brief = brief_from_caller(value)
    except InvalidIncident as error:
        assert error.errors
    else:
        assert brief.evidence
