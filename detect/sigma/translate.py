"""From the detections of a rule to our own expressions. pySigma gives values their meaning; nothing of its types stays.

A detection is a map (all items must be true), a list (some element must) or a value (a keyword). What can be said with
plain texts is read here; every other modifier is applied by pySigma.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, cast

from sigma.exceptions import SigmaError
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import RegexEngine, RegexPattern
from sigma.rule import SigmaDetectionItem

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
from detect.sigma.literals import text_atom, value_expression
from detect.sigma.modifiers import BadModifiers, read_key
from detect.sigma.placeholders import BadPlaceholders, Lists, MissingList, expanded
from detect.sigma.refusal import ConditionRefused, MissingPlaceholderValues, RuleRefused
from detect.sigma.regex import BadRegex, compiled
from detect.sigma.syntax import Atom, Expression, Not, Regex, all_of, any_of, atoms

MAX_ATOMS = 20_000
Folded = Expression | bool
"""An expression, or what it comes to whatever the record: a list that is empty is met by nothing."""

_PLAIN = frozenset({"contains", "startswith", "endswith", "cased"})
_OWN = frozenset({"all", "neq", "expand"})
_FAULTS = (SigmaError, RuleRefused, BadModifiers, BadPlaceholders, ValueError, TypeError, AttributeError)
_FLAG_LETTERS = (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL))


class _LinearEngine(RegexEngine):  # type: ignore[misc]  # mypy does not follow into pySigma
    """pySigma checks patterns with the engine that later runs them, whatever its own default is."""

    def compile(self, pattern: str, flags: int = 0) -> RegexPattern:
        letters = "".join(letter for letter, flag in _FLAG_LETTERS if flags & flag)
        return cast(RegexPattern, compiled(Regex(pattern, letters)))

    @property
    def error(self) -> type[Exception]:
        return BadRegex


POLICY = SigmaPolicy(regex_engine=_LinearEngine())


class _Expansion:
    """The values that placeholders stand for, and how many more a section may come to by them: a short text asks for
    any number, so they are counted before anything is made of them."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._left = MAX_ATOMS

    def of(self, value: object, *, literally: bool) -> list[Any]:
        """The value with its placeholders filled in. Raises MissingList, BadPlaceholders and RuleRefused."""
        if not isinstance(value, str):
            return [value]
        texts = expanded(value, self._lists, literally=literally)
        self._left -= len(texts)
        if self._left < 0:
            raise RuleRefused(f"the placeholders come to more than {MAX_ATOMS} values")
        return texts


def condition_of(section: Mapping[str, Any], lists: Lists, place: str = "detection") -> Expression:
    """The expression of a rule's `detection` section, or of another section (`place`) of the same form.

    Several conditions are alternatives. Raises RuleRefused with the place of the fault.
    """
    detections = _detections(section, lists, place)
    stated = section.get("condition")
    texts = stated if isinstance(stated, list) else [stated]
    if stated is None or not texts:
        raise ConditionRefused("must contain at least one condition", place)
    expression = _any([_condition(text, detections, place) for text in texts])
    if isinstance(expression, bool):
        raise MissingPlaceholderValues(
            "inert: with the empty lists of its placeholders it is true of "
            + ("everything" if expression else "nothing"),
            f"{place}.condition",
        )
    if sum(1 for _ in islice(atoms(expression), MAX_ATOMS + 1)) > MAX_ATOMS:
        raise RuleRefused(f"the condition has more than {MAX_ATOMS} values", f"{place}.condition")
    return expression


def _detections(section: Mapping[str, Any], lists: Lists, place: str) -> dict[str, Folded]:
    found: dict[str, Folded] = {}
    missing: dict[str, None] = {}
    at = ""
    expansion = _Expansion(lists)
    for name, definition in section.items():
        if name == "condition":
            continue
        try:
            found[name] = _detection(definition, expansion)
        except MissingList as error:
            missing.update(dict.fromkeys(error.names))
            at = at or f"{place}.{name}"
        except _FAULTS as error:
            raise RuleRefused(_reason(error), f"{place}.{name}") from error
    if missing:
        raise MissingPlaceholderValues(str(MissingList(sorted(missing))), at)
    if not found:
        raise RuleRefused("no detection is defined", place)
    return found


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    typed = re.search(r"Modifier Sigma(\w+?)Modifier incompatible to value type of '(.*)'", text, re.DOTALL)
    return f"the modifier for {typed[1].lower()} cannot take the value {typed[2]!r}" if typed else text


