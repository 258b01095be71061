"""Masks values by the names of their fields: the texts, numbers and documents that records hold."""

from __future__ import annotations

from typing import Final

from agent.masking.finders import is_card_number, redacted
from agent.masking.json_text import mask_json
from agent.masking.policy import FieldRule, FieldTable, MaskingPolicy
from agent.masking.text import TextMasker
from agent.masking.tokens import Tokens

_REMEMBERED: Final = 4_096
"""Short texts with their fields in one of two generations: at most a few megabytes in all."""
_MAX_REMEMBERED_LENGTH: Final = 80
"""Longer texts rarely come again."""
_MAX_DOCUMENTS: Final = 8
"""Levels of JSON documents inside texts that are parsed; what is deeper is searched as text."""
_DOCUMENT_STARTS: Final = ("{", "[")
_SMALLEST_CARD: Final = 10**12


class ValueMasker:
    """Masks the values of fields by one policy and one key (a FieldLeaf of agent.masking.json_text)."""

    def __init__(self, policy: MaskingPolicy, tokens: Tokens) -> None:
        self._table = FieldTable(policy.fields)
        self._texts = TextMasker(policy, tokens, self._table)
        self._cards = {rule.kind: rule for rule in policy.patterns}.get("card")
        self._documents = 0
        self._known: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
        self._known_before: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}

    def rule_of(self, path: str) -> FieldRule | None:
        """The rule of a field, if it has one."""
        return self._table.find(path) if path else None

    def text(self, path: str, text: str, hits: list[str], depth: int = 0) -> str:
        """A text by the rule of its field; without one, a JSON document by its keys and any other by its patterns."""
        if len(text) > _MAX_REMEMBERED_LENGTH or text.lstrip()[:1] in _DOCUMENT_STARTS:
            return self._text(path, text, hits, depth)
        known = self._known.get((path, text))
        if known is None:
            known = self._known_before.get((path, text))
            if known is None:
                own: list[str] = []
                known = self._text(path, text, own, depth), tuple(own)
            if len(self._known) >= _REMEMBERED:
                self._known_before, self._known = self._known, {}
            self._known[path, text] = known
        hits += known[1]
        return known[0]

    def _text(self, path: str, text: str, hits: list[str], depth: int) -> str:
        rule = self.rule_of(path)
        if rule is not None:
            return self._texts.field(rule, text, hits)
        if text.lstrip()[:1] in _DOCUMENT_STARTS and self._documents < _MAX_DOCUMENTS:
            masked = self._document(path, text, hits, depth)
            if masked is not None:
                return masked
        return self._texts.mask(text, hits)

    def number(self, path: str, number: int | float, hits: list[str]) -> int | float | str:
        """A number: only a field that is redacted or replaced as a whole, or a card's number, hides one."""
        rule = self.rule_of(path)
        if rule is not None and rule.action != "keep":
            if rule.action == "redact" or rule.kind in ("secret", "value"):
                return self._texts.field(rule, str(number), hits)
            return number
        card = self._cards
        if card is not None and card.action != "keep" and isinstance(number, int) and number >= _SMALLEST_CARD:
            return self._texts.mask(str(number), hits) if is_card_number(str(number)) else number
        return number

    def whole(self, path: str, hits: list[str]) -> str | None:
        """What stands for a list, map or bytes of a field that is redacted; None for any other field."""
        rule = self.rule_of(path)
        if rule is None or rule.action != "redact":
            return None
        hits.append(rule.name)
        return redacted(rule.name)

    def _document(self, path: str, text: str, hits: list[str], depth: int) -> str | None:
        self._documents += 1
        try:
            return mask_json(text, self, hits, depth, path)
        finally:
            self._documents -= 1
