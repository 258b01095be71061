"""A ledger gap in the journal: a record of our own, one event about it, an incident; the same on every replay."""

from __future__ import annotations

from typing import Any

from detect.record import RecordRef, record_digest

GAP = {"type": "ledger_gap", "agent": "Web-1", "run": "r", "missing": 2, "excess": 0, "detail": "two are not there"}


def test_a_gap_is_an_event_whose_evidence_is_a_stored_record(bench: Any, journal: Any, run: Any) -> None:
    journal.control(received=60, **GAP)
    [output] = run(bench.detector(), journal)
    [event], [record] = output.events, output.records
    assert (event.rule_id, event.severity, event.detector) == ("trustsoc-ledger-gap", "high", "ledger")
    assert [(entity.kind, entity.value) for entity in event.entities] == [("host", "web-1")]
    assert event.cause == record.record.ref == RecordRef(1, 0)
    assert event.time_ns == record.record.time_ns == journal.batches[0].received_ns
    [evidence] = event.evidence
    assert (evidence.ref, evidence.digest) == (record.record.ref, record_digest(record.record))
    assert "2 missing" in evidence.message
    assert "two are not there" in evidence.message
    assert output.counts["records"] == output.counts["events"] == 1
    assert [incident.severity for incident in output.incidents] == ["high"]


def test_a_gap_does_not_move_time_and_every_gap_is_an_event_of_its_own(bench: Any, journal: Any, run: Any) -> None:
    journal.lines([(0, "one")], received=0)
    journal.control(received=9000, **GAP)
    journal.control(received=9001, **GAP | {"missing": 3})
    detector = bench.detector()
    before = detector.watermark_ns
    outputs = run(detector, journal)
    assert before == 0
    assert detector.watermark_ns < journal.batches[1].received_ns - 3600 * 10**9
    assert len({event.id for output in outputs for event in output.events}) == 2
    assert run(bench.detector(), journal) == outputs


def test_excess_has_a_title_of_its_own_and_what_is_no_gap_is_parked(bench: Any, journal: Any, run: Any) -> None:
    journal.control(**GAP | {"missing": 0, "excess": 4})
    journal.control(**GAP | {"missing": "many"})
    good, bad = run(bench.detector(), journal)
    assert good.events[0].title == "Log records that their sender does not know of"
    assert bad.events == ()
    assert [poison.stage for poison in bad.poison] == ["decode"]
