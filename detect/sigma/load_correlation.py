"""Sigma correlations from YAML: time spans and aliases read by pySigma, conditions by us, references resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sigma.correlations import SigmaCorrelationRule as ParsedCorrelation

from detect.sigma.correlation_condition import MAX_SOURCES, alternatives_of, bounds_of
from detect.sigma.correlation_order import ResolvingOrder, circular
from detect.sigma.header import rule_header
from detect.sigma.identity import canonical_reference
from detect.sigma.refusal import RuleRefused
from detect.sigma.rule import (
    COUNTING_KINDS,
    Alternative,
    Bound,
    CorrelationKind,
    RuleError,
    SigmaCorrelation,
    SigmaRule,
    silenced_by,
)

_KINDS: dict[str, CorrelationKind] = {kind: kind for kind in get_args(CorrelationKind)}
_NANOSECONDS = 1_000_000_000
MAX_SPAN_SECONDS = 366 * 86_400
_KNOWN_KEYS = frozenset({"type", "rules", "group-by", "timespan", "condition", "aliases", "generate"})
_CONDITION_KEYS = frozenset({"gt", "gte", "lt", "lte", "eq", "neq", "field", "percentile"})


@dataclass(frozen=True, slots=True)
class ParsedCorrelationDocument:
    """A correlation whose references are still as written: names or ids."""

    header: SigmaCorrelation
    references: tuple[str, ...]
    aliases: Mapping[str, Mapping[str, str]]
    line: int


def parse_correlation(content: dict[str, Any], path: str, position: int, line: int) -> ParsedCorrelationDocument:
    """One correlation document. Raises RuleRefused or pySigma's errors."""
    header = rule_header(content, path, position)
    stated = content.get("correlation")
    if not isinstance(stated, dict):
        raise RuleRefused("`correlation` must be a YAML map", "correlation")
    if "generate" in content:  # the published schema has it here, the text of the specification below `correlation`
        stated = {"generate": content["generate"], **stated}
    if strange := sorted(map(str, stated.keys() - _KNOWN_KEYS)):
        raise RuleRefused(f"a correlation cannot have `{strange[0]}`", f"correlation.{strange[0]}")
    kind = _KINDS.get(str(stated.get("type")))
    if kind is None:
        reason = f"correlation type {stated.get('type')!r} is not supported; known are {', '.join(_KINDS)}"
        raise RuleRefused(reason, "correlation.type")
    references, bounds, alternatives = _condition(stated, kind)
    parsed = _parsed(content, stated, references)
    if parsed.timespan.seconds > MAX_SPAN_SECONDS:
        raise RuleRefused("the timespan is longer than a year", "correlation.timespan")
    correlation = SigmaCorrelation(
        **header,
        kind=kind,
        sources=(),
        span_ns=parsed.timespan.seconds * _NANOSECONDS,
        group_by=tuple(dict.fromkeys(parsed.group_by or ())),
        bounds=bounds,
        alternatives=alternatives,
        percentile=_percentile(stated, kind),
        value_fields=_value_fields(stated, kind),
        generate=bool(parsed.generate),
    )
    return ParsedCorrelationDocument(correlation, references, _aliases(parsed), line)


def _condition(
    stated: Mapping[str, Any], kind: CorrelationKind
) -> tuple[tuple[str, ...], tuple[Bound, ...], tuple[Alternative, ...]]:
    """The rules that the correlation names, and its condition in one of its two forms."""
    listed = _references(stated)
    condition = stated.get("condition")
    if isinstance(condition, str):
        if kind not in ("temporal", "temporal_ordered"):
            raise RuleRefused(f"a condition over rules belongs to temporal correlations, not to {kind}", "correlation")
        references, alternatives = alternatives_of(condition, listed)
        return references, (), alternatives
    if not listed:
        raise RuleRefused("a correlation must name at least one rule", "correlation.rules")
    if condition is None and kind in ("temporal", "temporal_ordered"):
        return listed, (Bound("gte", len(listed)),), ()
    if not isinstance(condition, dict):
        raise RuleRefused("a correlation must have a condition: a map of comparisons", "correlation.condition")
    if strange := sorted(map(str, condition.keys() - _CONDITION_KEYS)):
        raise RuleRefused(f"the condition cannot have {strange[0]!r}", "correlation.condition")
    return listed, bounds_of(condition, kind, len(listed)), ()


def _references(stated: Mapping[str, Any]) -> tuple[str, ...]:
    named = stated.get("rules")
    items = [named] if isinstance(named, str) else [] if named is None else named
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RuleRefused("`rules` must be the id or name of a rule, or a list of them", "correlation.rules")
    if len(items) > MAX_SOURCES:
        raise RuleRefused(f"a correlation cannot name more than {MAX_SOURCES} rules", "correlation.rules")
    if len(set(items)) < len(items):
        raise RuleRefused("a correlation cannot name the same rule twice", "correlation.rules")
    return tuple(items)


def _parsed(content: Mapping[str, Any], stated: Mapping[str, Any], references: tuple[str, ...]) -> Any:
    """The document as pySigma reads it, with a condition that it knows in place of ours."""
    condition = {"gte": 1, "field": "f"}
    plain = {**stated, "rules": list(references), "condition": condition}
    return ParsedCorrelation.from_dict(
        {**{key: value for key, value in content.items() if key != "tests"}, "correlation": plain}
    )


