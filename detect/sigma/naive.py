"""The reference matcher: it walks every rule's expression over the record, with no index and no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detect.record import NormalizedRecord
from detect.sigma.logsource import applies
from detect.sigma.match import RuleFault, RuleMatch
from detect.sigma.rule import SigmaRule
from detect.sigma.syntax import And, Atom, Expression, FieldReference, Not, Or
from detect.sigma.values import atom_holds, reference_holds, searchable_texts, text_of, texts_of, value_of

MAX_MATCHED_CHARACTERS = 1000


class NaiveMatcher:
    """Clear and slow: the other matchers are tested against it."""

    def __init__(self, rules: Sequence[SigmaRule]) -> None:
        self._rules = tuple(rules)
        self._faults: list[RuleFault] = []

    def match(self, record: NormalizedRecord) -> tuple[RuleMatch, ...]:
        """Every rule that is true of the record, in the order of the rules."""
        found = []
        for rule in self._rules:
            if applies(rule.logsource, record.logsource):
                match = judge(rule, record, self._faults)
                if match is not None:
                    found.append(match)
        return tuple(found)

    def take_faults(self) -> list[RuleFault]:
        """The faults since the last call, oldest first."""
        faults, self._faults = self._faults, []
        return faults


def judge(rule: SigmaRule, record: NormalizedRecord, faults: list[RuleFault]) -> RuleMatch | None:
    """One rule on one record; an exception becomes a fault of the rule."""
    try:
        return RuleMatch(rule, explain(rule.condition, record)) if holds(rule.condition, record) else None
    except Exception as error:  # isolation: whatever a foreign rule does must not stop the others
        faults.append(RuleFault(rule.id, f"{type(error).__name__}: {error}"))
        return None


def holds(expression: Expression, record: NormalizedRecord) -> bool:
    """Whether the expression is true of the record."""
    match expression:
        case Atom():
            return any(_true_texts(expression, record))
        case Not(part):
            return not holds(part, record)
        case And(parts):
            return all(holds(part, record) for part in parts)
        case Or(parts):
            return any(holds(part, record) for part in parts)


def explain(expression: Expression, record: NormalizedRecord) -> dict[str, Any]:
    """The fields whose atoms were true, with the value that made them so; keywords are listed under `keywords`.

    Only for an expression that is true of the record. What a rule demands to be absent explains nothing.
    """
    matched: dict[str, Any] = {}
    keywords: list[str] = []
    _collect(expression, record, matched, keywords)
    if keywords:
        matched["keywords"] = list(dict.fromkeys(keywords))
    return matched


def _collect(expression: Expression, record: NormalizedRecord, matched: dict[str, Any], keywords: list[str]) -> None:
    match expression:
        case Atom(None):
            if holds(expression, record):
                keywords.append(shown(literal_text(expression)))
        case Atom(str(field)):
            value = next(iter(satisfying_texts(expression, record)), None)
            if value is not None:
                matched.setdefault(field, shown(value))
        case And(parts) | Or(parts):
            for part in parts:
                if isinstance(part, Atom) or holds(part, record):
                    _collect(part, record, matched, keywords)
        case _:
            return


def _true_texts(atom: Atom, record: NormalizedRecord) -> Any:
    if atom.field is None:
        return (atom_holds(atom, text) for text in searchable_texts(record))
    if isinstance(atom.literal, FieldReference):
        return _reference_truths(atom, atom.literal, record)
    return (atom_holds(atom, text) for text in texts_of(value_of(record, atom.field)))


def _reference_truths(atom: Atom, reference: FieldReference, record: NormalizedRecord) -> Any:
    others = list(texts_of(value_of(record, reference.field)))
    return (
        reference_holds(reference, text, other, cased=atom.cased)
        for text in texts_of(value_of(record, atom.field or ""))
        for other in others
    )


def satisfying_texts(atom: Atom, record: NormalizedRecord) -> Any:
    """The texts of the atom's own field for which it is true."""
    field = atom.field or ""
    if isinstance(atom.literal, FieldReference):
        reference, others = atom.literal, list(texts_of(value_of(record, atom.literal.field)))
        return (
            text
            for text in texts_of(value_of(record, field))
            if any(reference_holds(reference, text, other, cased=atom.cased) for other in others)
        )
    return (text for text in texts_of(value_of(record, field)) if atom_holds(atom, text))


def literal_text(atom: Atom) -> str:
    """The atom's literal as an explanation names it."""
    literal = atom.literal
    if isinstance(literal, tuple):
        return str(literal[0]) if atom.operator == "regex" else _pattern_text(literal[0])
    return text_of(literal) if literal is not None else "*"


def _pattern_text(segments: Any) -> str:
    return "*".join("".join(p if isinstance(p, str) else "?" * p for p in segment) for segment in segments)


def shown(text: str) -> str:
    """The text as far as an explanation quotes it: its first 1,000 characters."""
    return text if len(text) <= MAX_MATCHED_CHARACTERS else text[: MAX_MATCHED_CHARACTERS - 1] + "…"
