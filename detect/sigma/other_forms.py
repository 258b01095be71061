"""Literals that records may hold in another form than the rules write them, as a source of a rule set.

Where hosts mask what they send, a record holds a token in the place of a name. Which token that is needs a key; so
whoever has the key writes the tokens down as one more source, below a path that no pack can have, and everybody who
loads the set by its digest judges by them: detectors, snapshots, replays and backups know nothing of keys. The place of
a literal is taken by all its forms, any of which may be met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from detect.sigma.overlay import OVERLAY_PREFIX, Sources
from detect.sigma.rule import RuleError, RuleSet, SigmaRule
from detect.sigma.syntax import And, Atom, AtomLiteral, Expression, Not, Operator, Or, Pattern, Regex, any_of, atoms

FORMS_PATH: Final = f"{OVERLAY_PREFIX}forms.json"

_Plain = str | int | float | list[list[str | int]]
LiteralKey = tuple[str | None, str, AtomLiteral, bool]


class LiteralForms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is looked for in the place of one literal of a field (None: of any). A pattern is a list of its segments.

    `lost` says why the literal has no other form: rules go on looking for it as it is written, and miss the others.
    """

    field: str | None
    operator: str
    literal: _Plain
    cased: bool = False
    forms: tuple[_Plain, ...] = ()
    lost: str = ""

    @property
    def key(self) -> LiteralKey:
        """By what the literal of an atom is found."""
        return self.field, self.operator, _literal(self.literal), self.cased


def literal_forms(atom: Atom, forms: Sequence[AtomLiteral], lost: str = "") -> LiteralForms:
    """The entry of an atom whose literal is a text, number, pattern or regular expression."""
    return LiteralForms(
        atom.field, atom.operator, _plain(atom.literal), atom.cased, tuple(_plain(form) for form in forms), lost
    )


def forms_source(found: Iterable[LiteralForms]) -> list[tuple[str, str]]:
    """The entries as a source, in an order that depends on nothing else; no source when there are none."""
    entries = sorted(msgspec.json.encode(entry).decode() for entry in found)
    return [(FORMS_PATH, f"[{','.join(entries)}]")] if entries else []


def take_forms(sources: Sources) -> tuple[list[LiteralForms], list[tuple[str, str]], list[RuleError]]:
    """The entries among the sources of a rule set, the other sources, and what is wrong with the entries."""
    others = [source for source in sources if source[0] != FORMS_PATH]
    for path, text in sources:
        if path == FORMS_PATH:
            try:
                return msgspec.json.decode(text, type=list[LiteralForms]), others, []
            except msgspec.DecodeError as error:
                return [], others, [RuleError(path, None, None, str(error))]
    return [], others, []


def with_forms(rules: RuleSet, found: Sequence[LiteralForms]) -> RuleSet:
    """The rules looking for every form; those with lost literals are named in `warnings`, with the reason."""
    if not found:
        return rules
    known = {entry.key: entry for entry in found}
    return replace(
        rules,
        rules=tuple(_widened(rule, known) for rule in rules.rules),
        warnings=(*rules.warnings, *(warning for rule in rules.rules for warning in _lost(rule, known))),
    )


def _widened(rule: SigmaRule, known: Mapping[LiteralKey, LiteralForms]) -> SigmaRule:
    condition = _expression(rule.condition, known)
    return rule if condition == rule.condition else replace(rule, condition=condition)


def _expression(expression: Expression, known: Mapping[LiteralKey, LiteralForms]) -> Expression:
    match expression:
        case Atom():
            found = known.get(key_of(expression))
            return expression if found is None or not found.forms else any_of(_atoms(expression, found))
        case Not(part):
            return Not(_expression(part, known))
        case And(parts):
            return And(tuple(_expression(part, known) for part in parts))
        case Or(parts):
            return Or(tuple(_expression(part, known) for part in parts))


def _atoms(atom: Atom, found: LiteralForms) -> tuple[Atom, ...]:
    literals = [_literal(form) for form in found.forms]
    return tuple(replace(atom, literal=literal, operator=_operator(atom, literal)) for literal in literals)


def _operator(atom: Atom, literal: AtomLiteral) -> Operator:
    """A number may have a text as another form, which is compared as a text."""
    return "equals" if atom.operator == "number" and isinstance(literal, str) else atom.operator


def _lost(rule: SigmaRule, known: Mapping[LiteralKey, LiteralForms]) -> Iterable[RuleError]:
    found = (known.get(key_of(atom)) for atom in atoms(rule.condition))
    for reason in dict.fromkeys(entry.lost for entry in found if entry is not None and entry.lost):
        yield RuleError(rule.path, None, rule.id, reason)


def key_of(atom: Atom) -> LiteralKey:
    """By what the literal of an atom is found among entries."""
    literal = atom.literal.pattern if isinstance(atom.literal, Regex) else atom.literal
    return atom.field, atom.operator, literal, atom.cased


def _plain(literal: AtomLiteral) -> _Plain:
    match literal:
        case Pattern(segments):
            return [list(segment) for segment in segments]
        case Regex(pattern):
            return pattern
        case str() | int() | float():
            return literal
        case _:
            raise TypeError(f"{type(literal).__name__} has no other forms")


def _literal(plain: _Plain) -> AtomLiteral:
    return Pattern(tuple(map(tuple, plain))) if isinstance(plain, list) else plain
