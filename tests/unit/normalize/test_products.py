"""Objects of known products: how a description is read, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from detect.normalize import Normalizer, ParserError, default_definitions, load_parsers
from detect.record import LogRecord, Logsource, NormalizedRecord, RecordRef

OWN = """
name: own
format: object
objects:
  - name: thing
    when: {kind: ["ab*", "*yz", "*mid*", whole], id: "*"}
    logsource: {product: "{maker}", category: base}
    message: "{id} of {maker}: {gone}"
    unwrap: [inner.]
    aliases: {Image: [exe, inner.exe], Late: [verdict]}
    outcome: success
    cases:
      - {when: {Late: bad}, category: first, outcome: failure}
      - {when: {Late: bad}, category: second, activity: process}
      - {when: {os.type: linux}, service: host}
    entities: [{kind: ip, field: addresses, role: source}]
"""
NORMALIZER = Normalizer([*default_definitions(), *load_parsers({"own.yml": OWN})])


def view(
    body: Any, attributes: dict[str, Any] | None = None, resource: dict[str, Any] | None = None
) -> NormalizedRecord:
    return NORMALIZER.normalize(LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, attributes or {}, resource or {}))


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        *(("abc", True), ("xyz", True), ("a mid b", True), ("WHOLE", True), (["no", "whole"], True)),
        *(("wholes", False), ("", False)),
    ],
)
def test_a_product_is_known_by_the_texts_of_its_fields(kind: Any, known: bool) -> None:
    assert (view({"kind": kind, "id": 7}).logsource.category == "base") is known


def test_a_field_that_is_empty_is_not_there() -> None:
    assert view({"kind": "whole", "id": ""}).logsource == Logsource()
    assert view({"kind": "whole", "id": None}).logsource == Logsource()


def test_of_several_cases_the_first_that_states_something_decides_it() -> None:
    seen = view({"kind": "whole", "id": 1, "verdict": "bad", "maker": "Acme"})
    assert seen.logsource == Logsource("acme", "first", "")
    assert (seen.outcome, seen.activity) == ("failure", "process")
    assert view({"kind": "whole", "id": 1, "verdict": "good"}).outcome == "success"


def test_a_case_may_ask_for_what_the_resource_says() -> None:
    assert view({"kind": "whole", "id": 1}, resource={"os.type": "linux"}).logsource.service == "host"


def test_names_are_added_beside_the_objects_own_and_replace_none() -> None:
    seen = view({"kind": "whole", "id": 1, "exe": "", "inner": {"exe": "/bin/sh", "kind": "other"}})
    assert (seen.fields["Image"], seen.fields["inner.exe"], seen.fields["kind"]) == ("/bin/sh", "/bin/sh", "whole")


def test_each_of_a_list_is_an_entity() -> None:
    assert [e.value for e in view({"kind": "whole", "id": 1, "addresses": ["10.0.0.1", 5, "10.0.0.2"]}).entities] == [
        "10.0.0.1",
        "10.0.0.2",
    ]


def test_a_template_is_the_message_of_an_object_but_not_of_a_line() -> None:
    assert view({"kind": "whole", "id": 1, "maker": "Acme"}).message == "1 of Acme: unknown"
    seen = view("it happened", {"kind": "whole", "id": 1, "maker": "Acme"})
    assert (seen.message, seen.logsource.category) == ("it happened", "base")


def test_attributes_and_body_of_one_object_are_known_alike() -> None:
    body = {"kind": "whole", "id": 1, "maker": "Acme"}
    assert view(body).logsource == view(None, body).logsource == view("", body).logsource


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{name: a, when: {}}", "recognised by something"),
        ("{name: a, when: {x: y}, derive: magic}", "there is no derivation 'magic'"),
    ],
)
def test_a_description_that_cannot_work_is_named(text: str, reason: str) -> None:
    with pytest.raises(ParserError, match=f"x/a: .*{reason}"):
        Normalizer([*default_definitions(), *load_parsers({"x.yml": f"name: x\nformat: object\nobjects: [{text}]"})])


@pytest.mark.parametrize(
    "text",
    [
        "<Event><System><EventID>1</EventID><Channel>Security</Channel>" + "<Data Name='x'>" * 20_000,
        "<Event>" + "<" * 200_000 + "<EventID>",
        "<Event " + "a='" * 100_000,
        "<Event><System><EventID>1</EventID></System><UserData>" + "<a b>" * 50_000,
        "<Event><System><EventID>1</EventID></System><EventData><Data Name='a'>&#0;&#x110000;&lol;</Data></EventData>",
        "a=" * 100_000,
        'a="' + "\\" * 200_000,
    ],
    ids=["data", "angles", "attributes", "user data", "references", "pairs", "quotes"],
)
def test_hostile_xml_and_pairs_are_read_in_linear_time(text: str) -> None:
    seen = view(text)
    assert seen.message
    assert "\x00" not in seen.message
