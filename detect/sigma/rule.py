"""What a loaded rule set is: detection rules, correlations, and every document that could not be loaded, named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from detect.event import Severity
from detect.fold import FoldWindow
from detect.record import Logsource, Nanoseconds
from detect.sigma.syntax import Expression

CorrelationKind = Literal[
    "event_count",
    "value_count",
    "temporal",
    "temporal_ordered",
    "value_sum",
    "value_avg",
    "value_median",
    "value_percentile",
]
Comparison = Literal["gt", "gte", "lt", "lte", "eq", "neq"]


@dataclass(frozen=True, slots=True)
class RuleError:
    """A document that is not in force, and why. `line` counts from 1 in the source at `path`."""

    path: str
    line: int | None
    rule_id: str | None
    reason: str

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.reason}" if self.rule_id is None else f"{place}: rule {self.rule_id}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleHeader:
    """What detection rules and correlations have in common.

    `version` is a short digest of the document without its tests. Author and licence stay with the rule because
    the Detection Rule License asks that matches name them. `tags` are the author's own words.
    """

    id: str
    name: str
    version: str
    path: str
    title: str
    description: str
    level: Severity
    status: str
    author: str
    license: str
    references: tuple[str, ...]
    falsepositives: tuple[str, ...]
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaRule(RuleHeader):
    """A detection rule: where its records come from (empty parts match all) and what must be true of one.

    `filters` are the ids of the Sigma filters whose conditions have become part of `condition`.
    """

    logsource: Logsource
    condition: Expression
    filters: tuple[str, ...] = ()


class Bound(NamedTuple):
    """What a correlation's measure must compare to."""

    comparison: Comparison
    value: int | float


class Alternative(NamedTuple):
    """One way to meet a condition over rules: sources that must occur and sources that must not, in their order."""

    present: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaCorrelation(RuleHeader):
    """A correlation over the matches of `sources` (ids of rules or of other correlations) within `span_ns`.

    It is met when its measure meets all `bounds`, or else one of the `alternatives` (temporal kinds only). The measure
    is the number of matches (event_count), of distinct values of `value_fields` (value_count), of distinct sources
    (temporal), of sources in their order (temporal_ordered), or the sum, average, median or `percentile` (0 to 100)
    of the numbers in the field. `aliases` maps a group-by name to the field it means in each source.
    """

    kind: CorrelationKind
    sources: tuple[str, ...]
    span_ns: Nanoseconds
    group_by: tuple[str, ...]
    bounds: tuple[Bound, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    percentile: float = 0.0
    value_fields: tuple[str, ...] = ()
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    generate: bool = False

    @property
    def closes(self) -> bool:
        """Whether it can only be judged when time has passed: more matches could still unmake what is true so far."""
        if self.alternatives:
            return any(alternative.absent for alternative in self.alternatives)
        return any(bound.comparison not in ("gt", "gte") for bound in self.bounds)

    @property
    def awaits_silence(self) -> bool:
        """Whether it is met by the absence of all its matches."""
        return self.bounds == (Bound("eq", 0),) and self.kind in COUNTING_KINDS

    @property
    def at_least(self) -> int | float | None:
        """The highest lower bound: of counts a whole number that is enough. None where there is no lower bound."""
        lows = [bound for bound in self.bounds if bound.comparison in ("gt", "gte")]
        if self.kind in COUNTING_KINDS:
            return max((bound.value + (bound.comparison == "gt") for bound in lows), default=None)
        return max((bound.value for bound in lows), default=None)


def silenced_by(correlations: Iterable[SigmaCorrelation]) -> frozenset[str]:
    """The rules that feed these correlations without alerting: all that some of them does not `generate` for."""
    return frozenset(
        source for correlation in correlations if not correlation.generate for source in correlation.sources
    )


COUNTING_KINDS: frozenset[CorrelationKind] = frozenset({"event_count", "value_count", "temporal", "temporal_ordered"})


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in force, in the order of their paths. `digest` names the sources, so equal digests judge alike.

    `correlations` come after the correlations they refer to. `silent` rules feed correlations and never alert.
    `warnings` speak of documents that are in force and perhaps not what their author meant. `folds` says how events of
    a rule are folded, and `fold` how those of all others are.
    """

    digest: str
    rules: tuple[SigmaRule, ...]
    correlations: tuple[SigmaCorrelation, ...]
    errors: tuple[RuleError, ...]
    silent: frozenset[str] = frozenset()
    warnings: tuple[RuleError, ...] = ()
    fold: FoldWindow | None = None
    folds: Mapping[str, FoldWindow] = field(default_factory=dict)

    def fold_of(self, rule_id: str) -> FoldWindow | None:
        """How events of a rule are folded; None when each is written."""
        window = self.folds.get(rule_id, self.fold)
        return window if window is not None and window.seconds else None
