"""Finds in a text what has a form of its own: addresses, e-mail, card numbers, SIDs, tokens and keys.

Every finder first asks for a character or word that its pattern cannot do without, which decides most texts in less
than a microsecond. A finding is (start, end, replacement, rule); all expressions are linear or bounded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Final

from agent.masking.policy import PatternRule
from agent.masking.tokens import Tokens

Finding = tuple[int, int, str, str]
Finder = Callable[[str, list[Finding]], None]

# From the first dot on: texts hold fewer dots than digits, and a search for a character that must be there is quick.
_OCTETS = re.compile(r"\.(?<=[0-9]\.)[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}")
_PORT = re.compile(r"\.[0-9]{1,5}(?![0-9.]*[0-9])( > |: )?")
_PLAIN_OCTETS = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.|\Z)){4}")
# Digits alone, or in the groups that cards are printed in: any others are ids.
_CARD = re.compile(r"[0-9](?:[0-9]{12,18}|[0-9]{3}([ -])(?:[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{6}\1[0-9]{5}))")
# By the issuers' number ranges (ISO/IEC 7812): a tenth of all numbers would pass Luhn's test.
_CARD_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[68])|6(?:011|5|4[4-9])|35")
_AT = re.compile(r"(@|%40)([A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?)")
_LOCAL_BACKWARDS = re.compile(r"[\w.%+'-]{1,64}")
_UNIT = frozenset(
    ["service", "socket", "timer", "mount", "slice", "scope", "target", "path", "device", "automount", "swap"]
)
_SIX_FULL = re.compile(r"(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}")
_SIX_BACKWARDS = re.compile(r"[0-9A-Fa-f:]{1,39}")
_SIX_AFTER = re.compile(
    r"[0-9A-Fa-f:]{0,39}:[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9])|[0-9A-Fa-f:]{0,39}"
)
_JWT = re.compile(
    r"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{2,16384}(?:\.[A-Za-z0-9_-]{0,8192}){0,3}"
)
_SID = re.compile(r"S-1-5-21(?:-[0-9]{1,10}){3,4}")
_DIGITS_ALIKE: Final = bytes.maketrans(b"123456789", b"0" * 9)
_THIRTEEN: Final = b"0" * 13
# By a sign that all of a group need, so that most texts are asked for few.
_SECRETS: Final = tuple(
    (sign, tuple((needs, re.compile(pattern)) for needs, pattern in forms))
    for sign, forms in {
        "_": [
            ("ghp_", r"ghp_[A-Za-z0-9]{30,255}"),
            ("gho_", r"gho_[A-Za-z0-9]{30,255}"),
            ("ghs_", r"ghs_[A-Za-z0-9]{30,255}"),
            ("github_pat_", r"github_pat_\w{30,255}"),
            ("_live_", r"[rs]k_live_[A-Za-z0-9]{16,255}"),
            *((f"ts{kind}_", rf"ts{kind}_[A-Za-z0-9_-]{{24,255}}") for kind in "kesm"),
        ],
        "IA": [("AKIA", r"AKIA[0-9A-Z]{16}"), ("ASIA", r"ASIA[0-9A-Z]{16}")],
        "-": [
            (
                "PRIVATE KEY",
                r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[^-]{0,16384}(?:-----END [A-Z ]{0,32}PRIVATE KEY-----)?",
            ),
            ("glpat-", r"glpat-[\w-]{20,255}"),
            ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,255}"),
        ],
        "AIza": [("AIza", r"AIza[\w-]{35}")],
        "earer ": [("earer ", r"(?<=earer )[A-Za-z0-9._~+/-]{16,8192}=*")],
        "asic ": [("asic ", r"(?<=[Bb]asic )[A-Za-z0-9+/]{12,4096}=*")],
        "@": [("://", r"(?<=://)[^\s/@:'\"]{0,128}:[^\s/@'\"]{1,256}(?=@)")],
    }.items()
)


def finder(rule: PatternRule, tokens: Tokens) -> Finder:
    """The finder of a rule: its findings have what the rule's action puts there."""
    match rule.kind:
        case "address":
            return _addresses(rule, tokens)
        case "email":
            return _emails(rule, tokens)
        case "card":
            return _cards(rule, tokens)
        case "sid":
            return _plain(rule, "S-1-5-21-", _SID, tokens.sid)
        case "jwt":
            return _plain(rule, "eyJ", _JWT, lambda text: tokens.of("secret", text))
        case "secret":
            return _secrets(rule, tokens)


