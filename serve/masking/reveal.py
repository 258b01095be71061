"""What a token may be asked: an address is turned back by the key, a name is found among candidates or not at all.

There is no table of clear values. Whoever reveals a name says whom they suspect (a list of accounts, a directory's
export); the answer is which of them a token stands for. Candidates are looked at in memory and never kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agent.masking.addresses import AddressMap
from agent.masking.key import MaskingKey
from agent.masking.tokens import Tokens

MAX_TOKENS: Final = 100
MAX_CANDIDATES: Final = 20_000
_NAME_TOKEN = re.compile(
    r"(?:[\w .&-]{1,64}\\)?[udhv]-[0-9a-z]{17}(?:[@.][\w.@-]{1,253})?|S-1-5-21(?:-[0-9]{1,10}){3,4}", re.I
)

Outcome = Literal["address", "candidate", "unknown", "no token"]


@dataclass(frozen=True, slots=True)
class Revealed:
    """What is known of a token. `clear` is empty unless the outcome is `address` or `candidate`; `key` numbers the
    masking key it was revealed by. Of an address every key gives an answer, so there is one for each."""

    token: str
    outcome: Outcome
    clear: str = ""
    key: int = 0


def reveal(tokens: Sequence[str], candidates: Sequence[str], keys: Sequence[MaskingKey]) -> list[Revealed]:
    """What each token stands for, by every key that the tenant has had.

    Raises ValueError for more than MAX_TOKENS tokens or MAX_CANDIDATES candidates. Secrets have no answer: nobody may
    ask whether a password was this one.
    """
    if len(tokens) > MAX_TOKENS or len(candidates) > MAX_CANDIDATES:
        raise ValueError(f"at most {MAX_TOKENS} tokens and {MAX_CANDIDATES} candidates can be asked at once")
    books = [(key.number, AddressMap(key), _forms(key, candidates)) for key in keys]
    found: list[Revealed] = []
    for token in tokens:
        found += _answers(token.strip(), books)
    return found


_Book = tuple[int, AddressMap, dict[str, str]]


def _answers(token: str, books: list[_Book]) -> list[Revealed]:
    try:
        return [Revealed(token, "address", addresses.clear_text(token), number) for number, addresses, _ in books]
    except ValueError:
        pass  # a name, or nothing
    if not _NAME_TOKEN.fullmatch(token):
        return [Revealed(token, "no token")]
    for number, _, forms in books:
        clear = forms.get(token) or forms.get(token.lower())
        if clear is not None:
            return [Revealed(token, "candidate", clear, number)]
    return [Revealed(token, "unknown")]


def _forms(key: MaskingKey, candidates: Sequence[str]) -> dict[str, str]:
    """Every token that a candidate has as an account, an e-mail address, a domain, a host, a value or a SID."""
    tokens = Tokens(key, ())
    forms: dict[str, str] = {}
    for candidate in candidates:
        names = [tokens.user(candidate), tokens.email(candidate), tokens.sid(candidate), tokens.of("value", candidate)]
        if candidate and "@" not in candidate:
            names += [tokens.domain(candidate), tokens.host(candidate)]
        for name in names:
            if name is not None and name != candidate:
                forms.setdefault(name, candidate)
                # Where the letters of the name are written otherwise, its token is too.
                forms.setdefault(name.lower(), candidate)
    return forms
