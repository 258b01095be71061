"""What each rule costs: a rule is judged alone, by the reference matcher, on a sample of the records meant for it.

The real matcher judges all rules together and has no cost for one of them; alone, a rule shows whether it is dear.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from detect.record import Logsource, NormalizedRecord
from detect.sigma.logsource import applies
from detect.sigma.naive import judge
from detect.sigma.rule import SigmaRule

EVERY: Final = 1000
"""One record of so many is taken."""
MAX_ROUTES: Final = 1000


class CostSample:
    """The costs of some rules. `costs` has for each rule id how often it was judged, and for how many nanoseconds."""

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self.costs: dict[str, tuple[int, int]] = {}
        self._rules = rules
        self._routes: dict[Logsource, list[SigmaRule]] = {}
        self._warm: set[str] = set()
        self._passed = 0

    def add(self, record: NormalizedRecord) -> None:
        """Takes the record if it is one of the sample."""
        self._passed += 1
        if self._passed % EVERY != 1:
            return
        clock = time.perf_counter_ns
        for rule in self._meant(record.logsource):
            if rule.id not in self._warm:  # the first time also compiles its expressions
                self._warm.add(rule.id)
                judge(rule, record, [])
            began = clock()
            judge(rule, record, [])
            took = clock() - began
            count, total = self.costs.get(rule.id, (0, 0))
            self.costs[rule.id] = count + 1, total + took

    def take(self) -> dict[str, tuple[int, int]]:
        """The costs since the last call."""
        costs, self.costs = self.costs, {}
        return costs

    def _meant(self, logsource: Logsource) -> list[SigmaRule]:
        known = self._routes.get(logsource)
        if known is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            known = self._routes[logsource] = [rule for rule in self._rules if applies(rule.logsource, logsource)]
        return known
