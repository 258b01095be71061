"""One tenant's detector: batches in, everything they change out; nothing odd stops it, and nothing is lost silently."""

from __future__ import annotations

from typing import Any

import pytest

from detect.normalize import default_normalizer
from detect.record import LogRecord, NormalizedRecord
from detect.tenant import DetectorSettings


def test_a_guessing_attack_becomes_events_and_one_incident(bench: Any, journal: Any, failed: Any, run: Any) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines([(number, failed(number)) for number in range(8)])
    _, output = run(bench.detector(), journal)
    assert [event.title for event in output.events].count("Failed SSH login") == 8
    assert "SSH password guessing" in {event.title for event in output.events}
    (incident,) = output.incidents
    assert incident.title == "SSH password guessing from 203.0.113.7 on web-1"
    assert incident.event_count == len(output.events)
    assert {member.event_id for member in incident.added} == {event.id for event in output.events}
    assert output.counts["records"] == len(output.records) == 8
    assert output.counts["events"] == len(output.events)


def test_windows_close_as_event_time_passes(bench: Any, journal: Any, failed: Any, run: Any) -> None:
    journal.lines([(0, failed(0)), (30, failed(1)), (359, failed(2))])
    journal.lines([(360, failed(3))])
    first, second = run(bench.detector(), journal)
    assert first.rollups == ()
    spans = {(rollup.span, rollup.entity_kind): rollup.features["auth_failure"] for rollup in second.rollups}
    assert spans == {("1m", "host"): 2, ("1m", "ip"): 2, ("1m", "user"): 2}


def test_a_tick_closes_the_windows_of_an_idle_tenant(bench: Any, journal: Any, failed: Any, run: Any) -> None:
    journal.lines([(0, failed(0))])
    journal.control(type="tick", received=300 + 59)
    journal.control(type="tick", received=300 + 3600)
    _, early, late = run(bench.detector(), journal)
    assert early.rollups == ()
    assert {rollup.span for rollup in late.rollups} == {"1m", "5m", "1h"}


def test_a_late_record_is_marked_stored_and_matched_but_changes_no_closed_window(
    bench: Any, journal: Any, failed: Any, cron_line: str, run: Any
) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines([(0, failed(0)), (1000, failed(1))])
    journal.lines([(10, cron_line)])
    journal.control(type="tick", received=10_000)
    _, before, output, after = run(bench.detector(), journal)
    assert any(rollup.start_ns == before.rollups[0].start_ns for rollup in before.rollups)
    assert output.records[0].record.time_mark == "late"
    assert [event.title for event in output.events] == ["Cron table replaced"]
    assert (output.counts["late"], output.counts["rollup_late_records"]) == (1, 1)
    hours = [rollup for rollup in after.rollups if (rollup.span, rollup.entity_kind) == ("1h", "host")]
    assert sum(rollup.features["events"] for rollup in hours) == 2


def test_a_record_from_the_future_is_clamped_and_does_not_carry_time_away(
    bench: Any, journal: Any, failed: Any, run: Any
) -> None:
    detector = bench.detector()
    journal.lines([(10**6, failed(0))], received=100)
    journal.lines([(101, failed(1))])
    future, present = run(detector, journal)
    assert future.records[0].record.time_mark == "future"
    assert future.counts["future"] == 1
    assert present.counts["late"] == 0


def test_rules_are_in_force_from_their_seq_on(bench: Any, journal: Any, cron_line: str, failed: Any, run: Any) -> None:
    journal.lines([(0, cron_line)])
    journal.control(type="rules", digest=bench.small)
    journal.lines([(1, cron_line), (1, failed(0))])
    journal.control(type="rules", digest=bench.full)
    journal.lines([(2, cron_line), (2, failed(0))])
    assert [len(output.events) for output in run(bench.detector(), journal)] == [0, 0, 1, 0, 2]


def test_an_unknown_rule_set_is_parked_and_the_old_one_stays(
    bench: Any, journal: Any, cron_line: str, run: Any
) -> None:
    journal.control(type="rules", digest=bench.small)
    journal.control(type="rules", digest="gone")
    journal.lines([(0, cron_line)])
    _, parked, after = run(bench.detector(), journal)
    (poison,) = parked.poison
    assert (poison.seq, poison.position, poison.stage, poison.subject) == (2, -1, "sigma", "rules gone")
    assert len(after.events) == 1


def test_trouble_that_will_pass_is_not_mistaken_for_a_missing_rule_set(bench: Any, journal: Any, run: Any) -> None:
    def unreachable(_: str) -> Any:
        raise ConnectionError("no route to the store")

    detector = bench.detector()
    detector._resolve_rules = unreachable
    journal.control(type="rules", digest=bench.small)
    with pytest.raises(ConnectionError):
        run(detector, journal)
    assert detector.seq == 0


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"type":"party"}', b'{"type":"rules"}', b'{"digest":"x"}'])
def test_an_unknown_control_row_is_parked(bench: Any, journal: Any, payload: bytes, run: Any) -> None:
    journal.raw("control", payload)
    (output,) = run(bench.detector(), journal)
    assert [(poison.position, poison.stage, poison.subject) for poison in output.poison] == [(-1, "decode", "control")]


