"""A rule set as it must be for masked records: its literals are tokens of the tenant's key."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any, assert_never

from agent.masking.literals import LiteralTokens, Untranslatable
from agent.masking.masker import Masker
from detect.sigma.rule import RuleSet, SigmaRule
from detect.sigma.syntax import And, Atom, Expression, Not, Or, Pattern, Regex, Segment

_ADDRESS_IN_REGEX = re.compile(r"[0-9]{1,3}(?:\\?\.[0-9]{1,3}){3}|@[A-Za-z0-9]")
_LETTERS = re.compile(r"[A-Za-z]{2}")


@dataclass(frozen=True, slots=True)
class LostLiteral:
    """A literal that records never hold once they are masked: its rule may miss what it found in clear."""

    rule_id: str
    field: str
    literal: str
    reason: str


@dataclass(frozen=True, slots=True)
class TokenisedRules:
    """The rule set for masked records, how many literals changed, and those that have no masked form."""

    rules: RuleSet
    changed: int
    lost: tuple[LostLiteral, ...]


def tokenised_rules(rules: RuleSet, masker: Masker) -> TokenisedRules:
    """The rules with their literals as masked records have them. The digest is of the rules and the key."""
    rewriting = _Rewriting(masker)
    rewritten = tuple(rewriting.rule(rule) for rule in rules.rules)
    digest = hashlib.sha256(f"{rules.digest}\nmasked {rewriting.fingerprint}".encode()).hexdigest()
    return TokenisedRules(
        replace(rules, digest=digest, rules=rewritten), rewriting.changed, tuple(dict.fromkeys(rewriting.lost))
    )


class _Rewriting:
    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._tokens = LiteralTokens(masker)
        self.fingerprint = masker.fingerprint
        self.changed = 0
        self.lost: list[LostLiteral] = []
        self._rule_id = ""

    def rule(self, rule: SigmaRule) -> SigmaRule:
        self._rule_id = rule.id
        condition = self._expression(rule.condition)
        return rule if condition == rule.condition else replace(rule, condition=condition)

    def _expression(self, expression: Expression) -> Expression:
        match expression:
            case Atom():
                return self._atom(expression)
            case Not(part):
                return Not(self._expression(part))
            case And(parts):
                return And(tuple(map(self._expression, parts)))
            case Or(parts):
                return Or(tuple(map(self._expression, parts)))
            case _:
                assert_never(expression)

    def _atom(self, atom: Atom) -> Atom:
        try:
            literal = self._literal(atom)
        except Untranslatable as error:
            shown = str(atom.literal.pattern if isinstance(atom.literal, Regex) else atom.literal)
            self.lost.append(LostLiteral(self._rule_id, atom.field or "", shown[:200], str(error)))
            return atom
        if literal == atom.literal:
            return atom
        self.changed += 1
        return replace(atom, literal=literal)

    def _literal(self, atom: Atom) -> Any:
        field = atom.field or ""
        match atom.operator, atom.literal:
            case "cidr", str(network):
                return self._tokens.network(network)
            case "equals" | "contains" | "startswith" | "endswith", str(text):
                starts = atom.operator in ("equals", "startswith") and atom.field is not None
                ends = atom.operator in ("equals", "endswith") and atom.field is not None
                return self._text(field, text, open_start=not starts, open_end=not ends, cased=atom.cased)
            case "pattern", Pattern(segments):
                return Pattern(
                    tuple(
                        self._segment(field, segment, place > 0, place < len(segments) - 1, atom.cased)
                        for place, segment in enumerate(segments)
                    )
                )
            case "regex", Regex(pattern):
                self._check_regex(field, pattern)
        return atom.literal

    def _segment(self, field: str, segment: Segment, open_start: bool, open_end: bool, cased: bool) -> Segment:
        last = len(segment) - 1
        pieces: list[str | int] = []
        for place, piece in enumerate(segment):
            if isinstance(piece, str):
                start, end = open_start or place > 0, open_end or place < last
                pieces.append(self._text(field, piece, open_start=start, open_end=end, cased=cased))
            else:
                pieces.append(piece)
        return tuple(pieces)

    def _text(self, field: str, text: str, *, open_start: bool, open_end: bool, cased: bool) -> str:
        masked = self._tokens.literal(field, text, open_start=open_start, open_end=open_end)
        return masked if cased else masked.lower()

    def _check_regex(self, field: str, pattern: str) -> None:
        rule = self._masker.values.rule_of(field)
        if rule is not None and rule.action != "keep" and _LETTERS.search(pattern):
            raise Untranslatable(f"a regular expression over {field}, which the rule {rule.name!r} masks")
        if _ADDRESS_IN_REGEX.search(pattern):
            raise Untranslatable("a regular expression that names an address")
