"""Checks of what a rule's condition means: conditions that are always or never true, and those that cost too much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

from detect.sigma.regex import compiled
from detect.sigma.regex_literals import required_texts
from detect.sigma.syntax import And, Atom, Expression, Not, Or, Regex, atoms
from detect.sigma.witness import WitnessChoice

MAX_TABLE_ATOMS: Final = 12
"""A truth table of more atoms is not looked at: such a condition is only judged by its parts."""
MAX_PROGRAM: Final = 5000
"""Instructions of RE2 beyond which a pattern is called huge."""


def condition_findings(condition: Expression) -> Iterator[tuple[str, str]]:
    """(check, text) of all that is to be said of a condition."""
    constant = constant_truth(condition)
    if constant is not None:
        yield ("always-true", "it says nothing") if constant else ("never-true", "it contradicts itself")
        return
    witnesses = WitnessChoice((condition,)).witnesses(condition)
    if witnesses is None:
        yield "slow-condition", "it only says what must not be, at least in one alternative"
    elif all(atom.operator == "present" for atom in witnesses):
        names = ", ".join(sorted({str(atom.field) for atom in witnesses}))
        yield "slow-condition", f"all that must be there is some value of {names}"
    for atom in dict.fromkeys(atoms(condition)):
        if isinstance(atom.literal, Regex):
            yield from _regex_findings(atom, atom.literal)


def _regex_findings(atom: Atom, regex: Regex) -> Iterator[tuple[str, str]]:
    shown = regex.pattern if len(regex.pattern) <= 80 else regex.pattern[:79] + "…"
    if not any(len(text) >= 2 for text in required_texts(regex)):
        place = "every text of a record" if atom.field is None else f"every value of {atom.field}"
        yield "slow-regex", f"{shown!r} has no literal text that must be there: it is run on {place}"
    if compiled(regex).programsize > MAX_PROGRAM:
        yield "huge-regex", f"{shown!r} needs {compiled(regex).programsize} instructions: avoid large repetitions"


def constant_truth(condition: Expression) -> bool | None:
    """Whether the condition has the same truth whatever its atoms say; None when it depends on them.

    Atoms are taken to be independent, except that an empty keyword is in every record, so the answer is sound: what
    is called constant is.
    """
    distinct = list(dict.fromkeys(atoms(condition)))
    known = {atom: True for atom in distinct if _is_everywhere(atom)}
    unknown = [atom for atom in distinct if atom not in known]
    if len(unknown) > MAX_TABLE_ATOMS:
        return _kleene(condition, known)
    first: bool | None = None
    for truths in product((False, True), repeat=len(unknown)):
        truth = _truth(condition, known | dict(zip(unknown, truths, strict=True)))
        if first is None:
            first = truth
        elif truth is not first:
            return None
    return first


def _is_everywhere(atom: Atom) -> bool:
    return atom.field is None and atom.operator == "contains" and atom.literal == ""


def _truth(expression: Expression, truths: Mapping[Atom, bool]) -> bool:
    match expression:
        case Atom():
            return truths[expression]
        case Not(part):
            return not _truth(part, truths)
        case And(parts):
            return all(_truth(part, truths) for part in parts)
        case Or(parts):
            return any(_truth(part, truths) for part in parts)


def _kleene(expression: Expression, known: Mapping[Atom, bool]) -> bool | None:
    match expression:
        case Atom():
            return known.get(expression)
        case Not(part):
            truth = _kleene(part, known)
            return None if truth is None else not truth
        case And(parts):
            truths = {_kleene(part, known) for part in parts}
            return False if False in truths else None if None in truths else True
        case Or(parts):
            truths = {_kleene(part, known) for part in parts}
            return True if True in truths else None if None in truths else False
