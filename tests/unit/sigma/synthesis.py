"""From the expression of a rule to a record that it is true of, and to one that misses it by a single change.

The expression is solved: of each disjunction one part is chosen (and another when that leads nowhere), which leaves
tests that must hold and tests that must not; then for each field a value is built that meets its tests. What comes out
is judged by the reference, so a wrong answer is impossible; none at all is possible, and its reason is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import chain, islice, permutations, product
from typing import Any

from detect.record import FieldValue, NormalizedRecord
from detect.sigma.naive import holds
from detect.sigma.rule import SigmaRule
from detect.sigma.syntax import And, Atom, Expression, FieldReference, Not, Or, Pattern, Regex, Segment, TimePart
from detect.sigma.values import atom_holds, texts_of
from tests.unit.sigma.records import record
from tests.unit.sigma.regex_texts import texts_for

MOST_MODELS = 200
MOST_VALUES = 60
_GLUE = ("", " ", " x ", "-", "\\", "/", "zz")
_STRANGE = "\u00a4"

Demand = tuple[Atom, bool]
Fields = dict[str, FieldValue]


@dataclass(frozen=True, slots=True)
class Event:
    """A record's fields and the line that it is."""

    fields: Fields
    message: str = ""

    def of(self, rule: SigmaRule) -> NormalizedRecord:
        """The event as a record of the rule's log source."""
        return record(dict(self.fields), message=self.message, logsource=rule.logsource)


@dataclass(frozen=True, slots=True)
class Synthesised:
    """A rule's event and its near miss; one that could not be made is None and `reason` says why."""

    rule: SigmaRule
    positive: Event | None
    near_miss: Event | None
    reason: str = ""


def synthesise(rule: SigmaRule) -> Synthesised:
    """An event that the rule is true of and one that it is just not true of."""
    positive, demands = _positive(rule)
    if positive is None:
        return Synthesised(rule, None, None, "no event was found that meets the condition")
    near_miss = next((event for event in _misses(positive, demands) if not _true(rule, event)), None)
    if near_miss is None:
        near_miss = next(_solutions(rule, Not(rule.condition)), (None, ()))[0]
    reason = "" if near_miss is not None else "no event was found that the condition is not true of"
    return Synthesised(rule, positive, near_miss, reason)


def _true(rule: SigmaRule, event: Event) -> bool:
    return holds(rule.condition, event.of(rule))


def _positive(rule: SigmaRule) -> tuple[Event | None, Sequence[Demand]]:
    return next(_solutions(rule, rule.condition), (None, ()))


def _solutions(rule: SigmaRule, condition: Expression) -> Iterator[tuple[Event, Sequence[Demand]]]:
    for demands in islice(_models(condition, True), MOST_MODELS):
        event = _event(demands)
        if event is not None and holds(condition, event.of(rule)):
            yield event, demands


# --- which tests must hold ------------------------------------------------------------------------------------------


def _models(expression: Expression, wanted: bool) -> Iterator[tuple[Demand, ...]]:
    """Ways to make the expression true (or false), each as tests that must and must not hold."""
    match expression:
        case Atom():
            yield ((expression, wanted),)
        case Not(part):
            yield from _models(part, not wanted)
        case And(parts) if wanted:
            yield from _together(parts, wanted)
        case Or(parts) if not wanted:
            yield from _together(parts, wanted)
        case And(parts) | Or(parts):
            yield from _in_turn([_models(part, wanted) for part in parts])


def _in_turn(choices: Sequence[Iterator[tuple[Demand, ...]]]) -> Iterator[tuple[Demand, ...]]:
    """One of each choice in turn, so that a hopeless first choice does not use up all tries."""
    left = list(choices)
    while left:
        for choice in tuple(left):
            model = next(choice, None)
            if model is None:
                left.remove(choice)
            else:
                yield model


def _together(parts: Sequence[Expression], wanted: bool) -> Iterator[tuple[Demand, ...]]:
    firsts = [tuple(islice(_models(part, wanted), 12)) for part in parts]
    if not all(firsts):
        return
    yield tuple(chain.from_iterable(first[0] for first in firsts))
    for place, first in enumerate(firsts):
        for model in first[1:]:
            yield tuple(chain.from_iterable(model if i == place else other[0] for i, other in enumerate(firsts)))
    several = [first[:3] for first in firsts]
    for chosen in islice(product(*several), MOST_MODELS):
        yield tuple(chain.from_iterable(chosen))


# --- an event that meets them ---------------------------------------------------------------------------------------


def _event(demands: Sequence[Demand]) -> Event | None:
    by_field: dict[str | None, tuple[list[Atom], list[Atom]]] = {}
    references: list[tuple[str, FieldReference]] = []
    for atom, wanted in demands:
        if isinstance(atom.literal, FieldReference):
            if wanted and atom.field is not None:
                references.append((atom.field, atom.literal))
            continue
        by_field.setdefault(atom.field, ([], []))[0 if wanted else 1].append(atom)
    fields: Fields = {}
    message = ""
    for field, (wanted_atoms, unwanted) in by_field.items():
        if not wanted_atoms:
            continue
        value = next(islice(_values(wanted_atoms, unwanted), 1), None)
        if value is None:
            return None
        if field is None:
            message = value if isinstance(value, str) else "\n".join(map(str, texts_of(value)))
        else:
            fields[field] = value
    for field, reference in references:
        known = next(texts_of(fields.get(reference.field, fields.get(field))), "same")
        fields.setdefault(field, known)
        fields.setdefault(reference.field, known)
    return Event(fields, message)


