"""Scores are bounded and monotone: nothing bad that is added makes a thing look better."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.event import SEVERITIES, severity_rank
from detect.score import RuleShare, anomaly_score, incident_score, raised, score_severity, severity_score

scores = st.floats(min_value=0, max_value=100)
shares = st.lists(st.builds(RuleShare, scores, st.integers(min_value=1, max_value=10**9)), max_size=30)
tactics = st.integers(min_value=0, max_value=14)


@pytest.mark.parametrize(
    ("severity", "score"), [("informational", 5), ("low", 20), ("medium", 45), ("high", 70), ("critical", 90)]
)
def test_a_severity_has_its_stated_score_and_the_score_is_called_that_severity(severity: str, score: float) -> None:
    assert severity_score(severity) == score
    assert score_severity(score) == severity


@given(scores, scores)
def test_a_higher_score_is_never_called_a_lower_severity(left: float, right: float) -> None:
    low, high = sorted((left, right))
    assert severity_rank(score_severity(low)) <= severity_rank(score_severity(high))


def test_raising_goes_up_one_step_and_ends_at_critical() -> None:
    assert [raised(severity) for severity in SEVERITIES] == ["low", "medium", "high", "critical", "critical"]


@given(st.floats(min_value=0, max_value=1))
def test_an_anomaly_alone_is_at_most_medium(strangeness: float) -> None:
    assert severity_rank(score_severity(anomaly_score(strangeness))) <= severity_rank("medium")


@given(shares, tactics)
def test_an_incident_score_is_between_0_and_100(members: list[RuleShare], stages: int) -> None:
    assert 0 <= incident_score(members, stages) <= 100


@given(scores.filter(lambda score: score <= 99))
def test_one_event_of_one_rule_gives_its_own_score(score: float) -> None:
    assert incident_score([RuleShare(score, 1)], 1) == pytest.approx(score)


@given(shares, tactics, st.builds(RuleShare, scores, st.integers(min_value=1, max_value=1000)))
def test_more_never_lowers_an_incident_score(members: list[RuleShare], stages: int, more: RuleShare) -> None:
    before = incident_score(members, stages)
    assert incident_score([*members, more], stages) >= before - 1e-9
    assert incident_score(members, stages + 1) >= before - 1e-9
    if members:
        first = members[0]
        repeated = [first._replace(events=first.events + 1), *members[1:]]
        worse = [first._replace(score=min(100.0, first.score + 1)), *members[1:]]
        assert incident_score(repeated, stages) >= before - 1e-9
        assert incident_score(worse, stages) >= before - 1e-9


def test_a_thousand_repeats_of_a_low_rule_stay_below_one_high_event() -> None:
    assert incident_score([RuleShare(20, 1000)], 1) < severity_score("high")


def test_four_stages_of_medium_events_outweigh_one_high_event() -> None:
    assert incident_score([RuleShare(45, 1)] * 4, 4) > severity_score("high")
