"""How bad it is, in numbers from 0 to 100: the score of an event, of an anomaly and of an incident.

Every function here is monotone: more severity, more strange, more members or more tactics never lower a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from detect.event import SEVERITIES, Severity, severity_rank

SEVERITY_SCORE: dict[Severity, float] = {"informational": 5, "low": 20, "medium": 45, "high": 70, "critical": 90}
"""The score of one event of a rule with that severity."""

_LOWEST_SCORE: dict[Severity, float] = {"informational": 0, "low": 12.5, "medium": 32.5, "high": 57.5, "critical": 80}
"""The lowest score that is called that severity: halfway between the scores of two severities."""

ANOMALY_CEILING = 55.0
"""An anomaly alone is at most of medium severity: it says that something is unusual, not that it is evil."""

REPEAT_GAIN = 0.1
"""Each doubling of the number of events of a rule adds a tenth of the rule's own strength (in log-survival)."""

RANK_DISCOUNT = 0.6
"""The strongest rule of an incident counts in full, the next one 0.6 of it, the third 0.36 and so on."""

TACTIC_GAIN = 0.15
"""Each ATT&CK tactic beyond the first makes the incident's combined strength 15 % larger."""

_STRONGEST = 0.99


class RuleShare(NamedTuple):
    """What one rule brings to an incident: the highest score of its events, and how many there were."""

    score: float
    events: int


def severity_score(severity: Severity) -> float:
    """The score of an event of a rule with that severity."""
    return SEVERITY_SCORE[severity]


def score_severity(score: float) -> Severity:
    """The severity that a score is called; the inverse of severity_score on its values."""
    named: Severity = "informational"
    for severity in SEVERITIES:
        if score >= _LOWEST_SCORE[severity]:
            named = severity
    return named


def raised(severity: Severity) -> Severity:
    """One step higher; critical stays critical."""
    return SEVERITIES[min(severity_rank(severity) + 1, len(SEVERITIES) - 1)]


def anomaly_score(strangeness: float) -> float:
    """From a model's score (0 to 1) to 0 to ANOMALY_CEILING."""
    return ANOMALY_CEILING * min(1.0, max(0.0, strangeness))


def incident_score(shares: Iterable[RuleShare], tactics: int) -> float:
    """The score of an incident from what its rules bring and the number of its different tactics.

    A noisy-or over rules, computed on log-survival: each rule is a chance of `score / 100` that the incident is real,
    the chances are combined in descending order with RANK_DISCOUNT, so that many weak hints stay below one strong
    proof of each kind; REPEAT_GAIN and TACTIC_GAIN are applied on the same scale. One event of one rule gives exactly
    that event's score.
    """
    strengths = sorted((_log_survival(share) for share in shares), reverse=True)
    combined = sum(strength * RANK_DISCOUNT**rank for rank, strength in enumerate(strengths))
    combined *= 1 + TACTIC_GAIN * max(0, tactics - 1)
    return 100 * -math.expm1(-combined)


def _log_survival(share: RuleShare) -> float:
    chance = min(_STRONGEST, max(0.0, share.score / 100))
    return -math.log1p(-chance) * (1 + REPEAT_GAIN * math.log2(max(1, share.events)))
