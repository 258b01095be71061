"""No input makes the normalizer raise or take more than linear time, and nothing unstorable reaches the message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.normalize import Normalizer, default_definitions, default_normalizer
from detect.record import LogRecord, RecordRef, canonical_json

NORMALIZER = default_normalizer()

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["log.file.name", "service.name", "host.name", "user.name", "src_ip", "url.full", "x"]), VALUES
)
SYSTEMS = st.fixed_dictionaries(
    {"EventID": st.integers(), "Channel": st.just("Security")},
    optional={"Provider": VALUES, "Computer": VALUES, "Keywords": VALUES},
)
NESTED = st.fixed_dictionaries(
    {"Event": st.fixed_dictionaries({"System": SYSTEMS}, optional={"EventData": VALUES, "UserData": VALUES})}
)
WINDOWS_PARTS = st.fixed_dictionaries(
    {},
    optional={
        "Event": st.fixed_dictionaries({"System": VALUES | st.dictionaries(st.sampled_from(["EventID"]), VALUES)}),
        "EventID": VALUES,
        "System": st.fixed_dictionaries({"EventID": VALUES}, optional={"Provider": VALUES, "Keywords": VALUES}),
        "Channel": VALUES,
        "EventData": VALUES,
        "UserData": VALUES,
        "Hashes": VALUES,
        "winlog": VALUES,
        "MESSAGE": VALUES,
        "SYSLOG_IDENTIFIER": VALUES,
        "eventSource": VALUES,
        "eventName": VALUES,
        "awsRegion": VALUES,
        "auditID": VALUES,
        "verb": VALUES,
        "sourceIPs": VALUES,
    },
)
LINES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(
            [
                "",
                "Nov 22 09:14:03 web01 sshd[4211]: ",
                "<38>1 2026-11-22T09:14:09Z h sshd 1 - [a b=",
                "Nov 22 09:14:03 web01 sudo: ",
                "Nov 22 09:14:03 web01 sshd(pam_unix)[1]: ",
                "type=EXECVE msg=audit(1.1:2): a0=",
                '203.0.113.9 - - [22/Nov/2026:09:16:40 +0000] "',
                "{",
                "[Sun Dec 04 05:15:09 2005] [error] ",
            ]
        ),
        st.text(max_size=60),
    ),
)


def record(body: Any, attributes: dict[str, Any] | None = None) -> LogRecord:
    return LogRecord(RecordRef(1, 0), 1, 1, 1, 1, 0, "", body, attributes or {}, {})


@given(body=VALUES | LINES | WINDOWS_PARTS | NESTED, attributes=ATTRIBUTES)
def test_any_body_with_any_attributes_has_a_view(body: Any, attributes: dict[str, Any]) -> None:
    given_record = record(body, attributes)
    view = NORMALIZER.normalize(given_record)
    assert view.record is given_record
    view.message.encode("utf-8")
    assert "\x00" not in view.message
    for entity in view.entities:
        assert entity.value
        entity.value.encode("utf-8")
        assert "\x00" not in entity.value
    assert canonical_json(given_record)


@given(line=LINES)
def test_the_same_record_always_gives_the_same_view(line: str) -> None:
    again = Normalizer(default_definitions())
    assert NORMALIZER.normalize(record(line)) == again.normalize(record(line))


HEADS = [
    "",
    "{" * 3,
    "type=EXECVE msg=audit(1.1:2): ",
    "[Sun Dec 04 05:15:09 2005] [error] ",
    '203.0.113.9 - - [22/Nov/2026:09:16:40 +0000] "',
    "<38>1 2026-11-22T09:14:09Z h app 1 - ",
    *(
        f"Nov 22 09:14:03 web01 {app}[1]: {word}"
        for definition in default_definitions()
        for app in definition.apps[:1]
        for word in ("", *(f"{pattern.first} " for pattern in definition.patterns if pattern.first))
    ),
    "Nov 22 09:14:03 web01 sshd[1]: Invalid user ",
    "Nov 22 09:14:03 web01 sshd[1]: Failed password for ",
    "Nov 22 09:14:03 web01 sshd[1]: Accepted password for ",
    "Nov 22 09:14:03 web01 sshd[1]: pam_unix(sshd:auth): authentication failure; logname=",
    "Nov 22 09:14:03 web01 sudo: a : TTY=x ; PWD=",
    "Nov 22 09:14:03 web01 app: message repeated 5 times: [ ",
]
FILLINGS = [
    " ",
    "a",
    " from ",
    " port 1",
    "\\",
    '"',
    "\\x",
    "'",
    "a=",
    'a="',
    "[",
    "(",
    "; ",
    "a.",
    ": ",
    "\x1d",
    "http://",
]


@pytest.mark.parametrize("filling", FILLINGS)
def test_hostile_lines_of_one_mebibyte_are_read_and_kept_whole(filling: str) -> None:
    for head in HEADS:
        line = (head + filling * (2**20 // len(filling) + 1))[: 2**20]
        assert len(NORMALIZER.normalize(record(line)).message) == 2**20


def test_deeply_nested_objects_are_flattened_to_a_limit() -> None:
    body: dict[str, Any] = {"leaf": 1}
    for _ in range(35):
        body = {"a": body}
    fields = NORMALIZER.normalize(record(body)).fields
    assert len(fields) == 1
    assert '"leaf":1' in str(next(iter(fields.values())))


def test_json_text_that_nests_without_end_stays_a_line() -> None:
    line = '{"a":' * 5000
    assert NORMALIZER.normalize(record(line)).message == line
