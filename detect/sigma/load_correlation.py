"""Sigma correlations from YAML: read by pySigma, checked for what can be judged soundly, references resolved.

A condition is accepted when it can only become true as matches arrive: lower bounds, and "and"/"or" over rules.
Upper bounds, `eq` and `not` speak of what did not happen by the end of a window, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sigma.correlations import (
    SigmaCorrelationCondition,
    SigmaCorrelationConditionOperator,
)
from sigma.correlations import SigmaCorrelationRule as ParsedCorrelation

from detect.sigma.rule import CorrelationKind, RuleError, SigmaCorrelation, SigmaRule
from detect.sigma.translate import RuleRefused

_KINDS: dict[str, CorrelationKind] = {kind: kind for kind in get_args(CorrelationKind)}
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ParsedCorrelationDocument:
    """A correlation whose references are still as written: names or ids."""

    header: SigmaCorrelation
    references: tuple[str, ...]
    aliases: Mapping[str, Mapping[str, str]]


def parse_correlation(
    content: dict[str, Any], path: str, header_of: Callable[[dict[str, Any], str], dict[str, Any]]
) -> ParsedCorrelationDocument:
    """One correlation document. Raises RuleRefused or pySigma's errors."""
    stated = content.get("correlation")
    if not isinstance(stated, dict):
        raise RuleRefused("`correlation` must be a YAML map")
    if not content.get("title"):
        raise RuleRefused("a rule must have a title")
    kind = _KINDS.get(str(stated.get("type")))
    if kind is None:
        raise RuleRefused(f"correlation type {stated.get('type')!r} is not supported; known are {', '.join(_KINDS)}")
    parsed = ParsedCorrelation.from_dict({key: value for key, value in content.items() if key != "tests"})
    if not isinstance(parsed.condition, SigmaCorrelationCondition):
        raise RuleRefused("correlation conditions over rule names are not supported: list the rules instead")
    references = tuple(reference.reference for reference in parsed.rules or ())
    if not references:
        raise RuleRefused("a correlation must name at least one rule")
    header = SigmaCorrelation(
        **header_of(content, path),
        kind=kind,
        sources=(),
        span_ns=parsed.timespan.seconds * _NANOSECONDS,
        group_by=tuple(parsed.group_by or ()),
        at_least=_lower_bound(parsed.condition),
        value_fields=_value_fields(parsed.condition),
        generate=bool(parsed.generate),
    )
    aliases = {
        alias.alias: {reference.reference: field for reference, field in alias.mapping.items()}
        for alias in parsed.aliases
    }
    return ParsedCorrelationDocument(header, references, aliases)


def _lower_bound(condition: SigmaCorrelationCondition) -> int:
    bound = condition.count
    if not isinstance(bound, int):
        raise RuleRefused(f"the correlation needs a whole number, not {bound}")
    match condition.op:
        case SigmaCorrelationConditionOperator.GTE:
            at_least = bound
        case SigmaCorrelationConditionOperator.GT:
            at_least = bound + 1
        case _:
            raise RuleRefused(
                f"`{condition.op.name.lower()}` can only be judged when a window closes, which is not supported: "
                "use gte or gt"
            )
    if not 1 <= at_least <= 100_000:
        raise RuleRefused(f"the correlation's bound must lie between 1 and 100000, not {at_least}")
    return at_least


def _value_fields(condition: SigmaCorrelationCondition) -> tuple[str, ...]:
    fields = condition.fieldref
    if fields is None:
        return ()
    return tuple(map(str, fields)) if isinstance(fields, list) else (str(fields),)


def resolve_correlations(
    rules: Mapping[str, SigmaRule], parsed: Mapping[str, ParsedCorrelationDocument], errors: list[RuleError]
) -> tuple[tuple[SigmaCorrelation, ...], frozenset[str]]:
    """The correlations in an order in which each follows those it refers to, and the ids of rules that stay silent.

    A rule that correlations refer to alerts alone only when all of them say `generate: true`.
    """
    names = {key: key for key in (*rules, *parsed)}
    for rule_id, rule in rules.items():
        names.setdefault(rule.name, rule_id)
    for rule_id, document in parsed.items():
        names.setdefault(document.header.name, rule_id)
    names.pop("", None)
    resolved: dict[str, SigmaCorrelation] = {}
    waiting = dict(parsed)
    while waiting:
        ready = [
            key
            for key, document in waiting.items()
            if all(names.get(r) in rules or names.get(r) in resolved for r in document.references)
        ]
        if not ready:
            break
        for key in ready:
            resolved[key] = _with_sources(waiting.pop(key), names)
    for document in waiting.values():
        errors.append(_unresolved(document, names))
    silent = {source for correlation in resolved.values() if not correlation.generate for source in correlation.sources}
    return tuple(resolved.values()), frozenset(silent)


def _with_sources(document: ParsedCorrelationDocument, names: Mapping[str, str]) -> SigmaCorrelation:
    header = document.header
    fields: dict[str, Any] = {name: getattr(header, name) for name in header.__dataclass_fields__}
    fields["sources"] = tuple(dict.fromkeys(names[reference] for reference in document.references))
    fields["aliases"] = {
        alias: {names.get(reference, reference): field for reference, field in mapping.items()}
        for alias, mapping in document.aliases.items()
    }
    return SigmaCorrelation(**fields)


def _unresolved(document: ParsedCorrelationDocument, names: Mapping[str, str]) -> RuleError:
    header = document.header
    missing = [reference for reference in document.references if reference not in names]
    reason = (
        f"refers to rules that are not loaded: {', '.join(missing)}"
        if missing
        else "refers to itself through other correlations, or to one that is not loaded"
    )
    return RuleError(header.path, None, header.id, reason)
