"""Floods are folded: every event is written or counted, once, in the same window whatever is replayed or restarted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.batch import BatchOutput
from detect.event import DetectionEvent, Evidence, event_id
from detect.fold import MAX_RECORDS, MAX_SAMPLES, EventFold, EventFolder, FoldWindow
from detect.record import Entity, RecordRef, TenantId
from detect.sigma import load_rule_set
from detect.sigma.codec import CompiledRules, pack_compiled, unpack_compiled
from detect.sigma.overlay import FoldChoice, Overlay, RuleChange, RuleChanges, read_overlay
from detect.tenant import TenantDetector
from models.ewma import EwmaModel

TENANT = TenantId(UUID(int=5))
SECOND = 10**9
HOUR = FoldWindow()


def event(position: int, at: int, host: str = "web-1", process: str = "1", rule: str = "r") -> DetectionEvent:
    cause = RecordRef(1, position)
    return DetectionEvent(
        id=event_id(TENANT, "sigma", rule, cause),
        kind="rule",
        detector="sigma",
        rule_id=rule,
        rule_version="1",
        title="t",
        description="",
        severity="high",
        score=70.0,
        time_ns=at * SECOND,
        end_ns=at * SECOND,
        cause=cause,
        entities=(Entity("host", host), Entity("process", process)),
        techniques=(),
        tactics=(),
        evidence=(Evidence(cause, "00", at * SECOND, "line"),),
        matched={},
        attributes={},
    )


def told(folder: EventFolder, events: Sequence[DetectionEvent], window: FoldWindow = HOUR) -> list[UUID]:
    """The events that are written."""
    written = []
    for item in events:
        if folder.is_repeat(item, window):
            folder.add(item, window)
        else:
            folder.begin(item, window, 0)
            written.append(item.id)
    return written


def test_the_first_event_of_an_hour_is_written_and_those_like_it_are_counted() -> None:
    folder = EventFolder()
    events = [event(0, 10), event(1, 20, process="2"), event(2, 3599), event(3, 15), event(4, 3600)]
    assert told(folder, events) == [events[0].id, events[4].id]
    (fold,) = folder.take_changes()
    assert (fold.event_id, fold.count, fold.added) == (events[0].id, 3, 3)
    assert (fold.first_ns, fold.last_ns) == (15 * SECOND, 3599 * SECOND)
    assert fold.records == (RecordRef(1, 1), RecordRef(1, 2), RecordRef(1, 3))
    assert [item.ref for item in fold.samples] == list(fold.records)
    assert folder.take_changes() == []


def test_rules_hosts_and_what_an_overlay_asks_for_are_told_apart() -> None:
    assert len(told(EventFolder(), [event(0, 1), event(1, 1, host="web-2"), event(2, 1, rule="s")])) == 3
    assert len(told(EventFolder(), [event(0, 1), event(1, 1, process="2")], FoldWindow(by=("process",)))) == 2
    assert len(told(EventFolder(), [event(0, 1), event(1, 1, host="web-2")], FoldWindow(by=()))) == 1


def test_places_and_samples_end_where_they_are_said_to_and_the_count_does_not() -> None:
    folder, many = EventFolder(), MAX_RECORDS + 50
    told(folder, [event(position, 5) for position in range(MAX_RECORDS // 2)])
    changes = folder.take_changes()
    told(folder, [event(position, 5) for position in range(MAX_RECORDS // 2, many + 1)])
    changes += folder.take_changes()
    assert changes[-1].count == many
    assert [ref for fold in changes for ref in fold.records] == [RecordRef(1, n) for n in range(1, MAX_RECORDS + 1)]
    assert sum(len(fold.samples) for fold in changes) == MAX_SAMPLES


def test_a_window_is_forgotten_when_event_time_has_passed_it_and_not_before() -> None:
    folder = EventFolder()
    folder.begin(event(0, 10), HOUR, 9000 * SECOND)
    folder.tick(9000 * SECOND + 3600 * SECOND)
    assert folder.is_repeat(event(1, 20), HOUR), "of a source that is hours behind"
    folder.tick(9000 * SECOND + 3600 * SECOND + 1)
    assert not folder.is_repeat(event(1, 20), HOUR)


def test_of_too_many_windows_the_oldest_closes_early_which_is_counted() -> None:
    folder = EventFolder(max_open=2)
    written = told(folder, [event(n, 1, host=f"h{n}") for n in range(3)] + [event(3, 2, host="h0")])
    assert len(written) == 4
    assert folder.take_closed_early() == 2
    assert folder.take_closed_early() == 0


FLOODS = st.lists(
    st.tuples(st.integers(0, 9000), st.sampled_from(["web-1", "web-2"]), st.sampled_from("rs")), max_size=40
)


@given(flood=FLOODS, cut=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_every_event_is_written_or_counted_whatever_the_order_and_a_snapshot_changes_nothing(
    flood: list[tuple[int, str, str]], cut: int
) -> None:
    events = [event(position, at, host=host, rule=rule) for position, (at, host, rule) in enumerate(flood)]
    whole, first = EventFolder(), EventFolder()
    written = told(whole, events)
    halves = told(first, events[:cut])
    changes = first.take_changes()
    second = EventFolder()
    second.restore(first.snapshot())
    halves += told(second, events[cut:])
    changes += second.take_changes()
    assert halves == written
    assert total_of(whole.take_changes()) == total_of(changes)
    assert second.snapshot() == whole.snapshot()
    apart = Counter((rule, host, at // 3600) for at, host, rule in flood)
    assert len(written) == len(apart)
    assert Counter(total_of(changes).values()) == Counter(count - 1 for count in apart.values() if count > 1)


def total_of(changes: Sequence[EventFold]) -> dict[UUID, int]:
    return {fold.event_id: fold.count for fold in changes}


def outputs_of(bench: Any, journal: Any, fold: FoldWindow | None, cut: int = -1) -> list[BatchOutput]:
    def detector() -> TenantDetector:
        return TenantDetector(TENANT, lambda digest: replace(bench.rules[digest], fold=fold), EwmaModel)

    current, outputs = detector(), []
    for number, batch in enumerate(journal.batches):
        if number == cut:
            saved = current.snapshot()
            current = detector()
            current.restore(saved)
        outputs.append(current.observe(batch))
    return outputs


@pytest.mark.parametrize("cut", [1, 2, 7, 12])
def test_a_detector_that_folds_says_no_less_and_goes_on_from_a_snapshot(
    bench: Any, journal: Any, failed: Any, cut: int
) -> None:
    journal.control(type="rules", digest=bench.full)
    for batch in range(12):
        journal.lines([(batch * 400 + number, failed(number)) for number in range(9)])
    plain = outputs_of(bench, journal, None)
    folded = outputs_of(bench, journal, HOUR, cut)
    assert folded == outputs_of(bench, journal, HOUR)
    all_events = {item.id: item for output in plain for item in output.events}
    written = {item.id: item for output in folded for item in output.events}
    assert written.items() <= all_events.items()
    counts = total_of([fold for output in folded for fold in output.folds])
    assert len(written) + sum(counts.values()) == len(all_events)
    assert counts.keys() <= written.keys()
    assert len(written) < len(all_events) / 5
    assert sum(output.counts["repeats"] for output in folded) == sum(counts.values())
    listed = {member.event_id for output in folded for change in output.incidents for member in change.added}
    assert listed <= written.keys(), "an incident names no event that is not written"
    assert {change.id for output in folded for change in output.incidents} == {
        change.id for output in plain for change in output.incidents
    }


def test_an_overlay_says_which_rules_are_folded_and_how() -> None:
    overlay = read_overlay(b'{"fold": {"seconds": 600}, "rules": {"r": {"fold": {"seconds": 0}}, "s": {"fold": {}}}}')
    assert overlay == Overlay(
        rules={"r": RuleChange(fold=FoldChoice(seconds=0)), "s": RuleChange(fold=FoldChoice())}, fold=FoldChoice(600)
    )
    rules = RuleChanges.of(overlay).applied(load_rule_set([]))
    assert unpack_compiled(pack_compiled(CompiledRules(rules, "any", {})), "any").rules == rules, "the cache keeps it"
    assert rules.fold_of("r") is None
    assert rules.fold_of("s") == HOUR
    assert rules.fold_of("another") == FoldWindow(seconds=600)
    assert load_rule_set([]).fold_of("r") is None, "nothing is folded that no overlay asks for"


@pytest.mark.parametrize("bad", ['{"seconds": 3601}', '{"seconds": -1}', '{"by": ["planet"]}', '{"window": 3}'])
def test_a_fold_that_means_nothing_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"fold|field"):
        read_overlay(f'{{"fold": {bad}}}')
