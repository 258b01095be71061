"""The rules of a hunt: which are loaded, which are told, which only feed correlations, and their matcher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from detect.event import Severity, severity_rank
from detect.sigma.rule import RuleHeader, RuleSet


class RuleChoice(msgspec.Struct, frozen=True):
    """Which of the loaded rules are told. Ids and tags may hold `*` and `?`; case does not matter.

    Empty parts choose everything; `exclude` wins over all others. Rules that only feed chosen correlations are
    judged, and not told.
    """

    level: Severity = "informational"
    tags: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, rule: RuleHeader) -> bool:
        """Whether the rule is chosen."""
        if severity_rank(rule.level) < severity_rank(self.level) or _is_named(rule, self.exclude):
            return False
        if self.include and not _is_named(rule, self.include):
            return False
        if self.statuses and rule.status.lower() not in self.statuses:
            return False
        tags = [tag.lower() for tag in rule.tags]
        return not self.tags or any(fnmatchcase(tag, pattern.lower()) for tag in tags for pattern in self.tags)


def _is_named(rule: RuleHeader, patterns: Sequence[str]) -> bool:
    names = [name.lower() for name in (rule.id, rule.name) if name]
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)


def chosen(rules: RuleSet, choice: RuleChoice, *, correlate: bool) -> RuleSet:
    """The rule set reduced to what is chosen and what that needs; what is only needed is silent.

    Without `correlate` there are no correlations, and rules that only feed some are not needed.
    """
    told = {rule.id for rule in (*rules.rules, *rules.correlations) if choice.takes(rule)} - rules.silent
    if not correlate:
        told -= {rule.id for rule in rules.correlations}
    needed = set(told)
    for correlation in reversed(rules.correlations):  # what a correlation refers to comes before it
        if correlation.id in needed:
            needed.update(correlation.sources)
    return dataclasses.replace(
        rules,
        rules=tuple(rule for rule in rules.rules if rule.id in needed),
        correlations=tuple(rule for rule in rules.correlations if rule.id in needed),
        silent=frozenset(needed - told),
    )