def _value_fields(stated: Mapping[str, Any], kind: CorrelationKind) -> tuple[str, ...]:
    condition = stated.get("condition")
    named = condition.get("field") if isinstance(condition, dict) else None
    fields = [named] if isinstance(named, str) else named
    if kind != "value_count" and kind in COUNTING_KINDS:
        if fields is not None:
            raise RuleRefused(f"a {kind} correlation counts no field", "correlation.condition")
        return ()
    if not fields or not isinstance(fields, list) or not all(isinstance(item, str) and item for item in fields):
        raise RuleRefused(f"a {kind} correlation must name the field whose values it is about", "correlation.condition")
    if kind != "value_count" and len(fields) > 1:
        raise RuleRefused(f"a {kind} correlation is about the numbers of one field", "correlation.condition")
    return tuple(fields)


def _percentile(stated: Mapping[str, Any], kind: CorrelationKind) -> float:
    condition = stated.get("condition")
    value = condition.get("percentile") if isinstance(condition, dict) else None
    if kind != "value_percentile":
        if value is not None:
            raise RuleRefused(f"a {kind} correlation has no percentile", "correlation.condition")
        return 50.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise RuleRefused("a value_percentile correlation needs `percentile`, from 0 to 100", "correlation.condition")
    return float(value)


def _aliases(parsed: Any) -> dict[str, dict[str, str]]:
    aliases: dict[str, dict[str, str]] = {}
    for alias in parsed.aliases:
        mapping = {str(reference.reference): field for reference, field in alias.mapping.items()}
        if not all(isinstance(field, str) for field in mapping.values()):
            raise RuleRefused(f"the alias {alias.alias!r} must map to names of fields", "correlation.aliases")
        aliases[str(alias.alias)] = mapping
    return aliases


def resolve_correlations(
    rules: Mapping[str, SigmaRule],
    parsed: Mapping[str, ParsedCorrelationDocument],
    errors: list[RuleError],
    warnings: list[RuleError],
) -> tuple[tuple[SigmaCorrelation, ...], frozenset[str]]:
    """The correlations in an order in which each follows those it refers to, and the ids of rules that stay silent.

    A rule that correlations refer to alerts alone only when all of them say `generate: true`.
    """
    names = _names(rules, parsed, warnings)
    targets = {key: [names.get(canonical_reference(r)) for r in item.references] for key, item in parsed.items()}
    inner = {
        key: [target for target in found if target is not None and target in parsed] for key, found in targets.items()
    }
    resolved: dict[str, SigmaCorrelation] = {}
    faulty: set[str] = set()
    order = ResolvingOrder(inner)
    for key in order:
        document = parsed[key]
        fault = None if None in targets[key] else _fault(document, names)
        if fault is not None:
            faulty.add(key)
            errors.append(RuleError(document.header.path, document.line, key, fault))
        if fault is not None or None in targets[key]:
            order.put_off(key)
        else:
            resolved[key] = _with_sources(document, names)
    waiting = {key: document for key, document in parsed.items() if key not in resolved and key not in faulty}
    circles = circular({key: [target for target in inner[key] if target in waiting] for key in waiting})
    errors += [_unresolved(document, names, waiting, circles) for document in waiting.values()]
    return tuple(resolved.values()), silenced_by(resolved.values())


def _names(
    rules: Mapping[str, SigmaRule], parsed: Mapping[str, ParsedCorrelationDocument], warnings: list[RuleError]
) -> dict[str, str]:
    """What a reference can be, an id or a name, and the id that it means. Of equal names the first loaded counts."""
    names = {key: key for key in (*rules, *parsed)}
    headers = [*rules.values(), *(document.header for document in parsed.values())]
    for header in headers:
        if header.name and names.setdefault(header.name, header.id) != header.id:
            reason = f"the name {header.name!r} is also that of {names[header.name]}, which references to it mean"
            warnings.append(RuleError(header.path, None, header.id, reason))
    return names


def _fault(document: ParsedCorrelationDocument, names: Mapping[str, str]) -> str | None:
    """What only shows once all names are known."""
    sources = {names[canonical_reference(reference)] for reference in document.references}
    if len(sources) < len(document.references):
        return "a correlation cannot name the same rule twice"
    for alias, mapping in document.aliases.items():
        for reference in mapping:
            if names.get(canonical_reference(reference)) not in sources:
                return f"the alias {alias!r} speaks of {reference!r}, which is not among the correlation's rules"
    return None


def _with_sources(document: ParsedCorrelationDocument, names: Mapping[str, str]) -> SigmaCorrelation:
    known = {reference: names[canonical_reference(reference)] for reference in document.references}
    return dataclasses.replace(
        document.header,
        sources=tuple(dict.fromkeys(known.values())),
        alternatives=tuple(
            Alternative(tuple(known[name] for name in item.present), tuple(known[name] for name in item.absent))
            for item in document.header.alternatives
        ),
        aliases={
            alias: {names[canonical_reference(reference)]: field for reference, field in mapping.items()}
            for alias, mapping in document.aliases.items()
        },
    )


def _unresolved(
    document: ParsedCorrelationDocument,
    names: Mapping[str, str],
    waiting: Mapping[str, ParsedCorrelationDocument],
    circles: Collection[str],
) -> RuleError:
    header = document.header
    missing = [reference for reference in document.references if canonical_reference(reference) not in names]
    stuck = [reference for reference in document.references if names.get(canonical_reference(reference)) in waiting]
    if missing:
        reason = f"refers to rules that are not loaded: {', '.join(missing)}"
    elif header.id in circles:
        reason = f"refers to itself, through {', '.join(stuck)}"
    else:
        reason = f"refers to correlations that cannot be resolved: {', '.join(stuck)}"
    return RuleError(header.path, document.line, header.id, reason)
