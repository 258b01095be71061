"""Sentences: counts, lists, times and names as an analyst reads them. English, UTC, nothing beyond the input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from advise.brief import BriefEntity
from advise.sanitize import defang, plain, redact
from advise.taint import is_tainted

_KINDS: dict[str, tuple[str, str]] = {
    "ip": ("address", "addresses"),
    "user": ("user", "users"),
    "host": ("host", "hosts"),
    "process": ("process", "processes"),
    "file": ("file", "files"),
    "hash": ("file hash", "file hashes"),
    "domain": ("domain", "domains"),
    "url": ("URL", "URLs"),
    "user_agent": ("user agent", "user agents"),
    "email": ("e-mail address", "e-mail addresses"),
}
_ORDER = ("ip", "user", "host", "process", "file", "hash", "domain", "url", "email", "user_agent")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def counted(count: int, singular: str, plural: str = "") -> str:
    """`1 record`, `12 records`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def times(count: int) -> str:
    """`once`, `twice`, `14 times`."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def listed(items: Sequence[str], limit: int = 3) -> str:
    """`a`, `a and b`, `a, b, c and 4 more`."""
    if len(items) > limit:
        return f"{', '.join(items[:limit])} and {len(items) - limit:,} more"
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def moment(time: datetime) -> str:
    """`2026-11-22 10:00:07 UTC`; fractions of a second are left to the evidence."""
    return f"{time.date().isoformat()} {time:%H:%M:%S} UTC"


def span(first: datetime, last: datetime) -> str:
    """`at …`, `from 10:00:07 to 10:05:01 UTC on 2026-11-22`, or both dates when they differ."""
    if first.replace(microsecond=0) == last.replace(microsecond=0):
        return f"at {moment(first)}"
    if first.date() == last.date():
        return f"from {first:%H:%M:%S} to {last:%H:%M:%S} UTC on {first.date().isoformat()}"
    return f"from {moment(first)} to {moment(last)}"


def timestamp(time: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds, as the API writes it."""
    return None if time is None else f"{time.date().isoformat()}T{time:%H:%M:%S.%f}Z"


def shown(entity: BriefEntity, limit: int = 80) -> str:
    """An entity's value as it may be shown; a value that reads like an instruction is withheld."""
    if is_tainted(entity.value):
        return f"({_KINDS.get(entity.kind, (entity.kind, ''))[0]} withheld: it reads like an instruction)"
    return defang(plain(redact(entity.value)[0], limit)) or "(empty)"


def about(entities: Iterable[BriefEntity], limit: int = 3) -> str:
    """`source address 203.0.113.9, users root and admin, host web01`; empty without entities."""
    groups: dict[tuple[int, str, str], dict[str, None]] = {}
    for entity in entities:
        rank = _ORDER.index(entity.kind) if entity.kind in _ORDER else len(_ORDER)
        role: str = entity.role if entity.kind in {"ip", "host"} and entity.role in {"source", "target"} else ""
        groups.setdefault((rank, role, entity.kind), {}).setdefault(shown(entity))
    parts = []
    for (_, role, kind), values in sorted(groups.items()):
        one, many = _KINDS.get(kind, (plain(kind, 30), plain(kind, 30)))
        parts.append(f"{role} {one if len(values) == 1 else many} {listed(list(values), limit)}".strip())
    return ", ".join(parts)


def opening(text: str, limit: int = 280) -> str:
    """The first whole sentences of a text that fit in `limit` characters; empty when not even the first does."""
    kept = ""
    for sentence in _SENTENCE_END.split(" ".join(text.split())):
        longer = f"{kept} {sentence}".strip()
        if len(longer) > limit:
            break
        kept = longer
    return kept


def tactic_name(tactic: str) -> str:
    """`credential-access` as `credential access`."""
    return plain(tactic.replace("-", " ").replace("_", " "), 40)


def stands_in(value: str, text: str) -> bool:
    """The value stands in the text by itself, in any case, not as a piece of a longer name or number."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
