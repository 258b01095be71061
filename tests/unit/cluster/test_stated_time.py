"""The time a line states, in text and in JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.stated_time import stated_time

MOMENT = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
NANOSECONDS = int(MOMENT.timestamp()) * 10**9
SECONDS = int(MOMENT.timestamp())


@pytest.mark.parametrize(
    "line",
    [
        "Mar  1 12:00:05 web-1 sshd[1]: Failed password for root",
        "2026-03-01T12:00:05Z web-1 sshd[1]: Failed password for root",
        '203.0.113.7 - - [01/Mar/2026:13:00:05 +0100] "GET / HTTP/1.1" 200 5',
    ],
)
def test_plain_lines_state_their_time(line: str) -> None:
    assert stated_time(line, NANOSECONDS) == NANOSECONDS


@pytest.mark.parametrize(
    "value",
    [
        {"@timestamp": "2026-03-01T12:00:05.000Z"},
        {"eventTime": "2026-03-01T12:00:05Z", "eventName": "ConsoleLogin"},
        {"ts": SECONDS},
        {"ts": float(SECONDS)},
        {"time": SECONDS * 1000},
        {"time": SECONDS * 10**6},
        {"timestamp": SECONDS * 10**9},
        {"Event": {"System": {"TimeCreated": {"#attributes": {"SystemTime": "2026-03-01T12:00:05Z"}}}}},
        {"time": True, "timestamp": "2026-03-01T12:00:05Z"},
    ],
)
def test_json_lines_state_their_time(value: dict[str, Any]) -> None:
    assert stated_time(json.dumps(value), 0) == NANOSECONDS


@pytest.mark.parametrize("line", ["hello", "{}", "{", '{"ts": -5}', '{"ts": 1e300}', '{"ts": "soon"}', "{" * 5000])
def test_other_lines_state_none(line: str) -> None:
    assert stated_time(line, NANOSECONDS) is None


@given(st.text())
def test_no_line_is_too_odd(line: str) -> None:
    for odd in (line, "{" + line, json.dumps({"ts": line}), json.dumps({"Event": {"System": line}})):
        assert stated_time(odd, NANOSECONDS) is None or isinstance(stated_time(odd, NANOSECONDS), int)
