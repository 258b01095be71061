"""The contract of a matcher: which rules are true of one record. Two implementations must agree on every record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from detect.record import NormalizedRecord
from detect.sigma.rule import SigmaRule


class RuleMatch(msgspec.Struct, frozen=True):
    """A rule that is true of a record, and the fields and values that made it so."""

    rule: SigmaRule
    matched: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A rule that raised on a record: it counts as not true of it, and the other rules are judged all the same."""

    rule_id: str
    error: str


class RuleMatcher(Protocol):
    """Matches in the order of the rules. Never raises: a rule that does is reported by `take_faults`."""

    def match(self, record: NormalizedRecord) -> tuple[RuleMatch, ...]:
        """Every rule that is true of the record."""
        ...

    def take_faults(self) -> list[RuleFault]:
        """The faults since the last call, oldest first."""
        ...
