"""Conditions as functions over the atoms that are true, and what is left of one when some atoms are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from detect.sigma.syntax import And, Atom, Expression, Not, Or, all_of, any_of

Decide = Callable[[AbstractSet[int]], bool]


def decider(expression: Expression, numbers: Mapping[Atom, int]) -> Decide:
    """The expression as a function of the numbers of the atoms that are true."""
    match expression:
        case Atom():
            number = numbers[expression]
            return lambda truths: number in truths
        case Not(part):
            inner = decider(part, numbers)
            return lambda truths: not inner(truths)
        case And(parts):
            return _conjunction(parts, numbers)
        case Or(parts):
            return _disjunction(parts, numbers)


def _conjunction(parts: tuple[Expression, ...], numbers: Mapping[Atom, int]) -> Decide:
    required = frozenset(numbers[part] for part in parts if isinstance(part, Atom))
    others = tuple(decider(part, numbers) for part in parts if not isinstance(part, Atom))
    if not others:
        return lambda truths: required <= truths
    if len(others) > 1:
        return lambda truths: required <= truths and all(decide(truths) for decide in others)
    [only] = others  # the usual case, without the cost of a generator
    return lambda truths: required <= truths and only(truths)


def _disjunction(parts: tuple[Expression, ...], numbers: Mapping[Atom, int]) -> Decide:
    accepted = frozenset(numbers[part] for part in parts if isinstance(part, Atom))
    others = tuple(decider(part, numbers) for part in parts if not isinstance(part, Atom))
    if not others:
        return lambda truths: not accepted.isdisjoint(truths)
    if not accepted and len(others) > 1:
        return lambda truths: any(decide(truths) for decide in others)
    return lambda truths: not accepted.isdisjoint(truths) or any(decide(truths) for decide in others)


def remaining(expression: Expression, known: Mapping[Atom, bool]) -> Expression | bool:
    """What is left to decide when some atoms are known: a smaller expression, or the answer."""
    match expression:
        case Atom():
            answer = known.get(expression)
            return expression if answer is None else answer
        case Not(part):
            left = remaining(part, known)
            return not left if isinstance(left, bool) else Not(left)
        case And(parts):
            return _left_of(parts, known, decisive=False)
        case Or(parts):
            return _left_of(parts, known, decisive=True)


def at_best(expression: Expression, answered: AbstractSet[Atom], *, best: bool = True) -> Expression | bool:
    """What can become of an expression of which only some atoms are answered: true wherever it can be made true.

    With `best` False the opposite: false wherever it can be made false.
    """
    match expression:
        case Atom():
            return expression if expression in answered else best
        case Not(part):
            left = at_best(part, answered, best=not best)
            return not left if isinstance(left, bool) else Not(left)
        case And(parts):
            return _joined((at_best(part, answered, best=best) for part in parts), decisive=False)
        case Or(parts):
            return _joined((at_best(part, answered, best=best) for part in parts), decisive=True)


def _left_of(parts: tuple[Expression, ...], known: Mapping[Atom, bool], *, decisive: bool) -> Expression | bool:
    """Of alternatives one that is true decides, of a conjunction one that is false."""
    return _joined((remaining(part, known) for part in parts), decisive=decisive)


def _joined(parts: Iterable[Expression | bool], *, decisive: bool) -> Expression | bool:
    open_parts: list[Expression] = []
    for left in parts:
        if isinstance(left, bool):
            if left is decisive:
                return decisive
        else:
            open_parts.append(left)
    if not open_parts:
        return not decisive
    return any_of(tuple(open_parts)) if decisive else all_of(tuple(open_parts))
