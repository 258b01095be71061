"""Only the server's own answers end a batch's way; whatever else comes is repeated."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.forwarder.pace import Backoff, Gate
from agent.forwarder.receipts import Receipts, agrees
from agent.forwarder.verdict import Denied, Later, Poison, SignAgain, Stored, judge, retry_after
from tests.unit.agent.forwarder.conftest import Host

NOW = 1_772_366_400.0
OURS = {"x-server-time": "1772366400000"}
DURABLE = OURS | {"x-batch-seq": "7", "x-batch-duplicate": "false"}

names = st.sampled_from(["x-batch-seq", "x-batch-duplicate", "x-receipt", "retry-after", "x-server-time"])


@given(st.integers(100, 599), st.dictionaries(names, st.text(max_size=15)))
def test_whoever_does_not_state_the_server_s_time_ends_nothing(status: int, headers: dict[str, str]) -> None:
    headers.pop("x-server-time", None)
    verdict = judge(status, headers, NOW)
    assert isinstance(verdict, Later)
    assert not verdict.ours


@pytest.mark.parametrize("stated", ["", "0", "1772366400", "1772366400000 ", "²772366400000", "17723664000000", "-1"])
def test_a_time_of_another_form_is_no_mark(stated: str) -> None:
    assert isinstance(judge(400, {"x-server-time": stated}, NOW), Later)
    assert isinstance(judge(200, DURABLE | {"x-server-time": stated}, NOW), Later)


@pytest.mark.parametrize(
    "headers",
    [
        OURS,
        OURS | {"x-batch-duplicate": "false"},
        OURS | {"x-batch-seq": "7"},
        DURABLE | {"x-batch-seq": "0"},
        DURABLE | {"x-batch-seq": "٧"},
        DURABLE | {"x-batch-duplicate": "yes"},
    ],
)
def test_a_success_that_does_not_say_where_is_none(headers: dict[str, str]) -> None:
    assert isinstance(judge(200, headers, NOW), Later)


def test_what_the_server_says_is_what_is_booked() -> None:
    assert judge(200, DURABLE, NOW) == Stored(7, duplicate=False, elsewhere=False, receipt="")
    repeated = DURABLE | {"x-batch-duplicate": "true", "x-batch-elsewhere": "true", "x-receipt": "r"}
    assert judge(200, repeated, NOW) == Stored(7, duplicate=True, elsewhere=True, receipt="r")
    assert judge(200, DURABLE | {"x-batch-elsewhere": "true"}, NOW) == Stored(7, False, False, "")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Poison), (413, Poison), (415, Poison), (422, Poison), (401, Denied), (403, Denied), (409, SignAgain)]
    + [(status, Later) for status in (201, 204, 301, 404, 405, 408, 418, 429, 500, 501, 502, 503, 504)],
)
def test_every_status_of_ours_has_one_meaning(status: int, kind: type) -> None:
    assert isinstance(judge(status, OURS, NOW), kind)


def test_retry_after_is_seconds_or_a_date_and_never_absurd() -> None:
    assert retry_after("5", NOW) == 5
    assert retry_after(formatdate(NOW + 30, usegmt=True), NOW) == pytest.approx(30, abs=1)
    assert retry_after(formatdate(NOW - 30, usegmt=True), NOW) == 0
    assert retry_after("999999999999999999999", NOW) == 3600
    for nonsense in ("", "-5", "1.5", "soon", "٥", "Mon, 99 Foo 2026 00:00:00 GMT"):
        assert retry_after(nonsense, NOW) is None, nonsense


@pytest.mark.parametrize("off_s", [-3600, 0, 3600, 86_400 * 400])
def test_a_moment_to_come_back_is_one_of_the_clock_that_states_it(off_s: float) -> None:
    headers = OURS | {"date": formatdate(NOW, usegmt=True), "retry-after": formatdate(NOW + 30, usegmt=True)}
    assert judge(503, headers, NOW + off_s) == Later("server_503", 30.0, ours=True)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_waits_grow_to_the_longest_and_are_spread(failures: int, chance: float) -> None:
    backoff = Backoff(0.5, 60.0)
    wait = backoff.wait_s(failures, chance)
    assert 0 <= wait <= min(60.0, 0.5 * 2.0 ** min(failures - 1, 60))
    assert backoff.wait_s(failures, 1.0) <= backoff.wait_s(failures + 1, 1.0) <= 60.0
    assert backoff.wait_s(1, 1.0) == 0.5


def test_a_gate_that_is_stopped_or_opened_holds_nobody() -> None:
    gate = Gate()
    gate.hold(3600)
    gate.open()
    gate.pause(0.0)
    gate.hold(3600)
    gate.stop()
    gate.pause(3600)


def test_receipts_keep_the_newest_over_restarts_and_their_file_stays_small(host: Host) -> None:
    path = host.folder / "receipts.jsonl"
    for life in range(3):
        receipts = Receipts(path, 10)
        for number in range(25):
            receipts.keep(f"key-{life}-{number}", number + 1, "a.b.c")
    assert receipts.newest() == {"batch": "key-2-24", "seq": 25, "receipt": "a.b.c"}
    assert len(path.read_text().splitlines()) <= 20
    path.write_text(path.read_text() + '{"batch": "torn')
    assert Receipts(path, 10).newest() == {"batch": "key-2-24", "seq": 25, "receipt": "a.b.c"}


def test_a_torn_line_of_receipts_costs_no_other(host: Host) -> None:
    path = host.folder / "receipts.jsonl"
    path.write_text('{"batch": "torn')
    Receipts(path, 10).keep("after", 26, "a.b.c")
    assert Receipts(path, 10).newest() == {"batch": "after", "seq": 26, "receipt": "a.b.c"}


def test_a_receipt_must_speak_of_what_was_sent() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"digest": "ab" * 32, "records": 3}).encode()).decode().rstrip("=")
    assert agrees(f"head.{claims}.sig", b"\xab" * 32, 3)
    assert not agrees(f"head.{claims}.sig", b"\xab" * 32, 4)
    assert not agrees(f"head.{claims}.sig", b"\xac" * 32, 3)
    for broken in ("", "a", "a.b.c", "a.e30.c", "a.W10.c", f"head.{claims[:-3]}.sig"):
        assert not agrees(broken, b"\xab" * 32, 3)
