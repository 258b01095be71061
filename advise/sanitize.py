"""What may be quoted of a text somebody else wrote: characters, length, secrets and taint, decided in one place."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from advise.taint import is_tainted, judge

FIELD_LIMIT = 200
WITHHELD = "[text withheld: it reads like an instruction]"

_CHAT_TOKEN = re.compile(
    r"<\|[^|<>]{0,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>|"
    r"</?(?:system|assistant|user|instructions?|tool_call|think)>",
    re.IGNORECASE,
)
_SPACES = re.compile(r"\s+")
_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S)),
    ("token", re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+)?")),
    ("token", re.compile(r"\b(?:gh[pousr]_\w{30,}|github_pat_\w{30,}|glpat-[\w-]{18,}|xox[abeprs]-[\w-]{10,})")),
    ("token", re.compile(r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)[-_][\w-]{12,}")),
    ("cloud key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{35}")),
    ("authorization", re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.~=-]{12,}")),
    ("password", re.compile(r"(?i)(://[^/\s:@]{1,64}:)[^/\s@]{1,128}(?=@)")),
    (
        "secret",
        re.compile(
            r"(?i)\b(pass(?:word|wd|phrase)?|pwd|secret|api[_-]?key|access[_-]?key|client[_-]?secret|auth[_-]?token)"
            r"(\"?\s*[=:]\s*\"?)(?![/\s])[^\s\"'&;,]{4,}"
        ),
    ),
)
_CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-])")
_URL = re.compile(r"\b(h)(tt)(ps?://)([^\s\"'<>]+)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\d.])(\d{1,3}\.\d{1,3}\.\d{1,3})\.(\d{1,3})(?![\d.])")
_IDENTIFIER: dict[str, re.Pattern[str]] = {
    "user": re.compile(r"[\w.@\\$+-]{1,64}"),
    "host": re.compile(r"[A-Za-z0-9._-]{1,128}"),
    "ip": re.compile(r"[0-9A-Fa-f.:%]{2,45}"),
    "domain": re.compile(r"[A-Za-z0-9._-]{1,253}"),
    "hash": re.compile(r"[0-9A-Fa-f]{16,128}"),
    "email": re.compile(r"[\w.+-]{1,64}@[\w.-]{1,190}"),
    "process": re.compile(r"[\w.:/\\+-]{1,160}(?: [\w.:/\\+()-]{1,40}){0,3}"),
    "file": re.compile(r"[\w.:/\\+~$@-]{1,160}(?: [\w.:/\\+()-]{1,40}){0,3}"),
}


class CleanText(NamedTuple):
    """A text fit to show. `text` is WITHHELD when `tainted`; `redacted` names the kinds of secrets removed.

    `promptable`: it may also be shown to a model.
    """

    text: str
    tainted: bool
    redacted: tuple[str, ...]
    promptable: bool


def plain(text: str, limit: int = FIELD_LIMIT) -> str:
    """One line of visible characters: no control, bidirectional, zero-width or template marks, at most `limit` long."""
    visible = "".join(_visible(char) for char in unicodedata.normalize("NFC", text[: limit * 8]))
    while (stripped := _CHAT_TOKEN.sub(" ", visible)) != visible:
        visible = stripped
    line = _SPACES.sub(" ", visible).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def redact(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with passwords, keys, tokens and card numbers replaced by their kind, and the kinds found."""
    kinds: list[str] = []
    for kind, pattern in _SECRETS:
        replaced = pattern.sub(lambda match, kind=kind: f"{_kept(match)}[{kind} removed]", text)  # type: ignore[misc] # kind is bound early on purpose
        if replaced != text:
            kinds.append(kind)
            text = replaced
    replaced = _CARD.sub(lambda match: "[card number removed]" if _is_card(match[0]) else match[0], text)
    if replaced != text:
        kinds.append("card number")
    return replaced, tuple(dict.fromkeys(kinds))


def clean(text: str, limit: int = FIELD_LIMIT) -> CleanText:
    """Judge the whole text, then remove secrets, then cut: the order matters, a cut must hide neither."""
    safe, kinds = redact(text)
    taint = judge(text)
    if taint.tainted:
        return CleanText(WITHHELD, True, kinds, False)
    return CleanText(plain(safe, limit), False, kinds, not taint.foreign)


def is_identifier(kind: str, value: str) -> bool:
    """Whether an entity's value has the shape of its kind and reads like no instruction: fit for a prompt."""
    shape = _IDENTIFIER.get(kind)
    return shape is not None and shape.fullmatch(value) is not None and not is_tainted(value)


def defang(text: str, *, addresses: bool = False) -> str:
    """URLs written so that no program makes a link of them; IPv4 addresses too, for renderers that link those."""
    text = _URL.sub(lambda match: f"{match[1]}xx{match[3]}{match[4].replace('.', '[.]', 1)}", text)
    return _ADDRESS.sub(r"\1[.]\2", text) if addresses else text


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category in {"Cc", "Zl", "Zp", "Zs"}:
        return " "
    if category == "Cs":
        return "\ufffd"
    return "" if category in {"Cf", "Co", "Cn"} else char


def _kept(match: re.Match[str]) -> str:
    return "".join(group for group in match.groups() if group)


def _is_card(text: str) -> bool:
    """Luhn's check over 13 to 19 digits that do not begin with 0."""
    digits = [int(char) for char in text if char.isdigit()]
    if digits[0] == 0 or len(set(digits)) == 1:
        return False
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (doubled + sum(digits[-1::-2])) % 10 == 0
