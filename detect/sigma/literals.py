"""Values of detection items as atoms: texts with their wildcards, and what pySigma makes of all other values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sigma.types import (
    CompareOperators,
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

from detect.sigma.modifiers import POSITIONS, TIME_PARTS
from detect.sigma.refusal import RuleRefused
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
    TimePart,
    any_of,
)
from detect.sigma.values import text_of

MAX_REGEX_CHARACTERS = 10_000
_COMPARISONS: dict[CompareOperators, Any] = {
    CompareOperators.GT: "gt",
    CompareOperators.GTE: "gte",
    CompareOperators.LT: "lt",
    CompareOperators.LTE: "lte",
}
# A backslash escapes only `*`, `?` and itself; before anything else it stands for itself.
_PIECE = re.compile(r"\\([*?\\])|([*?])|([^\\*?]+|\\)", re.DOTALL)
_WILDCARDS = {"*": SpecialChars.WILDCARD_MULTI, "?": SpecialChars.WILDCARD_SINGLE}


def text_atom(field: str | None, modifiers: Sequence[str], text: str) -> Atom:
    """A text with at most the modifiers contains, startswith, endswith and cased."""
    parts: list[Any] = [
        _WILDCARDS[wildcard] if wildcard else escaped or plain for escaped, wildcard, plain in _PIECE.findall(text)
    ]
    if "contains" in modifiers or "endswith" in modifiers:
        parts.insert(0, SpecialChars.WILDCARD_MULTI)
    if "contains" in modifiers or "startswith" in modifiers:
        parts.append(SpecialChars.WILDCARD_MULTI)
    return _string_atom(field, parts, _is_sought(field, modifiers), cased="cased" in modifiers)


def _is_sought(field: str | None, modifiers: Sequence[str]) -> bool:
    """A keyword is found anywhere in a value unless a modifier says where it stands."""
    return field is None and POSITIONS.isdisjoint(modifiers)


def value_expression(field: str | None, value: Any, modifiers: Sequence[str], *, cased: bool = False) -> Expression:
    """One value as pySigma understood it. Raises RuleRefused for what cannot be judged."""
    sought = _is_sought(field, modifiers)
    match value:
        case SigmaExpansion():
            return any_of(tuple(value_expression(field, item, modifiers, cased=cased) for item in value.values))
        case SigmaString():
            return _string_atom(field, value.s, sought, cased=isinstance(value, SigmaCasedString))
        case SigmaNull() | SigmaExists():
            present = Atom(field, "present")
            return present if isinstance(value, SigmaExists) and value.exists else Not(present)
        case SigmaBool():
            return Atom(field, "contains" if sought else "equals", text_of(value.boolean))
        case SigmaCompareExpression():
            comparison = _COMPARISONS[value.op]
            return _compared(field, comparison, value.number)
        case SigmaNumber():
            return Atom(None, "contains", text_of(value.number)) if sought else _compared(field, "number", value)
        case SigmaRegularExpression():
            return _regex_atom(field, value)
        case SigmaCIDRExpression():
            return Atom(field, "cidr", str(value.network))
        case SigmaFieldReference():
            return _reference(field, value, cased=cased)
        case _:
            raise RuleRefused(f"values of type {type(value).__name__} are not supported")


def _compared(field: str | None, comparison: Any, number: SigmaNumber) -> Atom:
    # A time part is a subclass of number: taken for one, the whole time stamp would be compared with the hour.
    if not isinstance(number, SigmaTimestampPart):
        operator: Operator = comparison
        return Atom(field, operator, number.number)
    part: Any = number.timestamp_part.name.lower()
    low, high = TIME_PARTS[part]
    if not low <= number.number <= high:
        raise RuleRefused(f"{part!r} lies between {low} and {high}, so it can never be compared with {number.number}")
    return Atom(
        field, "timepart", TimePart(part, "equals" if comparison == "number" else comparison, int(number.number))
    )


def _reference(field: str | None, value: SigmaFieldReference, *, cased: bool) -> Atom:
    mode: Any = "equals"
    if value.starts_with or value.ends_with:
        both = value.starts_with and value.ends_with
        mode = "contains" if both else "startswith" if value.starts_with else "endswith"
    return Atom(field, "fieldref", FieldReference(value.field, mode), cased)


def _regex_atom(field: str | None, value: SigmaRegularExpression) -> Atom:
    flags = "".join(sorted(SigmaRegularExpression.sigma_to_re_flag[flag] for flag in value.flags))
    regex = Regex(str(value.regexp), flags)
    if len(regex.pattern) > MAX_REGEX_CHARACTERS:
        raise RuleRefused(f"the regular expression is longer than {MAX_REGEX_CHARACTERS} characters")
    try:
        compiled(regex)
    except BadRegex as error:
        raise RuleRefused(f"the regular expression {regex.pattern!r} is not supported: {error}") from error
    return Atom(field, "regex", regex)


def _string_atom(field: str | None, parts: Iterable[Any], sought: bool, *, cased: bool) -> Atom:
    segments = _segments(parts, cased)
    if sought:
        segments = [(), *segments] if segments[0] else segments
        segments = [*segments, ()] if segments[-1] else segments
    if len(segments) == 1 and not segments[0]:
        return Atom(field, "contains" if sought else "equals", "", cased)
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


def _segments(parts: Iterable[Any], cased: bool) -> list[Segment]:
    """The value cut at its `*`; a run of `*` counts once, a run of `?` is a number."""
    segments: list[list[str | int]] = [[]]
    for part in parts:
        tail = segments[-1]
        if part is SpecialChars.WILDCARD_MULTI:
            if tail or len(segments) == 1:
                segments.append([])
        elif part is SpecialChars.WILDCARD_SINGLE:
            if tail and isinstance(tail[-1], int):
                tail[-1] += 1
            else:
                tail.append(1)
        else:
            text = str(part)
            if tail and isinstance(tail[-1], str):
                tail[-1] += text
            else:
                tail.append(text)
    if cased:
        return [tuple(segment) for segment in segments]
    # Lowered as a whole: what becomes of a letter can depend on its neighbours.
    return [tuple(piece.lower() if isinstance(piece, str) else piece for piece in segment) for segment in segments]
