"""From pySigma's detections to our own expressions. Together with load.py the only place that knows pySigma."""

from __future__ import annotations

import re
from typing import Any, NoReturn, cast

from sigma.conditions import (
    ConditionAND,
    ConditionIdentifier,
    ConditionNOT,
    ConditionOR,
    ConditionSelector,
    SigmaCondition,
)
from sigma.modifiers import SigmaContainsModifier, SigmaEndswithModifier, SigmaStartswithModifier
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import RegexEngine, RegexPattern
from sigma.rule import SigmaDetection, SigmaDetectionItem
from sigma.rule.detection import SigmaDetections
from sigma.types import (
    CompareOperators,
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
    SpecialChars,
)

from detect.sigma.regex import BadRegex, compiled
from detect.sigma.syntax import (
    Atom,
    Expression,
    FieldReference,
    Not,
    Operator,
    Pattern,
    Regex,
    Segment,
    all_of,
    any_of,
)
from detect.sigma.values import text_of


class RuleRefused(ValueError):
    """A rule, or a part of one, that this engine does not run; the text says why."""


class ConditionRefused(RuleRefused):
    """A condition that speaks of something that is not there."""


class MissingPlaceholderValues(RuleRefused):
    """A rule with `expand` placeholders that have no values: correct, but inert until they are given."""


class _LinearEngine(RegexEngine):  # type: ignore[misc]  # mypy does not follow into pySigma
    """pySigma checks patterns with the engine that later runs them, whatever its own default is."""

    def compile(self, pattern: str, flags: int = 0) -> RegexPattern:
        letters = "".join(letter for letter, flag in _FLAG_LETTERS if flags & flag)
        return cast(RegexPattern, compiled(Regex(pattern, letters)))

    @property
    def error(self) -> type[Exception]:
        return BadRegex


_FLAG_LETTERS = (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL))
POLICY = SigmaPolicy(regex_engine=_LinearEngine())
_EDGE_MODIFIERS = {SigmaContainsModifier, SigmaStartswithModifier, SigmaEndswithModifier}
_COMPARISONS: dict[CompareOperators, Operator] = {
    CompareOperators.GT: "gt",
    CompareOperators.GTE: "gte",
    CompareOperators.LT: "lt",
    CompareOperators.LTE: "lte",
}


def expression_of(detections: SigmaDetections) -> Expression:
    """The rule's conditions as one expression; several conditions are alternatives. Raises RuleRefused, SigmaError."""
    parsed = [SigmaCondition(str(text), detections).parse(postprocess=False) for text in detections.condition]
    return any_of(tuple(_condition(tree, detections) for tree in parsed))


def _condition(tree: Any, detections: SigmaDetections) -> Expression:
    match tree:
        case ConditionIdentifier():
            detection = detections.detections.get(tree.identifier)
            if detection is None:
                raise ConditionRefused(f"the condition names {tree.identifier!r}, which is not defined")
            return detection_expression(detection)
        case ConditionSelector():
            return _selector(tree, detections)
        case ConditionNOT():
            return Not(_condition(tree.args[0], detections))
        case ConditionAND():
            return all_of(tuple(_condition(part, detections) for part in tree.args))
        case ConditionOR():
            return any_of(tuple(_condition(part, detections) for part in tree.args))
        case _:
            raise RuleRefused(f"a condition cannot hold {type(tree).__name__}")


def _selector(tree: ConditionSelector, detections: SigmaDetections) -> Expression:
    names = [identifier.identifier for identifier in tree.resolve_referenced_detections(detections)]
    if not names:
        raise ConditionRefused(f"'{tree.args[0]} of {tree.pattern}' names no detection")
    parts = tuple(detection_expression(detections.detections[name]) for name in names)
    return all_of(parts) if tree.cond_class is ConditionAND else any_of(parts)


def detection_expression(detection: SigmaDetection) -> Expression:
    """A named detection: its items are joined by "and" in a map and by "or" in a list."""
    parts = tuple(
        _item(item) if isinstance(item, SigmaDetectionItem) else detection_expression(item)
        for item in detection.detection_items
    )
    return all_of(parts) if detection.item_linking is ConditionAND else any_of(parts)


def _item(item: SigmaDetectionItem) -> Expression:
    if item.field is None and any(isinstance(value, SigmaNull) for value in item.value):
        raise RuleRefused("null cannot be sought as a keyword: name a field")
    # A keyword is found anywhere in a value unless a modifier says where it stands.
    anywhere = item.field is None and not _EDGE_MODIFIERS.intersection(item.modifiers)
    parts = tuple(_value(item.field, value, anywhere) for value in item.value)
    if not parts:
        parts = (Not(Atom(item.field, "present")),)
    expression = all_of(parts) if item.value_linking is ConditionAND else any_of(parts)
    return Not(expression) if item.negated else expression


