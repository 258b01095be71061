"""The rules' own language after parsing: a boolean expression over atoms, plain data without any parser's types.

An atom is true of a *text*. Every field value has one text (values.py), so an atom never sees a type: the number
4688 and the string "4688" are the same to it. Literals of atoms that ignore case are stored in lower case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Operator = Literal[
    "equals",
    "contains",
    "startswith",
    "endswith",
    "pattern",
    "regex",
    "cidr",
    "number",
    "gt",
    "gte",
    "lt",
    "lte",
    "present",
    "fieldref",
    "timepart",
]

Segment = tuple[str | int, ...]
"""A piece of a wildcard pattern without `*`: literal text, and whole numbers for that many `?`."""


class Pattern(NamedTuple):
    """A value with wildcards: the segments between its `*`. An empty first or last segment means an open end."""

    segments: tuple[Segment, ...]


class Regex(NamedTuple):
    """A regular expression in Python's syntax with the flags given by modifiers, a sorted subset of "ims"."""

    pattern: str
    flags: str


class FieldReference(NamedTuple):
    """The other field of a `fieldref` atom, and how the two texts are compared."""

    field: str
    mode: Literal["equals", "contains", "startswith", "endswith"]


class TimePart(NamedTuple):
    """A part of the time that a value writes, and how it is compared with a number."""

    part: Literal["minute", "hour", "day", "week", "month", "year"]
    comparison: Literal["equals", "gt", "gte", "lt", "lte"]
    number: int


AtomLiteral = str | int | float | Pattern | Regex | FieldReference | TimePart | None


@dataclass(frozen=True, slots=True)
class Atom:
    """One test: `field` None is a keyword, sought in the message and in every field. `present` has no literal."""

    field: str | None
    operator: Operator
    literal: AtomLiteral = None
    cased: bool = False


@dataclass(frozen=True, slots=True)
class And:
    """True when every part is; never empty."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True when some part is; never empty."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True when the part is not, a missing field included."""

    part: Expression


Expression = Atom | And | Or | Not


def all_of(parts: tuple[Expression, ...]) -> Expression:
    """The conjunction; a single part stands for itself."""
    return parts[0] if len(parts) == 1 else And(parts)


def any_of(parts: tuple[Expression, ...]) -> Expression:
    """The disjunction; a single part stands for itself."""
    return parts[0] if len(parts) == 1 else Or(parts)


def atoms(expression: Expression) -> Iterator[Atom]:
    """Every atom of the expression, left to right, repeats included."""
    match expression:
        case Atom():
            yield expression
        case Not(part):
            yield from atoms(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from atoms(part)
