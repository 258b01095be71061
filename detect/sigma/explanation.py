"""What made a rule true, found from the atoms that are true instead of judging each again.

The same as `naive.explain`: the fields whose atoms were true, each with the value of the first such atom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from detect.record import NormalizedRecord
from detect.sigma.condition import Decide, decider
from detect.sigma.naive import literal_text, satisfying_texts, shown
from detect.sigma.syntax import And, Atom, Expression, Not, Or
from detect.sigma.values import text_of, value_of


@dataclass(frozen=True, slots=True)
class Explanation:
    """For every field the first true atom, in the order of the condition, and the keywords that were found."""

    fields: tuple[tuple[str, Atom], ...]
    keywords: tuple[str, ...]

    def of(self, record: NormalizedRecord) -> dict[str, Any]:
        """The values of a record that has this explanation."""
        matched: dict[str, Any] = {}
        fields = record.fields
        for field, atom in self.fields:
            value = fields.get(field)
            if type(value) is not str:
                value = self._text(field, atom, record)
            matched[field] = shown(value)
        if self.keywords:
            matched["keywords"] = list(self.keywords)
        return matched

    def _text(self, field: str, atom: Atom, record: NormalizedRecord) -> str:
        value = value_of(record, field)
        if isinstance(value, list | tuple | dict):
            text: str = next(iter(satisfying_texts(atom, record)))
            return text
        return text_of(value)


class Explainer:
    """Explains one rule, whose condition it has taken apart once."""

    def __init__(self, condition: Expression, numbers: Mapping[Atom, int]) -> None:
        self._collect = _collector(condition, numbers)

    def explain(self, truths: AbstractSet[int]) -> Explanation:
        """Why the condition is true when exactly these atoms are."""
        found: list[Atom] = []
        self._collect(truths, found)
        fields: dict[str, Atom] = {}
        keywords: dict[str, None] = {}
        for atom in found:
            if atom.field is None:
                keywords.setdefault(shown(literal_text(atom)))
            else:
                fields.setdefault(atom.field, atom)
        return Explanation(tuple(fields.items()), tuple(keywords))


Collect = Callable[[AbstractSet[int], list[Atom]], None]


def _collector(expression: Expression, numbers: Mapping[Atom, int]) -> Collect:
    """A function that lists the true atoms of an expression that is true, in order, those under a `not` left out."""
    match expression:
        case Atom():
            number = numbers[expression]
            return lambda truths, found: found.append(expression) if number in truths else None
        case Not():
            return lambda truths, found: None
        case And(parts) | Or(parts):
            if all(isinstance(part, Atom) for part in parts):
                return _flat_collector({numbers[part]: part for part in parts if isinstance(part, Atom)})
            return _deep_collector(
                [(decider(part, numbers), _collector(part, numbers)) for part in parts if not isinstance(part, Not)]
            )


def _flat_collector(atoms: Mapping[int, Atom]) -> Collect:
    own = frozenset(atoms)

    def collect(truths: AbstractSet[int], found: list[Atom]) -> None:
        if not own.isdisjoint(truths):
            found.extend(atom for number, atom in atoms.items() if number in truths)

    return collect


def _deep_collector(parts: Sequence[tuple[Decide, Collect]]) -> Collect:
    def collect(truths: AbstractSet[int], found: list[Atom]) -> None:
        for is_true, collect_part in parts:
            if is_true(truths):
                collect_part(truths, found)

    return collect
