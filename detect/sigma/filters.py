"""Sigma filters: one condition that is added to many rules, for what a site knows to be harmless (Sigma 2.1, filters).

A rule that a filter applies to is true when its own condition and the filter's are: a filter that takes something away
says `condition: not selection`, as pySigma and the published examples have it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detect.record import Logsource
from detect.sigma.header import logsource_of, rule_header
from detect.sigma.identity import canonical_reference
from detect.sigma.placeholders import Lists
from detect.sigma.refusal import RuleRefused
from detect.sigma.rule import RuleError, SigmaRule
from detect.sigma.syntax import Expression, all_of
from detect.sigma.translate import condition_of


@dataclass(frozen=True, slots=True)
class SigmaFilter:
    """A filter document. `rules` are ids or names; None means every rule whose log source the filter's contains."""

    id: str
    version: str
    path: str
    line: int
    rules: tuple[str, ...] | None
    logsource: Logsource
    condition: Expression


def parse_filter(content: dict[str, Any], path: str, position: int, line: int, lists: Lists) -> SigmaFilter:
    """One filter document. Raises RuleRefused or pySigma's errors."""
    header = rule_header(content, path, position)
    section = content["filter"]
    if not isinstance(section, dict):
        raise RuleRefused("`filter` must be a YAML map", "filter")
    if not isinstance(section.get("condition"), str):
        raise RuleRefused("a filter must have exactly one condition", "filter.condition")
    parts = {key: value for key, value in section.items() if key != "rules"}
    return SigmaFilter(
        header["id"],
        header["version"],
        path,
        line,
        _references(section),
        logsource_of(content),
        condition_of(parts, lists, "filter"),
    )


def _references(section: Mapping[str, Any]) -> tuple[str, ...] | None:
    stated = section.get("rules")
    if isinstance(stated, str):
        return None if stated.lower() == "any" else (canonical_reference(stated),)
    if not isinstance(stated, list) or not all(isinstance(item, str) for item in stated):
        raise RuleRefused("a filter must name its rules: `any`, or ids or names of rules", "filter.rules")
    return tuple(map(canonical_reference, stated)) or None


def filtered(
    rules: Mapping[str, SigmaRule], filters: Sequence[SigmaFilter], warnings: list[RuleError]
) -> dict[str, SigmaRule]:
    """The rules with the filters that apply to them. References that lead nowhere are named in `warnings`."""
    by_name = {rule.name: rule_id for rule_id, rule in reversed(list(rules.items())) if rule.name}
    found = dict(rules)
    applied: dict[str, list[SigmaFilter]] = {}
    for item in filters:
        for rule_id in _targets(item, rules, by_name, warnings):
            applied.setdefault(rule_id, []).append(item)
    for rule_id, items in applied.items():
        found[rule_id] = _with(rules[rule_id], items)
    return found


def _targets(
    item: SigmaFilter, rules: Mapping[str, SigmaRule], by_name: Mapping[str, str], warnings: list[RuleError]
) -> list[str]:
    if item.rules is None:
        return [rule_id for rule_id, rule in rules.items() if _contains(item.logsource, rule.logsource)]
    targets = []
    for reference in item.rules:
        rule_id = reference if reference in rules else by_name.get(reference)
        if rule_id is None:
            reason = f"the filter names {reference!r}, which is no detection rule that is loaded"
        elif not _contains(item.logsource, rules[rule_id].logsource):
            reason = f"the filter names {reference!r}, but its log source is not that of the rule"
        else:
            targets.append(rule_id)
            continue
        warnings.append(RuleError(item.path, item.line, item.id, reason))
    return list(dict.fromkeys(targets))


def _contains(wide: Logsource, narrow: Logsource) -> bool:
    return all(not part or part == other for part, other in zip(wide, narrow, strict=True))


def _with(rule: SigmaRule, filters: Sequence[SigmaFilter]) -> SigmaRule:
    """Another version of the rule: what it says of a record has changed."""
    text = "\x1f".join((rule.version, *(item.version for item in filters)))
    return dataclasses.replace(
        rule,
        version=hashlib.sha256(text.encode()).hexdigest()[:12],
        condition=all_of((rule.condition, *(item.condition for item in filters))),
        filters=tuple(item.id for item in filters),
    )
