"""What rules cost: of one record in so many, the rules that the matcher had to look at one by one, each timed alone.

The matcher remembers what it has decided, so a rule costs nothing on most records, and nothing is measured on their
path: samples are taken of records that have been judged already. What a rule takes alone is more than its share in the
matcher; it tells rules apart, and finds the one that slows a shard.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence

from detect.batch import BatchOutput
from detect.record import NormalizedRecord
from detect.sigma.compiled import CompiledMatcher
from detect.sigma.match import RuleFault
from detect.sigma.naive import judge

SAMPLED_EVERY = 1000
"""Records for each that is measured."""
_MAX_RULES = 10_000
_MAX_CONSIDERED = 200
_KEPT = 1000


class RuleCosts:
    """Adds to `seconds` what rules are estimated to cost: what the samples took, times the records they stand for."""

    def __init__(self, seconds: MutableMapping[str, float], every: int = SAMPLED_EVERY) -> None:
        self._seconds = seconds
        self._every = every
        self._unsampled = 0

    def observe(self, outputs: Sequence[BatchOutput], matcher: CompiledMatcher) -> None:
        """Measures what is due of records that the matcher has judged."""
        for output in outputs:
            self._unsampled += len(output.records)
            while self._unsampled >= self._every and output.records:
                self._unsampled -= self._every
                self._measure(output.records[-1 - self._unsampled % len(output.records)], matcher)

    def _measure(self, record: NormalizedRecord, matcher: CompiledMatcher) -> None:
        faults: list[RuleFault] = []
        try:
            considered = matcher.considered(record)
        except Exception:  # the matcher raised on it too, and had the reference judge it, which named the rule
            return
        # Whatever a sender makes candidates, a sample stays short.
        for rule in considered[:_MAX_CONSIDERED]:
            began = time.thread_time_ns()
            judge(rule, record, faults)
            spent_s = (time.thread_time_ns() - began) / 1e9
            self._seconds[rule.id] = self._seconds.get(rule.id, 0.0) + spent_s * self._every
        if len(self._seconds) > _MAX_RULES:
            for rule_id in sorted(self._seconds, key=self._seconds.__getitem__)[:-_KEPT]:
                del self._seconds[rule_id]