def run_before(backwards: re.Pattern[str], text: str, end: int, most: int) -> int:
    """How many characters before `end` the pattern takes, read from right to left; linear, as a search is not."""
    match = backwards.match(text[max(0, end - most) : end][::-1])
    return 0 if match is None else match.end()


def redacted(name: str) -> str:
    """What stands for a redacted value."""
    return f"[redacted:{name}]"


def _addresses(rule: PatternRule, tokens: Tokens) -> Finder:
    token_of = tokens.addresses.token_text
    plain = _PLAIN_OCTETS.fullmatch
    mark, redact = redacted(rule.name), rule.action == "redact"

    def find(text: str, found: list[Finding]) -> None:
        if ":" in text and ("::" in text or text.count(":") >= 7):
            _six(text, found, rule.name, lambda address: mark if redact else token_of(address))
        if text.count(".") < 3:
            return
        done = 0
        for match in _OCTETS.finditer(text):
            dot, end = match.span()
            start = dot - 1
            while start > dot - 3 and start > done and text[start - 1] in "0123456789":
                start -= 1
            if start >= done and _is_address(text, start, end):
                address = text[start:end]
                token = token_of(address) if plain(address) else _padded_token(address, token_of)
                if token is not None:
                    found.append((start, end, mark if redact else token, rule.name))
            done = end

    return find


def _is_address(text: str, start: int, end: int) -> bool:
    """Whether four numbers with dots stand alone: no longer row of numbers, and no version of a product."""
    before = text[start - 1] if start else " "
    after = text[end : end + 2]
    if before.isdigit() or (before == "." and text[start - 2 : start - 1].isdigit()):
        return False
    if after[:1].isdigit():
        return False
    if after[:1] == "." and after[1:].isdigit() and not _is_before_port(text, start, end):
        return False
    if before == "/" and start > 1 and text[start - 2].isalpha():
        return not text.startswith(".0.0", end - 4)  # Chrome/120.0.0.0, and no interface/10.1.1.1
    if before in "vV" and (start == 1 or not text[start - 2].isalnum()):
        return False
    return not (before == "=" and text[max(0, start - 8) : start - 1].lower().endswith("version"))


def _is_before_port(text: str, start: int, end: int) -> bool:
    """Whether a fifth number is a port, as tcpdump writes them: `IP 192.0.2.1.443 > 192.0.2.2.51000: `."""
    port = _PORT.match(text, end)
    return port is not None and (port[1] is not None or text.endswith(("IP ", "> "), 0, start))


def _padded_token(text: str, token_of: Callable[[str], str]) -> str | None:
    """The token of an address with zeros in front, with as many in front; None where a number is over 255."""
    numbers = [int(part) for part in text.split(".")]
    if max(numbers) > 255:
        return None
    parts = zip(text.split("."), token_of(".".join(map(str, numbers))).split("."), strict=True)
    return ".".join(new.zfill(len(old)) if old[0] == "0" else new for old, new in parts)


def _six(text: str, found: list[Finding], name: str, replacement: Callable[[str], str]) -> None:
    done = 0
    place = text.find("::")
    while place >= 0:
        start = max(done, place - run_before(_SIX_BACKWARDS, text, place, 39))
        match = _SIX_AFTER.match(text, place)
        end = place if match is None else match.end()
        _six_at(text, start, end, found, name, replacement)
        done = max(end, place + 2)
        place = text.find("::", done)
    if text.count(":") >= 7:
        for whole in _SIX_FULL.finditer(text):
            _six_at(text, whole.start(), whole.end(), found, name, replacement)


