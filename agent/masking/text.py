"""Masks one text: the named fields in it, then what has a form of its own, then the places where lines name someone.

Everything is found in the text as it came, and put in at once: a token is never taken for clear text again. Where two
findings overlap, the first one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, cast

from agent.masking.finders import Finding, finder, redacted, run_before
from agent.masking.policy import FieldKind, FieldRule, FieldTable, MaskingPolicy, TextRule
from agent.masking.tokens import Tokens

# key=value, "key": "value" (also with its quotes escaped, as JSON inside JSON has them), <Data Name="key">value</Data>.
_ASSIGNED = re.compile(
    r'=(?:\\{0,3}"([^"\n]{1,4096})|\\{0,3}\'([^\'\n]{1,4096})|([^\s,;&"\'()<>\[\]{}|\\][^\s,;&"\'()<>\[\]{}|]{0,4095}))'
)
_KEY_BACKWARDS = re.compile(r"\w[\w.-]{0,63}")
_QUOTED = re.compile(
    r'(?<=["\'])([\w.@-]{1,64})\\{0,3}["\']\s{0,4}:\s{0,4}(?:\\{0,3}["\']([^"\'\n]{1,4096})|([0-9][0-9.]{0,40}))'
)
_ELEMENT = re.compile(r'<(?:Data Name=["\'])?([A-Za-z][\w.-]{0,63})["\']?>([^<]{1,4096})</')
PRIORITY: Final = ("jwt", "secret", "email", "sid", "address", "card")
_WEAK: Final = ("address", "card")
"""What gives way to a name that a text rule finds."""


class TextMasker:
    """Masks texts by one policy with the tokens of one key. `hits` of every method gets the names of rules that
    replaced something."""

    def __init__(self, policy: MaskingPolicy, tokens: Tokens, table: FieldTable) -> None:
        self._tokens = tokens
        self._table = table
        self._odd_names = policy.odd_names
        self._texts = tuple(_prepared(rule) for rule in policy.texts)
        patterns = sorted(policy.patterns, key=lambda rule: PRIORITY.index(rule.kind))
        active = [(rule.kind, finder(rule, tokens)) for rule in patterns if rule.action != "keep"]
        self._finders = (
            self._named,
            *(find for kind, find in active if kind not in _WEAK),
            self._people,
            *(find for kind, find in active if kind in _WEAK),
        )

    def mask(self, text: str, hits: list[str]) -> str:
        """The text with everything masked that the policy's patterns and text rules find."""
        found: list[Finding] = []
        for find in self._finders:
            find(text, found)
        if not found:
            return text
        chosen = _without_overlaps(found, len(text)) if len(found) > 1 else found
        parts: list[str] = []
        done = 0
        for start, end, replacement, name in chosen:
            parts += text[done:start], replacement
            if text[start:end] != replacement:
                hits.append(name)
            done = end
        return "".join((*parts, text[done:]))

    def field(self, rule: FieldRule, text: str, hits: list[str]) -> str:
        """The value of a field that the rule names, by the rule's action."""
        masked = self._field(rule, text)
        if masked is None:
            return self.mask(text, hits)
        if masked != text:
            hits.append(rule.name)
        return masked

    def _field(self, rule: FieldRule, text: str) -> str | None:
        """The value as a whole; None when it must be searched like any other text."""
        if rule.action == "keep" or not text:
            return text
        if rule.action == "redact":
            return redacted(rule.name)
        match rule.kind:
            case "user":
                name = self._tokens.user(text)
                return self._tokens.of("user", text) if name is None and self._odd_names == "token" else name
            case "email":
                return self._tokens.email(text)
            case "address":
                return None
            case "domain":
                return self._tokens.domain(text)
            case "host":
                return self._tokens.host(text)
            case "secret" | "value":
                return self._tokens.of(rule.kind, text)

    def _named(self, text: str, found: list[Finding]) -> None:
        """The named fields in the text."""
        if "=" not in text and "':" not in text and '":' not in text and "</" not in text:
            return
        for key, start, end in _named_values(text):
            rule = self._table.find(key.removeprefix("$"))
            if rule is None:
                continue
            if key[0] != "$" or rule.action == "redact":
                masked = self._field(rule, text[start:end])
                if masked is not None:
                    found.append((start, end, masked, rule.name))

    def _people(self, text: str, found: list[Finding]) -> None:
        """The places where lines name someone."""
        for needs, anchored, rule, groups in self._texts:
            if needs in text:
                first = rule.regex.match(text) if anchored else None
                for match in ([] if first is None else [first]) if anchored else rule.regex.finditer(text):
                    for group, field_rule in groups:
                        value = match[group]
                        if value:
                            masked = self._field(field_rule, value)
                            found.append((*match.span(group), value if masked is None else masked, rule.name))


def _prepared(rule: TextRule) -> tuple[str, bool, TextRule, tuple[tuple[str, FieldRule], ...]]:
    """A text rule with what each of its groups means. An anchored expression is tried at the start of a text only."""
    groups = tuple(
        (group, FieldRule(rule.name, cast(FieldKind, group.rstrip("0123456789")), rule.action, ()))
        for group in rule.regex.groupindex
    )
    return rule.needs, rule.regex.pattern.startswith("^"), rule, groups


def _without_overlaps(found: list[Finding], length: int) -> list[Finding]:
    """The findings in the order of the text, without those that an earlier found one overlaps."""
    ordered, done = sorted(found), 0
    for start, end, _, _ in ordered:
        if start < done:
            break
        done = end
    else:
        return ordered
    taken = bytearray(length)
    chosen = []
    for finding in found:
        start, end = finding[:2]
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\x01" * (end - start)
            chosen.append(finding)
    chosen.sort()
    return chosen


def _named_values(text: str) -> Iterator[tuple[str, int, int]]:
    """Key and place of the value for everything in the text that looks like a named field; `$key` is a variable."""
    if "=" in text:
        for match in _ASSIGNED.finditer(text):
            group = match.lastindex or 0
            first = match.start() - run_before(_KEY_BACKWARDS, text, match.start(), 64)
            key = text[first : match.start()].lstrip("-.")
            if key:
                start, end = match.span(group)
                end -= len(text[start:end]) - len(text[start:end].rstrip("\\" if group < 3 else ".:"))
                if text[first - 1 : first] != "$":
                    yield key, start, end
                elif group < 3:  # a variable of a script: what is assigned is code unless it is quoted
                    yield f"${key}", start, end
    if '":' in text or "':" in text:
        for match in _QUOTED.finditer(text):
            start, end = match.span(match.lastindex or 0)
            yield match[1], start, end - (len(text[start:end]) - len(text[start:end].rstrip("\\")))
    if "</" in text:
        for match in _ELEMENT.finditer(text):
            yield match[1], *match.span(2)
