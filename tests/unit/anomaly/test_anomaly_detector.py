"""When a window is called unusual, what the event says about it, and how alarms rest."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from detect.anomaly import SIGNALS, AnomalyDetector, AnomalySettings, hour_of_week
from detect.batch import Rollup, RollupSpan
from detect.event import DetectionEvent, Evidence
from detect.record import Entity, EntityKind, RecordRef, TenantId
from detect.rollup import ClosedWindow
from detect.rollup.window import RecordMark
from models.ewma import EwmaModel

TENANT = TenantId(UUID(int=1))
FIVE_MINUTES = 300 * 10**9
BASE = 5_666_666 * FIVE_MINUTES


def window(
    number: int, features: dict[str, float], kind: EntityKind = "host", name: str = "web-1", span: RollupSpan = "5m"
) -> ClosedWindow:
    start = BASE + number * FIVE_MINUTES
    marks = {
        label: RecordMark(None, Evidence(RecordRef(number + 1, position), label, start + position, f"{label} line"))
        for position, label in enumerate(["first", "auth_failure", "last"])
    }
    return ClosedWindow(Rollup(span, kind, name, start, features), marks)


def detector(**settings: Any) -> AnomalyDetector:
    return AnomalyDetector(TENANT, lambda: EwmaModel(probation=10), AnomalySettings(**settings))


def feed(judge: AnomalyDetector, values: list[float], start: int = 0, **place: Any) -> list[list[DetectionEvent]]:
    return [
        judge.observe(window(start + number, {"events": 50.0, "auth_failure": value}, **place))
        for number, value in enumerate(values)
    ]


QUIET = [1.0, 0.0, 2.0, 1.0, 0.0] * 4


def test_a_burst_of_failed_logins_is_an_event_with_baseline_window_and_evidence() -> None:
    judge = detector()
    assert not any(feed(judge, QUIET))
    ((event,),) = feed(judge, [80.0], start=20)
    assert (event.kind, event.detector, event.rule_id) == ("anomaly", "anomaly", "anomaly.host.auth_failure")
    assert (event.tactics, event.techniques) == (("credential-access",), ("T1110",))
    assert (event.severity, event.activity, event.outcome) == ("medium", "authentication", "failure")
    assert event.title == "Unusual number of failed logins"
    assert event.description.startswith("80 failed logins in 5m for host web-1; usual while active: 0.")
    assert (event.time_ns, event.end_ns) == (BASE + 20 * FIVE_MINUTES, BASE + 21 * FIVE_MINUTES)
    assert event.entities == (Entity("host", "web-1"),)
    assert event.cause == RecordRef(21, 1)
    assert [evidence.message for evidence in event.evidence] == ["first line", "auth_failure line"]
    (feature,) = event.matched["features"]
    assert feature["observed"] == 80.0
    assert feature["baseline"] == pytest.approx(0.8, abs=0.3)
    assert feature["deviation"] > 6


def test_too_little_data_is_a_state_and_raises_nothing() -> None:
    judge = detector()
    assert not any(feed(judge, [0.0] * 9 + [500.0]))
    assert judge.take_counts() == {"windows_judged": 0, "windows_learning": 10, "models_forgotten": 0}


def test_a_rare_value_below_the_floor_is_not_worth_an_event() -> None:
    judge = detector()
    feed(judge, [0.0] * 20)
    assert not any(feed(judge, [9.0], start=20))
    assert any(feed(judge, [10.0], start=21))


def test_after_an_event_the_entity_rests() -> None:
    judge = detector(rest_windows=3, frozen_windows=100)
    feed(judge, QUIET)
    raised = feed(judge, [80.0] * 9, start=20)
    assert [bool(events) for events in raised] == [True, False, False, False] * 2 + [True]


def test_alarms_are_not_learned_until_they_have_become_the_normal() -> None:
    frozen = detector(frozen_windows=1000, rest_windows=0)
    feed(frozen, QUIET)
    assert all(feed(frozen, [80.0] * 100, start=20))
    adapting = detector(frozen_windows=6, rest_windows=0)
    feed(adapting, QUIET)
    raised = feed(adapting, [80.0] * 100, start=20)
    assert all(raised[:7])
    assert not any(raised[-10:])


def test_only_windows_of_the_chosen_span_and_watched_kinds_are_judged() -> None:
    judge = detector()
    feed(judge, QUIET, span="1m")
    feed(judge, QUIET, kind="process")
    assert judge.snapshot() == []


def test_entities_are_judged_by_their_own_past() -> None:
    judge = detector()
    feed(judge, [80.0] * 20, name="busy")
    feed(judge, QUIET, name="quiet")
    assert not any(feed(judge, [80.0], start=20, name="busy"))
    assert any(feed(judge, [80.0], start=20, name="quiet"))


def test_models_are_bounded_and_forgetting_is_counted() -> None:
    judge = detector(max_models=3)
    for number in range(10):
        feed(judge, [0.0], name=f"host-{number}")
    assert [row[1] for row in judge.snapshot()] == ["host-7", "host-8", "host-9"]
    assert judge.take_counts()["models_forgotten"] == 7


def test_a_restored_detector_goes_on_as_the_original() -> None:
    original, restored = detector(), detector()
    feed(original, [*QUIET, 80.0])
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(original.snapshot())))
    later = [0.0] * 30 + [90.0]
    events = feed(original, later, start=21)
    assert any(events)
    assert events == feed(restored, later, start=21)
    assert original.snapshot() == restored.snapshot()


def test_the_week_begins_on_monday() -> None:
    assert hour_of_week(0) == 72
    assert hour_of_week(4 * 24 * 3600 * 10**9) == 0
    assert hour_of_week(4 * 24 * 3600 * 10**9 - 1) == 167


def test_every_watched_feature_has_a_floor_above_zero_and_a_phrase() -> None:
    for signals in SIGNALS.values():
        assert len({signal.feature for signal in signals}) == len(signals)
        assert all(signal.floor > 0 and signal.phrase for signal in signals)