def _six_at(
    text: str, start: int, end: int, found: list[Finding], name: str, replacement: Callable[[str], str]
) -> None:
    before, after = text[start - 1 : start], text[end : end + 1]
    if end > start and text[end - 1] == ":" and text[end - 2] != ":":
        end, after = end - 1, ""  # a colon after the address
    if text.endswith("::", start, end) and text[start : end - 2].isalpha():
        return  # abc::, a name in a program
    if before.isalnum() or before in ("_", "]", ":") or after.isalnum() or after in ("_", ":"):
        return
    with contextlib.suppress(ValueError):
        found.append((start, end, replacement(text[start:end]), name))


def _emails(rule: PatternRule, tokens: Tokens) -> Finder:
    mark = redacted(rule.name)

    def find(text: str, found: list[Finding]) -> None:
        if "@" not in text and "%40" not in text:
            return
        for match in _AT.finditer(text):
            at, domain = match.group(1, 2)
            start = match.start() - run_before(_LOCAL_BACKWARDS, text, match.start(), 64)
            local = text[start : match.start()].lstrip(".'-")
            start = match.start() - len(local)
            last = domain.rpartition(".")[2]
            if not local:
                continue
            if last.isdigit() and domain.count(".") == 3:  # the address finder takes the rest
                masked = local if tokens.keeps(local) else tokens.of("user", local)
                found.append((start, match.start(), mark if rule.action == "redact" else masked, rule.name))
            elif "." in domain and len(last) > 1 and last.isalpha() and last.lower() not in _UNIT:
                email = mark if rule.action == "redact" else tokens.email(local + at + domain, at)
                found.append((start, match.end(), email or mark, rule.name))

    return find


def _cards(rule: PatternRule, tokens: Tokens) -> Finder:
    mark = redacted(rule.name)

    def find(text: str, found: list[Finding]) -> None:
        if len(text) < 13:
            return
        # Bytes are translated in a tenth of a text's time; most texts hold no thirteen digits in a row.
        if _THIRTEEN not in text.encode("utf-8", "surrogatepass").translate(_DIGITS_ALIKE, b" -"):
            return
        for match in _CARD.finditer(text):
            start, end = match.span()
            before, after = text[start - 1 : start], text[end : end + 1]
            if before.isalnum() or after.isalnum() or before == "." or (match[1] == "-" and "-" in (before, after)):
                continue
            digits = match[0].replace(" ", "").replace("-", "")
            if is_card_number(digits):
                token = mark if rule.action == "redact" else tokens.of("secret", digits)
                found.append((start, end, token, rule.name))

    return find


def is_card_number(digits: str) -> bool:
    """Whether 13 to 19 digits can be a payment card's number: an issuer's range, and Luhn's check (ISO/IEC 7812)."""
    if not 13 <= len(digits) <= 19 or not _CARD_ISSUER.match(digits):
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = ord(digit) - 48
        if place % 2:
            number = number * 2 - 9 if number > 4 else number * 2
        total += number
    return total % 10 == 0


def _plain(rule: PatternRule, needs: str, pattern: re.Pattern[str], token: Callable[[str], str | None]) -> Finder:
    mark = redacted(rule.name)

    def find(text: str, found: list[Finding]) -> None:
        if needs not in text:
            return
        for match in pattern.finditer(text):
            masked = mark if rule.action == "redact" else token(match[0])
            found.append((*match.span(), masked or mark, rule.name))

    return find


def _secrets(rule: PatternRule, tokens: Tokens) -> Finder:
    mark, redact = redacted(rule.name), rule.action == "redact"

    def find(text: str, found: list[Finding]) -> None:
        for sign, forms in _SECRETS:
            if sign in text:
                for needs, pattern in forms:
                    if needs in text:
                        found.extend(
                            (*match.span(), mark if redact else tokens.of("secret", match[0]), rule.name)
                            for match in pattern.finditer(text)
                        )

    return find
