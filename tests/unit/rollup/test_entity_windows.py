"""Windows on event time: what they count, when they close, what late records do, and that their state is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.batch import Rollup
from detect.record import Entity, LogRecord, Logsource, NormalizedRecord, RecordRef, record_digest
from detect.rollup import MINUTE_NS, ClosedWindow, EntityWindows, RollupSettings

SECOND = 10**9
HOUR = 3600 * SECOND
BASE = 472_222 * HOUR


def record(second: float, position: int = 0, entities: tuple[Entity, ...] = (), **view: Any) -> NormalizedRecord:
    time_ns = BASE + int(second * SECOND)
    message = f"line {position}"
    raw = LogRecord(RecordRef(1, position), time_ns, time_ns, 0, time_ns, 9, "INFO", message, {}, {})
    return NormalizedRecord(raw, Logsource(), view.pop("fields", {}), entities, message, **view)


def login(second: float, position: int, outcome: str, user: str = "bob", ip: str = "203.0.113.7") -> NormalizedRecord:
    entities = (Entity("host", "web-1"), Entity("user", user, "target"), Entity("ip", ip, "source"))
    return record(second, position, entities, activity="authentication", outcome=outcome)


def by_key(closed: list[ClosedWindow]) -> dict[tuple[str, str, str, int], dict[str, float]]:
    return {
        (one.rollup.span, one.rollup.entity_kind, one.rollup.entity, (one.rollup.start_ns - BASE) // SECOND): (
            one.rollup.features
        )
        for one in closed
    }


def test_a_minute_counts_outcomes_and_distinct_values_for_each_entity() -> None:
    windows = EntityWindows(b"key")
    windows.observe(login(1, 0, "failure", "bob"))
    windows.observe(login(2, 1, "failure", "eve"))
    windows.observe(login(59, 2, "success", "bob"))
    closed = by_key(windows.close(BASE + MINUTE_NS))
    assert closed["1m", "host", "web-1", 0] == {
        "auth_failure": 2,
        "auth_failure_ratio": pytest.approx(2 / 3),
        "auth_success": 1,
        "distinct_source_ips": 1,
        "distinct_users": 2,
        "events": 3,
        "failures": 2,
        "new_source_ips": 1,
        "new_users": 2,
    }
    assert closed["1m", "ip", "203.0.113.7", 0]["distinct_users"] == 2
    assert closed["1m", "user", "eve", 0]["events"] == 1


def test_web_records_count_status_classes_bytes_and_paths() -> None:
    windows = EntityWindows(b"key")
    host = (Entity("host", "web-1"),)
    for position, (status, size) in enumerate([(200, 100), ("404", "20"), (503, "-"), (True, None)]):
        fields = {"sc-status": status, "sc-bytes": size, "cs-uri-stem": f"/{position}"}
        windows.observe(record(1, position, host, activity="http", fields=fields))
    features = by_key(windows.close(BASE + MINUTE_NS))["1m", "host", "web-1", 0]
    assert features["http_requests"] == 4
    assert (features["http_4xx"], features["http_5xx"], features["http_error_ratio"]) == (1, 1, 0.5)
    assert (features["bytes_sent"], features["distinct_urls"]) == (120, 4)


def test_an_address_that_is_only_a_target_has_no_window() -> None:
    windows = EntityWindows(b"key")
    windows.observe(record(1, 0, (Entity("ip", "198.51.100.1", "target"),)))
    assert windows.close(BASE + HOUR) == []


def test_longer_windows_are_the_sum_of_the_minutes() -> None:
    windows = EntityWindows(b"key")
    for minute in range(60):
        windows.observe(login(60 * minute, minute, "failure", f"user-{minute % 7}"))
    closed = by_key(windows.close(BASE + HOUR))
    fives = [closed["5m", "host", "web-1", 300 * number] for number in range(12)]
    assert [five["events"] for five in fives] == [5] * 12
    hour = closed["1h", "host", "web-1", 0]
    assert (hour["events"], hour["auth_failure"], hour["distinct_users"], hour["new_users"]) == (60, 60, 7, 7)


def test_a_value_is_new_for_an_entity_only_once_while_it_is_remembered() -> None:
    windows = EntityWindows(b"key", RollupSettings(max_known_values=2))
    seen = []
    for minute, user in enumerate(["a", "a", "b", "c", "b", "a"]):
        windows.observe(login(60 * minute, minute, "success", user))
        closed = by_key(windows.close(BASE + (minute + 1) * MINUTE_NS))
        seen.append(closed["1m", "host", "web-1", 60 * minute].get("new_users", 0))
    assert seen == [1, 0, 1, 1, 0, 1]


def test_a_window_closes_when_the_watermark_reaches_its_end_and_never_twice() -> None:
    windows = EntityWindows(b"key")
    windows.observe(login(10, 0, "failure"))
    assert windows.close(BASE + MINUTE_NS - 1) == []
    assert len(windows.close(BASE + MINUTE_NS)) == 3
    assert windows.close(BASE + MINUTE_NS) == []
    assert windows.close(BASE) == []


def test_a_record_of_a_closed_window_is_counted_as_late_and_changes_nothing() -> None:
    windows = EntityWindows(b"key")
    windows.observe(login(10, 0, "failure"))
    windows.close(BASE + MINUTE_NS)
    windows.observe(login(20, 1, "failure"))
    windows.observe(login(70, 2, "failure"))
    closed = by_key(windows.close(BASE + 5 * MINUTE_NS))
    assert closed["5m", "host", "web-1", 0]["events"] == 2
    assert windows.take_counts()["late_records"] == 1
    assert windows.take_counts()["late_records"] == 0


def test_the_records_that_stand_for_a_window_come_with_their_digest() -> None:
    windows = EntityWindows(b"key")
    records = [login(30, 0, "failure"), login(10, 1, "success"), login(50, 2, "success")]
    for one in records:
        windows.observe(one)
    windows.seal()
    host = next(one for one in windows.close(BASE + MINUTE_NS) if one.rollup.entity_kind == "host")
    assert [host.evidence(label).ref.position for label in ("first", "last", "auth_failure", "absent")] == [1, 2, 0, 2]
    assert host.evidence("auth_failure").digest == record_digest(records[0].record)


def test_newcomers_to_a_full_window_are_refused_and_counted() -> None:
    windows = EntityWindows(b"key", RollupSettings(max_entities=10))
    for number in range(25):
        windows.observe(login(1, number, "failure", "bob", f"203.0.113.{number}"))
    closed = windows.close(BASE + HOUR)
    addresses = {one.rollup.entity for one in closed if one.rollup.entity_kind == "ip"}
    assert len(addresses) == 10
    assert by_key(closed)["1m", "host", "web-1", 0]["events"] == 25
    assert windows.take_counts()["entities_refused"] == 15


def test_remembered_entities_are_bounded_and_forgetting_is_counted() -> None:
    windows = EntityWindows(b"key", RollupSettings(max_entities=10))
    for minute in range(30):
        windows.observe(login(60 * minute, minute, "failure", "bob", f"203.0.113.{minute}"))
        windows.close(BASE + (minute + 1) * MINUTE_NS)
    assert windows.take_counts()["entities_forgotten"] == 20


def test_an_over_long_name_is_one_entity_of_bounded_length() -> None:
    windows = EntityWindows(b"key")
    for second, name in enumerate(["x" * 10_000, "x" * 10_000, "x" * 10_001]):
        windows.observe(record(second, second, (Entity("user", name),)))
    closed = [one.rollup for one in windows.close(BASE + MINUTE_NS)]
    assert sorted(rollup.features["events"] for rollup in closed) == [1, 2]
    assert all(len(rollup.entity) <= 256 for rollup in closed)


stream = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=900),
        st.sampled_from(["success", "failure"]),
        st.sampled_from(["bob", "eve", "x"]),
        st.sampled_from(["203.0.113.1", "203.0.113.2", "2001:db8::1"]),
    ),
    max_size=40,
)


@given(stream)
def test_the_order_of_records_within_the_lateness_does_not_matter(rows: list[tuple[int, str, str, str]]) -> None:
    def rollups(records: list[NormalizedRecord]) -> list[Rollup]:
        windows = EntityWindows(b"key")
        for one in records:
            windows.observe(one)
        return [one.rollup for one in windows.close(BASE + 2 * HOUR)]

    records = [login(second, position, *rest) for position, (second, *rest) in enumerate(rows)]
    assert rollups(records) == rollups(records[::-1])


@given(stream, st.integers(min_value=0, max_value=40))
def test_a_restored_state_gives_the_same_windows_and_the_same_state(
    rows: list[tuple[int, str, str, str]], cut: int
) -> None:
    original, restored = EntityWindows(b"key"), EntityWindows(b"key")
    closed: list[list[Any]] = [[], []]
    for position, (second, *rest) in enumerate(rows):
        if position == cut:
            original.seal()
            restored.restore(original.snapshot())
        for number, windows in enumerate([original, restored] if position >= cut else [original]):
            windows.observe(login(second, position, *rest))
            found = windows.close(BASE + (second - 300) * SECOND)
            if position >= cut:
                closed[number].extend((one.rollup, one.evidence("last")) for one in found)
            windows.seal()
    if len(rows) > cut:
        assert closed[0] == closed[1]
        assert original.snapshot() == restored.snapshot()
