"""Rules and indicators name clear values; records hold tokens. Here the one becomes the other, with the same key.

A literal goes through the same masker as the value that it is compared with, so what is equal in clear is equal masked.
Where a literal is only a part of a value, the parts that are whole are replaced. A part of a name has no token: such a
literal is named, not guessed, and its rule sees only what is kept in clear.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from agent.masking.masker import Masker

IndicatorKind = Literal[
    "ip", "cidr", "domain", "url", "email", "user", "host", "file_hash", "process_name", "user_agent"
]

_PART_OF_ADDRESS = re.compile(r"(?:[0-9]{1,3}\.){1,3}")
_SEPARATORS = re.compile(r"([\\/@]+)")
_WORD = re.compile(r"\w")
_LETTERS = re.compile(r"[A-Za-z]{2}")
_ADDRESS_IN_REGEX = re.compile(r"[0-9]{1,3}(?:\\?\.[0-9]{1,3}){3}|@[A-Za-z0-9]")
_OCTETS: Final = 4


class Untranslatable(ValueError):
    """A literal that has no masked form; the message says why."""


class LiteralTokens:
    """Literals as they stand in masked records. The policy must be the one that the agents mask by."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._tokens = masker.tokens

    def network(self, text: str) -> str:
        """The network of the tokens of a network's addresses. Raises Untranslatable for what is no network."""
        try:
            return self._tokens.addresses.network(text)
        except ValueError as error:
            raise Untranslatable(f"{text!r} is no network") from error

    def literal(self, field: str, text: str, *, open_start: bool = False, open_end: bool = False) -> str:
        """A literal of that field (empty: of any text). An open side may have more of the value beside it.

        Raises Untranslatable for a part of what only a whole has a token of.
        """
        rule = self._masker.values.rule_of(field)
        if rule is not None and rule.action == "keep":
            return text
        if rule is not None and (open_start or open_end):
            return self._parts(rule.name, field, text, open_start=open_start, open_end=open_end)
        if rule is None and open_end and is_part_of_address(text):
            return self._part_of_address(text, open_start=open_start)
        return self._masker.values.text(field, text, [])

    def indicator(self, kind: IndicatorKind, value: str) -> tuple[str, ...]:
        """The forms in which an indicator can stand in masked records. Raises Untranslatable."""
        match kind:
            case "ip":
                try:
                    return (self._tokens.addresses.token_text(value),)
                except ValueError as error:
                    raise Untranslatable(f"{value!r} is no address") from error
            case "cidr":
                return (self.network(value),)
            case "email":
                found = self._tokens.email(value)
                if found is None:
                    raise Untranslatable(f"{value!r} is no e-mail address")
                return (found,)
            case "user":
                name = self._tokens.user(value)
                if name is None:
                    raise Untranslatable(f"{value!r} is no user name")
                return (name,)
            case "domain":
                # In the clear where it stands alone, as tokens behind the `@` of an e-mail address.
                return tuple(dict.fromkeys((value, self._tokens.domain(value))))
            case "url" | "host" | "file_hash" | "process_name" | "user_agent":
                return (self._masker.values.text("", value, []),)

    def check_regex(self, field: str, pattern: str) -> None:
        """Raises Untranslatable for a regular expression of that field that asks for what has a token."""
        rule = self._masker.values.rule_of(field)
        if rule is not None and rule.action != "keep" and _LETTERS.search(pattern):
            raise Untranslatable(f"a regular expression over {field}, which the rule {rule.name!r} masks")
        if _ADDRESS_IN_REGEX.search(pattern):
            raise Untranslatable(f"the regular expression {pattern[:200]!r} names an address")

    def _parts(self, rule: str, field: str, text: str, *, open_start: bool, open_end: bool) -> str:
        pieces = _SEPARATORS.split(text)
        for place in range(0, len(pieces), 2):
            piece = pieces[place]
            first, last = place == 0, place == len(pieces) - 1
            if not last and "\\" in pieces[place + 1]:
                continue  # a domain before a name is kept
            start, end = first and open_start, last and open_end
            if start or end:
                if _WORD.search(piece) and not self._tokens.keeps_some(piece, open_start=start, open_end=end):
                    raise Untranslatable(f"{text!r} is a part of a value of {field}, which the rule {rule!r} masks")
            elif piece:
                pieces[place] = self._masker.values.text(field, piece, [])
        return "".join(pieces)

    def _part_of_address(self, text: str, *, open_start: bool) -> str:
        octets = text.rstrip(".").split(".")
        if any(int(octet) > 255 for octet in octets):
            return text
        network = ".".join([*octets, *["0"] * (_OCTETS - len(octets))])
        token = ".".join(self.network(f"{network}/{8 * len(octets)}").split(".")[: len(octets)]) + "."
        if open_start and token != text:
            raise Untranslatable(f"{text!r} may be the middle of an address, which has no token")
        return token


def is_part_of_address(text: str) -> bool:
    """Whether a text is the beginning of many IPv4 addresses: one to three numbers, each with a dot behind it."""
    return _PART_OF_ADDRESS.fullmatch(text) is not None