@pytest.mark.parametrize("kind", ["otlp_json", "otlp_protobuf"])
def test_an_undecodable_batch_is_parked_and_the_rest_goes_on(
    bench: Any, journal: Any, failed: Any, kind: str, run: Any
) -> None:
    journal.raw(kind, b"\xff{nonsense")
    journal.lines([(0, failed(0))])
    broken, fine = run(bench.detector(), journal)
    (poison,) = broken.poison
    assert (poison.seq, poison.position, poison.stage, poison.subject) == (1, -1, "decode", kind)
    assert broken.counts["poison"] == 1
    assert len(fine.records) == 1


class PickyNormalizer:
    """Refuses records that say so, and reads the others as the real one does."""

    def __init__(self) -> None:
        self._real = default_normalizer()

    def normalize(self, record: LogRecord) -> NormalizedRecord:
        if record.body == "refuse me":
            raise RuntimeError("cannot read this")
        return self._real.normalize(record)


def test_a_record_that_nobody_can_read_is_parked_and_kept_and_the_others_go_on(
    bench: Any, journal: Any, failed: Any, run: Any
) -> None:
    journal.lines([(0, failed(0)), (1, "refuse me"), (2, failed(2))])
    (output,) = run(bench.detector(normalizer=PickyNormalizer()), journal)
    assert [record.record.ref.position for record in output.records] == [0, 1, 2]
    assert (output.records[1].message, output.records[1].entities) == ("refuse me", ())
    (poison,) = output.poison
    assert (poison.position, poison.stage, poison.error) == (1, "normalize", "RuntimeError: cannot read this")


@pytest.mark.parametrize("seq", [0, 2, 7])
def test_batches_come_in_order_without_gaps(bench: Any, journal: Any, failed: Any, seq: int) -> None:
    detector = bench.detector()
    journal.seq = seq - 1
    with pytest.raises(ValueError, match=f"batch {seq} cannot follow batch 0"):
        detector.observe(journal.lines([(0, failed(0))]))
    assert detector.seq == 0


def test_tenants_never_share_an_id(bench: Any, journal: Any, failed: Any, run: Any) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines([(number, failed(number)) for number in range(8)])
    ids = []
    for tenant in (1, 2):
        output = run(bench.detector(tenant), journal)[-1]
        ids.append({event.id for event in output.events} | {incident.id for incident in output.incidents})
    assert ids[0] and not ids[0] & ids[1]


def test_a_burst_after_a_quiet_time_is_an_anomaly_with_stored_evidence(
    bench: Any, journal: Any, failed: Any, run: Any
) -> None:
    journal.lines([(300 * number, failed(number, "bob")) for number in range(10)])
    journal.lines([(3000 + number, failed(number, "bob")) for number in range(60)])
    journal.control(type="tick", received=4000)
    outputs = run(bench.detector(), journal)
    (anomaly,) = [event for event in outputs[-1].events if event.rule_id == "anomaly.host.auth_failure"]
    stored = {record.record.ref: record.message for output in outputs for record in output.records}
    assert anomaly.cause in stored
    assert all(stored[evidence.ref] == evidence.message for evidence in anomaly.evidence)
    assert any(anomaly.id == member.event_id for change in outputs[-1].incidents for member in change.added)


def test_settings_travel_with_the_snapshot(bench: Any) -> None:
    original = bench.detector(settings=DetectorSettings(lateness_ns=7))
    restored = bench.detector()
    restored.restore(original.snapshot())
    assert restored.snapshot() == original.snapshot()


@pytest.mark.parametrize(
    ("mutate", "words"),
    [
        (lambda state: b"", "no detector snapshot"),
        (lambda state: b"something else", "no detector snapshot"),
        (
            lambda state: state.replace(b"detector\x00\x04", b"detector\x00\x63"),
            "format 99, this program reads format 4",
        ),
        (lambda state: state[:-3], "damaged"),
        (lambda state: state[:-1] + bytes([state[-1] ^ 1]), "damaged"),
    ],
)
def test_a_snapshot_that_cannot_be_read_is_refused_with_the_reason(bench: Any, mutate: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bench.detector().restore(mutate(bench.detector().snapshot()))


def test_a_snapshot_of_another_tenant_is_refused(bench: Any) -> None:
    with pytest.raises(ValueError, match="is of tenant"):
        bench.detector(2).restore(bench.detector(1).snapshot())
