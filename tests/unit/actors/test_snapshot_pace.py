"""A snapshot is due when a restart would have much to judge again, and when it is worth what it costs."""

from __future__ import annotations

from actors.snapshot_pace import SnapshotPace


def test_a_cheap_snapshot_is_taken_when_the_plan_asks_or_a_replay_would_be_long() -> None:
    pace = SnapshotPace(cost_s=0.01)
    pace.judged(5, 1.0)
    assert pace.due(asked=True)
    assert not pace.due(asked=False)
    pace.judged(5, 2.5)
    assert pace.due(asked=False)
    pace.restart(7.0)
    assert (pace.at, pace.batches, pace.judging_s) == (7.0, 0, 0.0)
    assert not pace.due(asked=False)


def test_a_dear_one_waits_until_the_judging_was_worth_it_whoever_asks() -> None:
    pace = SnapshotPace(cost_s=3.5)
    assert pace.dear
    pace.judged(500, 3.4)
    assert not pace.due(asked=True) and not pace.due(asked=False)
    pace.judged(1, 0.1)
    assert pace.due(asked=False)
