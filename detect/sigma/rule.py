"""What a loaded rule set is: detection rules, correlations, and every document that could not be loaded, named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from detect.event import Severity
from detect.record import Logsource, Nanoseconds
from detect.sigma.syntax import Expression

CorrelationKind = Literal["event_count", "value_count", "temporal", "temporal_ordered"]


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
    the Detection Rule License asks that matches name them.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaRule(RuleHeader):
    """A detection rule: where its records come from (empty parts match all) and what must be true of one."""

    logsource: Logsource
    condition: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaCorrelation(RuleHeader):
    """A correlation over the matches of `sources` (ids of rules or of other correlations) within `span_ns`.

    It is met at `at_least` matches (event_count), distinct values of `value_fields` (value_count) or distinct
    sources (temporal, temporal_ordered). `aliases` maps a group-by name to the field it means in each source.
    """

    kind: CorrelationKind
    sources: tuple[str, ...]
    span_ns: Nanoseconds
    group_by: tuple[str, ...]
    at_least: int
    value_fields: tuple[str, ...] = ()
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    generate: bool = False


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in force, in the order of their paths. `digest` names the sources, so equal digests judge alike.

    `correlations` come after the correlations they refer to. `silent` rules feed correlations and never alert.
    """

    digest: str
    rules: tuple[SigmaRule, ...]
    correlations: tuple[SigmaCorrelation, ...]
    errors: tuple[RuleError, ...]
    silent: frozenset[str] = frozenset()
