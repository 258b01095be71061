"""What a correlation's condition asks: bounds of a number, or which rules must occur and which must not.

pySigma takes one comparison where the specification shows ranges (`gt: 100` with `lte: 200`), and names without
hyphens, which no id is; so conditions are read here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, get_args

from detect.sigma.condition_text import (
    BadCondition,
    Choice,
    Conjunction,
    Disjunction,
    Named,
    Negation,
    Tree,
    named_by,
    parsed_condition,
)
from detect.sigma.refusal import RuleRefused
from detect.sigma.rule import COUNTING_KINDS, Alternative, Bound, Comparison, CorrelationKind

MAX_COUNT = 100_000
MAX_CLOSING_COUNT = 9_000
"""Bounds of conditions that are judged when a window closes: such a group remembers 10,000 matches."""
MAX_ALTERNATIVES = 256
MAX_SOURCES = 100
_COMPARISONS: dict[str, Comparison] = {name: name for name in get_args(Comparison)}
_PLACE = "correlation.condition"


def bounds_of(stated: Mapping[str, Any], kind: CorrelationKind, sources: int) -> tuple[Bound, ...]:
    """The bounds of a condition map. Raises RuleRefused when they contradict each other, or nothing could meet them.

    `sources` is how many rules the correlation names.
    """
    bounds = tuple(
        Bound(_COMPARISONS[key], _number(value, kind)) for key, value in stated.items() if key in _COMPARISONS
    )
    if not bounds:
        raise _refused(f"the condition must compare with something: {', '.join(_COMPARISONS)}")
    return _of_counts(bounds, kind, sources) if kind in COUNTING_KINDS else _of_values(bounds)


def _number(value: object, kind: CorrelationKind) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise _refused(f"the correlation needs a number, not {repr(value)[:50]}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind in COUNTING_KINDS and not isinstance(value, int):
        raise _refused(f"the correlation needs a whole number, not {value}")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float comes near to
        return False


def _of_counts(bounds: tuple[Bound, ...], kind: CorrelationKind, sources: int) -> tuple[Bound, ...]:
    low, high, excluded = 0, sources if kind.startswith("temporal") else MAX_COUNT, set()
    upper = False
    for comparison, value in bounds:
        match comparison:
            case "gt" | "gte":
                low = max(low, int(value) + (comparison == "gt"))
            case "lt" | "lte":
                high, upper = min(high, int(value) - (comparison == "lt")), True
            case "eq":
                low, high, upper = max(low, int(value)), min(high, int(value)), True
            case "neq":
                excluded.add(int(value))
    if 0 in excluded and low == 0:
        low = 1
    excluded = {value for value in excluded if low <= value <= high}
    if low > high or high - low + 1 == len(excluded):
        raise _refused(_why_never(bounds, kind, sources))
    if high == 0:
        return (Bound("eq", 0),)
    if low == 0 and not upper and not excluded:
        raise _refused("every window meets the condition: the correlation's bound must lie between 1 and 100000")
    if (upper or excluded) and max(low, high if upper else 0, *excluded, 0) > MAX_CLOSING_COUNT:
        raise _refused(f"a condition that is judged when a window closes cannot ask for more than {MAX_CLOSING_COUNT}")
    return (
        *((Bound("gte", low),) if low else ()),
        *((Bound("lte", high),) if upper else ()),
        *(Bound("neq", value) for value in sorted(excluded)),
    )


def _why_never(bounds: tuple[Bound, ...], kind: CorrelationKind, sources: int) -> str:
    said = " and ".join(f"{comparison} {value}" for comparison, value in bounds)
    if kind.startswith("temporal"):
        return f"nothing can meet the condition ({said}): a {kind} correlation counts its rules, {sources} here"
    return f"nothing can meet the condition ({said}): counts lie between 0 and {MAX_COUNT}"


def _of_values(bounds: tuple[Bound, ...]) -> tuple[Bound, ...]:
    lows = [bound for bound in bounds if bound.comparison in ("gt", "gte", "eq")]
    highs = [bound for bound in bounds if bound.comparison in ("lt", "lte", "eq")]
    if lows and highs:
        low, high = max(bound.value for bound in lows), min(bound.value for bound in highs)
        open_end = any(bound.value == low and bound.comparison == "gt" for bound in lows) or any(
            bound.value == high and bound.comparison == "lt" for bound in highs
        )
        closed_out = low == high and Bound("neq", low) in bounds
        if low > high or (low == high and open_end) or closed_out:
            said = " and ".join(f"{comparison} {value}" for comparison, value in bounds)
            raise _refused(f"nothing can meet the condition ({said})")
    return bounds


def alternatives_of(text: str, references: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[Alternative, ...]]:
    """The rules of a condition over rules, in their order, and the alternatives that it comes to.

    `references` are the rules that the correlation lists; without any, the order is that of the condition. Raises
    RuleRefused.
    """
    try:
        tree = parsed_condition(text)
        named = tuple(dict.fromkeys(_names(tree, references or ())))
    except BadCondition as error:
        raise _refused(str(error)) from error
    listed = tuple(references or named)
    if len(listed) > MAX_SOURCES:
        raise _refused(f"a correlation cannot name more than {MAX_SOURCES} rules")
    if strange := [name for name in named if name not in listed]:
        raise _refused(f"the condition names {strange[0]!r}, which is not among the correlation's rules")
    if unused := [name for name in listed if name not in named]:
        raise _refused(f"the condition says nothing of {unused[0]!r}, which is among the correlation's rules")
    ways = [
        way for way in _ways(tree, listed, truth=True) if not any((name, False) in way for name, true in way if true)
    ]
    if not ways:
        raise _refused("nothing can meet the condition: it contradicts itself")
    if any(not any(true for _, true in way) for way in ways):
        raise _refused("the condition is met when nothing happens: name a rule that must occur, or use `eq: 0`")
    shortest = [way for way in ways if not any(other < way for other in ways)]
    found = dict.fromkeys(
        Alternative(
            tuple(name for name in listed if (name, True) in way),
            tuple(name for name in listed if (name, False) in way),
        )
        for way in shortest
    )
    return listed, tuple(found)


def _names(tree: Tree, listed: Iterable[str]) -> list[str]:
    match tree:
        case Named(name):
            return [name]
        case Choice():
            return named_by(tree, listed)
        case Negation(part):
            return _names(part, listed)
        case Conjunction(parts) | Disjunction(parts):
            return [name for part in parts for name in _names(part, listed)]


_Way = frozenset[tuple[str, bool]]


def _ways(tree: Tree, listed: Sequence[str], *, truth: bool) -> list[_Way]:
    """The disjunctive form of the tree, or of its negation."""
    match tree:
        case Named(name):
            return [frozenset({(name, truth)})]
        case Negation(part):
            return _ways(part, listed, truth=not truth)
        case Choice(every):
            parts: tuple[Tree, ...] = tuple(map(Named, named_by(tree, listed)))
            return _ways(Conjunction(parts) if every else Disjunction(parts), listed, truth=truth)
        case Conjunction(parts) | Disjunction(parts):
            each = [_ways(part, listed, truth=truth) for part in parts]
            if isinstance(tree, Conjunction) is truth:
                _bound(math.prod(map(len, each)))
                return [frozenset().union(*combination) for combination in product(*each)]
            _bound(sum(map(len, each)))
            return [way for ways in each for way in ways]


def _bound(number: int) -> None:
    if number > MAX_ALTERNATIVES:
        raise _refused(f"the condition comes to more than {MAX_ALTERNATIVES} alternatives")


def _refused(reason: str) -> RuleRefused:
    return RuleRefused(reason, _PLACE)
