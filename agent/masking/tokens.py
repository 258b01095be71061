"""What stands for a name: the same token for the same name everywhere, which nobody can make without the key.

A token is a letter for its kind, `-`, and 17 digits in base 31 of an HMAC-SHA256: 84 bits. The digits have no vowels,
so that a token holds no word that a rule looks for. What is equal but for the case of letters is so after masking too:
the token comes of the lower case, and the case of its letters of the name as it is written.
"""

from __future__ import annotations

import hmac
import re
from functools import lru_cache
from typing import Final, Literal

from agent.masking.addresses import AddressMap
from agent.masking.key import MaskingKey
from agent.masking.names import name_filter

TokenKind = Literal["user", "domain", "host", "secret", "value"]

_LETTER: Final[dict[TokenKind, str]] = {"user": "u", "domain": "d", "host": "h", "secret": "s", "value": "v"}
_DIGITS: Final = "0123456789bcdfghjklmnpqrstvwxyz"
_LENGTH: Final = 17
_REMEMBERED: Final = 8_192
MAX_NAME: Final = 256
"""Characters of what can be a name; longer text is none."""

# No account system lets a name hold the other punctuation, and attacks need it: what is not shaped like a name is
# not hidden from the rules as if it were one.
_NAME = re.compile(r"(?:[\w .&-]{1,64}\\{1,2})?\w[\w .,'’+~-]{0,126}\$?")
_DOMAIN = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63}){0,30}\.?")
_SID = re.compile(r"S-1-5-21-([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,10})(?:-([0-9]{1,10}))?")
_FIRST_OWN_RID: Final = 1000
_LONGEST_ID: Final = 5
"""Digits of a number that is a system's own id of an account, not a name."""


class Tokens:
    """The tokens of one key. `keep` are names (in lower case, with `*`) that are no secret: root, SYSTEM, ..."""

    def __init__(self, key: MaskingKey, keep: tuple[str, ...]) -> None:
        self._key = key.derived("token")
        self._case_key = key.derived("letter case")
        self._kept = keep
        self._is_kept = name_filter(keep)
        self.addresses = AddressMap(key)
        self.of = lru_cache(_REMEMBERED)(self._of)
        self.user = lru_cache(_REMEMBERED)(self._user)

    def _of(self, kind: TokenKind, text: str, scope: str = "") -> str:
        """The token of a text of that kind; the same text in another scope has another token."""
        lower = text.lower()
        digest = hmac.digest(self._key, _message(kind, scope, lower), "sha256")
        number, digits = int.from_bytes(digest[:11], "big"), []
        for _ in range(_LENGTH):
            number, digit = divmod(number, 31)
            digits.append(_DIGITS[digit])
        if text != lower:
            case = int.from_bytes(hmac.digest(self._case_key, _message(kind, scope, text), "sha256")[:3], "big")
            digits = [digit.upper() if case >> place & 1 else digit for place, digit in enumerate(digits)]
        return f"{_LETTER[kind]}-{''.join(digits)}"

    def _user(self, text: str) -> str | None:
        r"""A user name masked: `DOMAIN\name` keeps its domain, `name@domain` becomes two tokens. None: no name."""
        if "@" in text:
            return self.email(text)
        if text.startswith("S-1-"):
            return self.sid(text) or text
        if len(text) <= _LONGEST_ID and text.isdecimal():
            return text
        if len(text) > MAX_NAME or not _NAME.fullmatch(text):
            return None
        before, separator, name = text.rpartition("\\")
        return text if self.keeps(name) else f"{before}{separator}{self.of('user', name)}"

    def keeps(self, name: str) -> bool:
        """Whether a user name says nothing about a person."""
        return self._is_kept(name.lower())

    def keeps_some(self, part: str, *, open_start: bool, open_end: bool) -> bool:
        """Whether a part of a name is that of a name that is kept: only such can be found in masked records."""
        lower = part.lower()
        if open_start and open_end:
            return any(lower in name for name in self._kept)
        return any(name.startswith(lower) if open_end else name.endswith(lower) for name in self._kept)

    def email(self, text: str, at: str = "@") -> str | None:
        """An e-mail address with both parts masked, its last label kept; None for what is none."""
        local, found, domain = text.rpartition(at)
        if not found or not local or len(text) > MAX_NAME or not _DOMAIN.fullmatch(domain):
            return None
        return f"{local if self.keeps(local) else self.of('user', local)}{at}{self.domain(domain)}"

    def domain(self, text: str) -> str:
        """A domain name label by label, its last label kept: what ends with the same labels does so after it too.

        An address in the place of one becomes an address."""
        if text[-1:].isdigit():
            try:
                return self.addresses.token_text(text)
            except ValueError:
                pass  # a name that ends with a digit
        labels, dot = text.removesuffix("."), text[len(text.removesuffix(".")) :]
        rest, separator, suffix = labels.rpartition(".")
        masked = suffix
        while separator:
            rest, separator, label = rest.rpartition(".")
            token = self.of("domain", label, suffix.lower()) if label else ""
            suffix, masked = f"{label}.{suffix}", f"{token}.{masked}"
        return masked + dot

    def host(self, text: str) -> str:
        """A host name: its first label masked, and its domain label by label."""
        label, dot, domain = text.partition(".")
        return f"{self.of('host', label)}{dot}{self.domain(domain) if dot else ''}"

    def sid(self, text: str) -> str | None:
        """A Windows SID of a domain or machine in the same form; well-known relative ids stay. None for any other."""
        found = _SID.fullmatch(text)
        if found is None:
            return None
        domain = "-".join(found.group(1, 2, 3))
        digest = hmac.digest(self._key, _message("sid", "", domain), "sha256")
        parts = [str(int.from_bytes(digest[place : place + 4], "big")) for place in (0, 4, 8)]
        if found[4] is not None:
            parts.append(self._relative_id(domain, int(found[4])))
        return "S-1-5-21-" + "-".join(parts)

    def _relative_id(self, domain: str, number: int) -> str:
        if number < _FIRST_OWN_RID:
            return str(number)
        digest = hmac.digest(self._key, _message("rid", domain, str(number)), "sha256")
        return str(_FIRST_OWN_RID + int.from_bytes(digest[:4], "big") % (2**32 - _FIRST_OWN_RID))


def _message(kind: str, scope: str, text: str) -> bytes:
    # Surrogates stand for bytes that are no UTF-8 and must not stop the masking.
    return f"{kind}\x1f{scope}\x1f{text}".encode("utf-8", "surrogatepass")