def _value(field: str | None, value: Any, anywhere: bool) -> Expression:
    match value:
        case SigmaExpansion():
            return any_of(tuple(_value(field, item, anywhere) for item in value.values))
        case SigmaString():
            return _string_atom(field, value, anywhere)
        case SigmaNull() | SigmaExists():
            present = Atom(field, "present")
            return present if isinstance(value, SigmaExists) and value.exists else Not(present)
        case SigmaNumber() | SigmaBool() | SigmaCompareExpression():
            return _scalar_atom(field, value, anywhere)
        case SigmaRegularExpression():
            return _regex_atom(field, value)
        case SigmaCIDRExpression():
            return Atom(field, "cidr", str(value.network))
        case SigmaFieldReference():
            return _reference(field, value)
        case _:
            raise RuleRefused(f"values of type {type(value).__name__} are not supported")


def _scalar_atom(field: str | None, value: SigmaNumber | SigmaBool | SigmaCompareExpression, anywhere: bool) -> Atom:
    if isinstance(value, SigmaBool):
        return Atom(field, "contains" if anywhere else "equals", text_of(value.boolean))
    number = value.number if isinstance(value, SigmaCompareExpression) else value
    # A time part is a subclass of number: unrefused, the whole time stamp would be compared with the hour.
    if isinstance(number, SigmaTimestampPart):
        raise RuleRefused("the time modifiers minute, hour, day, week, month and year are not supported")
    if isinstance(value, SigmaCompareExpression):
        return _comparison(field, value)
    return Atom(None, "contains", text_of(value.number)) if anywhere else Atom(field, "number", value.number)


def _comparison(field: str | None, value: SigmaCompareExpression) -> Atom:
    operator = _COMPARISONS.get(value.op)
    if operator is None:
        raise RuleRefused(f"the comparison {value.op.name.lower()} is not supported")
    return Atom(field, operator, value.number.number)


def _reference(field: str | None, value: SigmaFieldReference) -> Expression:
    if field is None:
        raise RuleRefused("fieldref needs a field on its left")
    if value.starts_with and value.ends_with:
        return Atom(field, "fieldref", FieldReference(value.field, "contains"))
    if value.starts_with:
        return Atom(field, "fieldref", FieldReference(value.field, "startswith"))
    return Atom(field, "fieldref", FieldReference(value.field, "endswith" if value.ends_with else "equals"))


def _regex_atom(field: str | None, value: SigmaRegularExpression) -> Expression:
    if value.contains_placeholder():
        _refuse_placeholders(value.regexp)
    flags = "".join(sorted(SigmaRegularExpression.sigma_to_re_flag[flag] for flag in value.flags))
    regex = Regex(str(value.regexp), flags)
    try:
        compiled(regex)
    except BadRegex as error:
        raise RuleRefused(f"the regular expression {regex.pattern!r} is not supported: {error}") from error
    return Atom(field, "regex", regex)


def _refuse_placeholders(value: SigmaString) -> NoReturn:
    names = sorted({part.name for part in value.s if isinstance(part, Placeholder)})
    raise MissingPlaceholderValues("inert: no values are given for " + ", ".join(f"%{name}%" for name in names))


def _string_atom(field: str | None, value: SigmaString, anywhere: bool) -> Atom:
    if value.contains_placeholder():
        _refuse_placeholders(value)
    cased = isinstance(value, SigmaCasedString)
    segments = _segments(value, cased)
    if anywhere:
        segments = [(), *segments] if segments[0] else segments
        segments = [*segments, ()] if segments[-1] else segments
    if len(segments) == 1 and not segments[0]:
        return Atom(field, "contains" if anywhere else "equals", "", cased)
    literals = [segment[0] if len(segment) == 1 else None for segment in segments]
    match [segment and literal for segment, literal in zip(segments, literals, strict=True)]:
        case [str(literal)]:
            return Atom(field, "equals", literal, cased)
        case [(), ()]:
            return Atom(field, "present")
        case [(), str(literal)]:
            return Atom(field, "endswith", literal, cased)
        case [str(literal), ()]:
            return Atom(field, "startswith", literal, cased)
        case [(), str(literal), ()]:
            return Atom(field, "contains", literal, cased)
        case _:
            return Atom(field, "pattern", Pattern(tuple(segments)), cased)


def _segments(value: SigmaString, cased: bool) -> list[Segment]:
    """The value cut at its `*`; a run of `*` counts once, a run of `?` is a number."""
    segments: list[list[str | int]] = [[]]
    for part in value.s:
        if part is SpecialChars.WILDCARD_MULTI:
            if segments[-1] or len(segments) == 1:
                segments.append([])
        elif part is SpecialChars.WILDCARD_SINGLE:
            tail = segments[-1]
            if tail and isinstance(tail[-1], int):
                tail[-1] += 1
            else:
                tail.append(1)
        else:
            segments[-1].append(str(part) if cased else str(part).lower())
    return [tuple(segment) for segment in segments]
