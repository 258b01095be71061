"""The time that a line states itself, whatever the format, against the time at which it was seen."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.normalize.timestamps import parse_timestamp


def ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


REFERENCE = ns("2026-11-22T12:00:00+00:00")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Nov 22 09:14:03 web01 sshd[1]: x", "2026-11-22T09:14:03+00:00"),
        ("<38>Nov  2 09:14:03 web01 sshd[1]: x", "2026-11-02T09:14:03+00:00"),
        ("Nov 28 09:14:03 a b: a clock a little ahead", "2026-11-28T09:14:03+00:00"),
        ("Dec 10 06:55:46 LabSZ sshd[24200]: last year's", "2025-12-10T06:55:46+00:00"),
        ("Feb 29 06:55:46 h a: a leap day", "2024-02-29T06:55:46+00:00"),
        ("2026-11-22T09:14:09.123456+01:00 web01 sshd[1]: x", "2026-11-22T09:14:09.123456+01:00"),
        ("<38>1 2026-11-22T09:14:09Z web01 sshd 1 - - x", "2026-11-22T09:14:09+00:00"),
        ("2026/11/22 09:15:09 [error] 811#811: x", "2026-11-22T09:15:09+00:00"),
        ("2026-11-22 09:15:09,250 INFO x", "2026-11-22T09:15:09.250000+00:00"),
        ('203.0.113.9 - - [22/Nov/2026:09:16:40 +0130] "GET / HTTP/1.1" 200 1', "2026-11-22T09:16:40+01:30"),
        ('h - - [22/Nov/2026:09:16:40 -0130] "GET / HTTP/1.1" 200 1', "2026-11-22T09:16:40-01:30"),
        ("[Sun Dec 04 05:15:09 2005] [error] x", "2005-12-04T05:15:09+00:00"),
        ("[Sun Nov 22 09:15:09.123456 2026] [core:error] x", "2026-11-22T09:15:09.123456+00:00"),
        ("type=EXECVE msg=audit(1795339241.532:8841): a0=x", "2026-11-22T09:20:41.532000+00:00"),
        ("node=a type=EXECVE msg=audit(1795339241.532:8841): a0=x", "2026-11-22T09:20:41.532000+00:00"),
    ],
)
def test_a_stated_time_is_read(line: str, expected: str) -> None:
    assert parse_timestamp(line, REFERENCE) == ns(expected)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "Nov 31 09:14:03 h a: x",
        "Abc 22 09:14:03 h a: x",
        "2026-13-22T09:14:09Z x",
        "2026-11-22T09:14:09+99:99 x",
    ],
)
def test_no_time_is_made_up(line: str) -> None:
    assert parse_timestamp(line, REFERENCE) is None


def test_a_stamp_without_year_at_new_year_is_read_against_the_reference() -> None:
    assert parse_timestamp("Dec 31 23:59:59 h a: x", ns("2026-01-01T00:00:01+00:00")) == ns("2025-12-31T23:59:59+00:00")
    assert parse_timestamp("Jan  1 00:00:01 h a: x", ns("2025-12-31T23:59:59+00:00")) == ns("2026-01-01T00:00:01+00:00")


@given(line=st.text(max_size=200), reference=st.integers(min_value=0, max_value=2**63))
def test_any_text_is_read_or_refused_without_an_error(line: str, reference: int) -> None:
    result = parse_timestamp(line, reference)
    assert result is None or isinstance(result, int)
