"""What was masked, by rule, and what could not be: numbers only, never a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Undecodable(ValueError):
    """A body that is no OTLP logs request: to be answered 400."""


class MaskingTally:
    """Counts of one request or of a process. `rules` counts replaced values by the name of the rule that did it."""

    def __init__(self) -> None:
        self.records = 0
        self.records_failed = 0
        self.records_clear = 0
        self.rules: Counter[str] = Counter()
        self.last_failure = ""

    def record(self, hits: Iterable[str]) -> None:
        """One record was masked."""
        self.records += 1
        self.hits(hits)

    def hits(self, hits: Iterable[str]) -> None:
        """Values beside the records, in resources and scopes."""
        rules = self.rules
        for name in hits:  # Counter.update asks first what it is given, which takes longer than counting it
            rules[name] += 1

    def failed(self, error: Exception, *, closed: bool, records: int = 1) -> None:
        """Something could not be masked: stored without its content (closed) or in clear.

        Of the error only the kind is kept: its text may quote what was not to be seen.
        """
        self.records += records
        self.records_failed += 1
        self.records_clear += not closed
        self.last_failure = type(error).__name__

    def add(self, other: MaskingTally) -> None:
        """Adds another one's counts."""
        self.records += other.records
        self.records_failed += other.records_failed
        self.records_clear += other.records_clear
        self.rules.update(other.rules)
        self.last_failure = other.last_failure or self.last_failure

    def counts(self) -> dict[str, int]:
        """For status and metrics: records, records_failed, records_clear, and `rule:NAME` for every rule that hit."""
        own = {"records": self.records, "records_failed": self.records_failed, "records_clear": self.records_clear}
        return own | {f"rule:{name}": count for name, count in sorted(self.rules.items())}
