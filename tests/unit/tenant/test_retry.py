"""A dead letter judged again: the same events as if it had never failed, at its own place, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from detect.batch import Batch, BatchOutput, Poison
from detect.normalize import default_normalizer
from detect.record import LogRecord, NormalizedRecord, RecordRef
from detect.retry import NotRetryable, Parked, retry_control
from detect.sigma import CompiledMatcher, RuleMatcher, SigmaRule
from detect.sigma.match import RuleFault, RuleMatch


class Fragile:
    """The real normaliser, which fails on chosen words until it is mended."""

    def __init__(self) -> None:
        self.broken = True
        self._real = default_normalizer()

    def normalize(self, record: LogRecord) -> NormalizedRecord:
        if self.broken and "odd" in str(record.body):
            raise RuntimeError("cannot read the odd one")
        return self._real.normalize(record)


class FaultyRule:
    """The real matcher, of which one rule fails on chosen records until it is mended."""

    broken = True

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self._real = CompiledMatcher(rules)
        self._rule = rules[0]
        self._faults: list[RuleFault] = []

    def match(self, record: NormalizedRecord) -> tuple[RuleMatch, ...]:
        found = self._real.match(record)
        if type(self).broken and "admin" in record.message:
            self._faults.append(RuleFault(self._rule.id, "RuntimeError: boom"))
            return tuple(match for match in found if match.rule.id != self._rule.id)
        return found

    def take_faults(self) -> list[RuleFault]:
        faults, self._faults = self._faults, []
        return faults


def parked(poison: Poison) -> Parked:
    return Parked(poison.seq, poison.position, poison.stage, poison.subject, poison.count, poison.positions)


def retry_row(journal: Any, poison: Poison) -> Batch:
    return journal.raw("control", retry_control(parked(poison), journal.batches[poison.seq - 1]), received=900)


def said(outputs: Sequence[BatchOutput]) -> dict[Any, Any]:
    return {event.id: msgspec.to_builtins(event) for output in outputs for event in output.events}


def lines(failed: Any, *odd: int) -> list[tuple[float, str]]:
    return [(number, failed(number) + (" odd" if number in odd else "")) for number in range(8)]


def test_a_record_that_could_not_be_normalised_is_judged_at_its_own_place(
    bench: Any, journal: Any, failed: Any
) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines(lines(failed, 2))
    fragile = Fragile()
    detector = bench.detector(normalizer=fragile)
    outputs = [detector.observe(batch) for batch in journal.batches]
    [poison] = outputs[1].poison
    assert (poison.seq, poison.position, poison.stage) == (2, 2, "normalize")

    again = detector.observe(retry_row(journal, poison))
    assert [item.error for item in again.retried] == [poison.error], "nothing was mended yet"
    assert again.poison == ()

    fragile.broken = False
    outputs.append(detector.observe(retry_row(journal, poison)))
    assert [item.error for item in outputs[-1].retried] == [""]
    assert outputs[-1].records == (), "the record is stored already"
    [event] = outputs[-1].events
    assert event.cause == RecordRef(2, 2)
    assert event.evidence[0].ref == RecordRef(2, 2)

    sound = bench.detector()
    undisturbed = [sound.observe(batch) for batch in journal.batches[:2]]
    assert said(outputs).items() >= {i: e for i, e in said(undisturbed).items() if e["kind"] == "rule"}.items()
    stored = {record.record.ref: record.record for record in undisturbed[1].records}
    assert (
        event.evidence[0].digest
        == next(item for item in said(undisturbed).values() if item["id"] == str(event.id))["evidence"][0]["digest"]
    )
    assert stored[RecordRef(2, 2)].body


def test_repeating_a_retry_says_nothing_new(bench: Any, journal: Any, failed: Any) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines(lines(failed, 5))
    fragile = Fragile()
    detector = bench.detector(normalizer=fragile)
    outputs = [detector.observe(batch) for batch in journal.batches]
    [poison] = outputs[1].poison
    fragile.broken = False
    outputs.append(detector.observe(retry_row(journal, poison)))
    known = said(outputs)
    repeated = detector.observe(retry_row(journal, poison))
    assert {event.id for event in repeated.events} <= known.keys()


def test_a_rule_that_failed_is_judged_again_by_itself_on_all_its_records(bench: Any, journal: Any, failed: Any) -> None:
    class OneFaultyRule(FaultyRule):
        broken = True

    journal.control(type="rules", digest=bench.full)
    journal.lines([*lines(failed), (9, "Nov 14 22:00:00 web-1 crontab[2002]: (root) REPLACE (root)")])
    detector = bench.detector(matcher=OneFaultyRule)
    outputs = [detector.observe(batch) for batch in journal.batches]
    [poison] = outputs[1].poison
    assert (poison.count, poison.positions, poison.stage) == (8, "0-7", "sigma")
    assert {event.title for event in outputs[1].events} == {"Cron table replaced"}

    OneFaultyRule.broken = False
    again = detector.observe(retry_row(journal, poison))
    assert [item.error for item in again.retried] == [""]
    assert {event.cause for event in again.events if event.kind == "rule"} == {RecordRef(2, n) for n in range(8)}
    sound = bench.detector()
    undisturbed = said([sound.observe(batch) for batch in journal.batches[:2]])
    assert said([*outputs, again]) == undisturbed


def test_a_batch_that_could_not_be_decoded_is_judged_whole_once_it_can(
    bench: Any, journal: Any, failed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines(lines(failed))
    detector = bench.detector()
    with monkeypatch.context() as patched:
        patched.setattr("detect.tenant.decode", _cannot)
        outputs = [detector.observe(batch) for batch in journal.batches]
    [poison] = outputs[1].poison
    assert (poison.seq, poison.position, poison.stage) == (2, -1, "decode")
    again = detector.observe(retry_row(journal, poison))
    assert [record.record.ref for record in again.records] == [RecordRef(2, n) for n in range(8)]
    sound = bench.detector()
    assert said([again]) == said([sound.observe(batch) for batch in journal.batches[:2]])


def test_a_control_row_of_a_newer_kind_is_applied_once_it_is_known(bench: Any, journal: Any, failed: Any) -> None:
    journal.control(type="rules", digest="gone")
    journal.lines(lines(failed))
    rules = dict(bench.rules)
    detector = bench.detector()
    outputs = [detector.observe(batch) for batch in journal.batches]
    [poison] = outputs[0].poison
    assert poison.subject == "rules gone"
    bench.rules["gone"] = rules[bench.full]
    try:
        again = detector.observe(retry_row(journal, poison))
        assert [item.error for item in again.retried] == [""]
        assert detector.rules_digest == bench.full
    finally:
        del bench.rules["gone"]


def test_the_state_after_a_retry_is_a_function_of_the_journal(bench: Any, journal: Any, failed: Any) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines(lines(failed))
    retry_row(journal, Poison(2, 3, "normalize", "record", "was mended since"))
    journal.lines([(400 + number, failed(number)) for number in range(8)])
    whole, first, second = bench.detector(), bench.detector(), bench.detector()
    expected = [whole.observe(batch) for batch in journal.batches]
    outputs = [first.observe(batch) for batch in journal.batches[:3]]
    second.restore(first.snapshot())
    outputs += [second.observe(batch) for batch in journal.batches[3:]]
    assert outputs == expected
    assert second.snapshot() == whole.snapshot()


def test_what_failed_over_many_records_cannot_be_judged_again(bench: Any, journal: Any, failed: Any) -> None:
    batch = journal.lines(lines(failed))
    with pytest.raises(NotRetryable, match="counts over many records"):
        retry_control(Parked(1, -1, "anomaly", "ip 203.0.113.7"), batch)
    with pytest.raises(NotRetryable, match="no record 99"):
        retry_control(Parked(1, 99, "normalize", "record"), batch)


def test_a_damaged_retry_row_is_parked_and_stops_nobody(bench: Any, journal: Any, failed: Any) -> None:
    journal.control(type="rules", digest=bench.full)
    journal.lines(lines(failed))
    retry_row(journal, Poison(2, 3, "normalize", "record", ""))
    row = msgspec.json.decode(journal.batches[-1].payload)
    journal.control(**{**row, "payload": "AAAA"})
    detector = bench.detector()
    outputs = [detector.observe(batch) for batch in journal.batches]
    assert [bool(item.error) for item in outputs[-1].retried] == [True]


def _cannot(*_: Any) -> Any:
    raise RuntimeError("this version cannot read it")


def test_the_matcher_that_tests_use_is_one(bench: Any) -> None:
    matcher: RuleMatcher = FaultyRule(bench.rules[bench.full].rules)
    assert matcher.take_faults() == []