def _values(wanted: Sequence[Atom], unwanted: Sequence[Atom]) -> Iterator[FieldValue]:
    """Values that every wanted test is true of and no unwanted one: one text, or several in a list."""
    for text in islice(_texts(wanted), MOST_VALUES):
        if all(atom_holds(atom, text) for atom in wanted) and not any(atom_holds(atom, text) for atom in unwanted):
            yield text
    listed: list[FieldValue] = []
    for atom in dict.fromkeys(wanted):
        fitting = (text for text in _texts([atom]) if atom_holds(atom, text))
        allowed = (text for text in islice(fitting, MOST_VALUES) if not any(atom_holds(a, text) for a in unwanted))
        chosen = next(allowed, None)
        if chosen is None:
            return
        listed.append(chosen)
    yield listed


def _texts(wanted: Sequence[Atom]) -> Iterator[str]:
    """Texts that may meet all tests: the pieces that they ask for, in one order or another, with something between."""
    starts = max((str(a.literal) for a in wanted if a.operator == "startswith"), key=len, default="")
    ends = max((str(a.literal) for a in wanted if a.operator == "endswith"), key=len, default="")
    whole = [a for a in wanted if a.operator in ("equals", "number", "gt", "gte", "lt", "lte", "cidr", "timepart")]
    for atom in whole:
        yield from _whole(atom)
    if whole:
        return
    if all(atom.operator == "present" for atom in wanted):
        # Each field its own text, so that they differ where they must.
        yield from (str(wanted[0].field or "x").lower(), "x")
        return
    pieces: list[list[str]] = []
    for atom in wanted:
        if atom.operator == "contains" and str(atom.literal) not in starts + ends:
            pieces.append([str(atom.literal)])
        elif isinstance(atom.literal, Pattern):
            pieces.append([_filled(atom.literal, glue) for glue in ("", " x ")])
        elif isinstance(atom.literal, Regex):
            pieces.append(list(islice(texts_for(atom.literal), 6)) or [""])
    variants = max((len(piece) for piece in pieces), default=1)
    orders = permutations(range(len(pieces))) if len(pieces) < 5 else [tuple(range(len(pieces)))]
    for order, variant, glue in product(list(orders), range(variants), _GLUE):
        chosen = [pieces[place][min(variant, len(pieces[place]) - 1)] for place in order]
        text = glue.join(part for part in (starts, *chosen, ends) if part)
        yield text
        if starts and text.startswith(starts) and ends and starts.endswith(ends):
            yield starts
        if not starts and not ends:
            yield from (f"x{text}", f"{text}x", f"x{text}x")
        elif not starts or not ends:
            yield f"x{text}" if ends else f"{text}x"


def _whole(atom: Atom) -> Iterator[str]:
    literal: Any = atom.literal
    if isinstance(literal, TimePart):
        yield from _moments(literal)
    elif atom.operator == "cidr":
        network = ip_network(literal)
        yield from (str(network[0]), str(network[-1]), str(network[min(1, network.num_addresses - 1)]))
    elif atom.operator == "equals":
        yield str(literal)
    else:
        step = {"gt": 1, "lt": -1}.get(atom.operator, 0)
        yield from (str(literal + step), str(literal), str(literal + 10 * step))


def _moments(part: TimePart) -> Iterator[str]:
    for day in range(0, 372, 3):
        yield f"2026-{1 + day // 31:02}-{1 + day % 28:02}T{day % 24:02}:{day * 7 % 60:02}:00Z"
    for number in range(part.number - 1, part.number + 2):
        shown = {"minute": 0, "hour": 0, "day": 1, "month": 1, "year": 2026} | {part.part: max(number, 0)}
        yield "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z".format(**shown)


def _filled(pattern: Pattern, glue: str) -> str:
    return glue.join(_segment(segment) for segment in pattern.segments)


def _segment(segment: Segment) -> str:
    return "".join(piece if isinstance(piece, str) else "x" * piece for piece in segment)


# --- an event that just misses ---------------------------------------------------------------------------------------


def _misses(event: Event, demands: Sequence[Demand]) -> Iterator[Event]:
    """The event with one value spoilt: first by one character in the middle of what was asked for, then by its lack."""
    for atom, wanted in demands:
        if not wanted:
            continue
        if atom.field is None:
            yield Event(event.fields, _spoilt(event.message, atom))
        elif isinstance(value := event.fields.get(atom.field), str):
            yield Event({**event.fields, atom.field: _spoilt(value, atom)}, event.message)
    for name in event.fields:
        yield Event({key: value for key, value in event.fields.items() if key != name}, event.message)
    if event.message:
        yield Event(event.fields, "")
    # What is forbidden is there all the same.
    for atom, wanted in demands:
        if not wanted and atom.field is not None and not isinstance(atom.literal, FieldReference):
            for value in islice(_values([atom], []), 2):
                yield Event({**event.fields, atom.field: value}, event.message)


def _spoilt(text: str, atom: Atom) -> str:
    literal = atom.literal
    if isinstance(literal, Pattern):
        literal = max((p for s in literal.segments for p in s if isinstance(p, str)), key=len, default="")
    place = text.lower().find(str(literal).lower()) if isinstance(literal, str) and literal else 0
    middle = max(place, 0) + (len(literal) // 2 if isinstance(literal, str) else len(text) // 2)
    return f"{text[:middle]}{_STRANGE}{text[middle + 1 :]}"
