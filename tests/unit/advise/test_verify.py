"""An advisory can be checked against the records it cites, by anyone, without a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from advise.verify import StoredRecord, verify
from tests.unit.advise.conftest import PlanFor
from tests.unit.advise.incidents import content_of, ssh_incident


def stored(incident: dict[str, Any]) -> dict[str, StoredRecord]:
    """The records behind an incident's evidence."""
    return {
        item["record"]: StoredRecord(content_of(item["message"]), item["message"])
        for member in incident["timeline"]
        for item in member["event"]["evidence"]
    }


def test_the_template_is_wholly_faithful(plan_for: PlanFor) -> None:
    incident = ssh_incident()
    assert verify(dict(plan_for(incident).advisory), stored(incident).get) == ()


def test_a_missing_record_is_found(plan_for: PlanFor) -> None:
    records = stored(ssh_incident())
    del records["17-2"]
    failures = verify(dict(plan_for(ssh_incident()).advisory), records.get)
    assert "17-2 is not stored" in {failure.reason for failure in failures}


def test_a_record_that_was_altered_is_found(plan_for: PlanFor) -> None:
    records = stored(ssh_incident())
    records["17-2"] = StoredRecord(b'{"body":"something else"}', records["17-2"].message)
    failures = verify(dict(plan_for(ssh_incident()).advisory), records.get)
    assert [failure.reason for failure in failures] == ["the digest of 17-2 is not that of the stored record"]


@pytest.mark.parametrize("part", ["summary", "timeline"])
def test_a_quotation_that_no_record_holds_is_found(plan_for: PlanFor, part: str) -> None:
    advisory = copy.deepcopy(dict(plan_for(ssh_incident()).advisory))
    advisory[part][0]["text"] += " 198.51.100.77."
    advisory[part][0]["quotes"] = ["198.51.100.77"]
    failures = verify(advisory, stored(ssh_incident()).get)
    assert [failure.where for failure in failures] == [f"$.{part}[0]"]


def test_a_message_that_was_reworded_is_found(plan_for: PlanFor) -> None:
    advisory = copy.deepcopy(dict(plan_for(ssh_incident()).advisory))
    advisory["evidence"][0]["message"] = "Accepted password for root"
    failures = verify(advisory, stored(ssh_incident()).get)
    assert [failure.where for failure in failures] == ["$.evidence[0]"]


def test_an_advisory_that_breaks_its_schema_is_not_trusted_further(plan_for: PlanFor) -> None:
    advisory = dict(plan_for(ssh_incident()).advisory) | {"severity": "none"}
    assert [failure.where for failure in verify(advisory, stored(ssh_incident()).get)] == ["$"]