def _condition(text: object, detections: Mapping[str, Folded], place: str) -> Folded:
    if not isinstance(text, str):
        raise ConditionRefused(f"a condition must be a text, not {text!r}", f"{place}.condition")
    try:
        return _resolved(parsed_condition(text), detections)
    except BadCondition as error:
        raise ConditionRefused(str(error), f"{place}.condition") from error


def _resolved(tree: Tree, detections: Mapping[str, Folded]) -> Folded:
    match tree:
        case Named(name):
            if name not in detections:
                raise BadCondition(f"the condition names {name!r}, which is not defined")
            return detections[name]
        case Choice(every):
            parts = [detections[name] for name in named_by(tree, detections)]
            return _all(parts) if every else _any(parts)
        case Negation(part):
            return _not(_resolved(part, detections))
        case Conjunction(parts):
            return _all([_resolved(part, detections) for part in parts])
        case Disjunction(parts):
            return _any([_resolved(part, detections) for part in parts])


def _not(part: Folded) -> Folded:
    return not part if isinstance(part, bool) else Not(part)


def _all(parts: Sequence[Folded]) -> Folded:
    open_parts = tuple(part for part in parts if not isinstance(part, bool))
    if False in [part for part in parts if isinstance(part, bool)]:
        return False
    return all_of(open_parts) if open_parts else True


def _any(parts: Sequence[Folded]) -> Folded:
    open_parts = tuple(part for part in parts if not isinstance(part, bool))
    if True in [part for part in parts if isinstance(part, bool)]:
        return True
    return any_of(open_parts) if open_parts else False


def _detection(definition: object, expansion: _Expansion) -> Folded:
    """A named detection. Raises RuleRefused, MissingList, BadModifiers, BadPlaceholders or an error of pySigma."""
    if isinstance(definition, dict):
        if not definition:
            raise RuleRefused("the detection is empty")
        return _all([_item(str(key), value, expansion) for key, value in definition.items()])
    if not isinstance(definition, list):
        return _item("", definition, expansion)
    if not definition:
        raise RuleRefused("the detection is empty")
    if not any(isinstance(element, dict | list) for element in definition):
        return _item("", definition, expansion)
    return _any([_detection(element, expansion) for element in definition])


def _item(key: str, stated: object, expansion: _Expansion) -> Folded:
    field, modifiers = read_key(key)
    values = stated if isinstance(stated, list) else [stated]
    if not values:
        if field is None or modifiers:
            raise RuleRefused(f"{key!r} has no values")
        return Not(Atom(field, "present"))
    if field is None and None in values:
        raise RuleRefused("null cannot be sought as a keyword: name a field")
    if "re" in modifiers and any(not isinstance(value, str) for value in values):
        raise RuleRefused("a regular expression must be a text: put it in quotes")
    left = tuple(modifier for modifier in modifiers if modifier not in _OWN)
    if "expand" in modifiers:
        literally = "re" in modifiers
        parts = [_any(_values(field, left, expansion.of(value, literally=literally))) for value in values]
    else:
        parts = _values(field, left, values)
    expression = _all(parts) if "all" in modifiers else _any(parts)
    return _not(expression) if "neq" in modifiers else expression


def _values(field: str | None, modifiers: tuple[str, ...], values: Sequence[Any]) -> list[Folded]:
    """One expression for each value; together they say what the item says."""
    if not values:
        return []
    if _PLAIN.issuperset(modifiers) and all(value.__class__ is str for value in values):
        return [text_atom(field, modifiers, value) for value in values]
    cased = "fieldref" in modifiers and "cased" in modifiers
    names = ["wide" if modifier == "utf16le" else modifier for modifier in modifiers]
    if cased:
        names.remove("cased")
    item = SigmaDetectionItem.from_mapping("|".join((field or "", *names)), list(values), None, POLICY)
    return [value_expression(field, value, modifiers, cased=cased) for value in item.value]
