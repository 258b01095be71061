"""Who and what a record is about, in canonical form, found once for rollups, indicators and grouping."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Final
from urllib.parse import urlsplit

from detect.record import Entity, EntityKind, EntityRole

MAX_ENTITY_LENGTH: Final = 512
"""Characters; a longer value names nobody and would only fill indexes."""
_REMEMBERED: Final = 2048
"""Values of each kind and role: at most some thirty megabytes in all, whatever hostile senders write."""

_PLACEHOLDERS: Final = frozenset(
    {"", "-", "--", "?", "(null)", "null", "none", "n/a", "unset", "(unknown)", "(invalid user)"}
)
# Built-in Windows identities that act on every host: they would tie unrelated records together.
_EVERYONE: Final = frozenset({"system", "local service", "network service", "anonymous logon", "iusr", "localsystem"})
_URL = re.compile(r"\b(?:https?|ftp)://[^\s'\"<>|;`\\)\]}]{1,512}", re.IGNORECASE)
_DOMAIN = re.compile(
    r"(?=.{4,253}\.?$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.){1,32}(?:[a-z]{2,63}|xn--[a-z0-9-]{1,59})\.?"
).fullmatch
_HASH = re.compile(r"[0-9a-fA-F]{32}(?:[0-9a-fA-F]{8}|[0-9a-fA-F]{32})?").fullmatch


def entity(kind: EntityKind, value: str, role: EntityRole = "") -> Entity | None:
    """The entity in canonical form; None for a placeholder, nonsense or over-long text."""
    text = value.strip()
    if text.lower() in _PLACEHOLDERS or len(text) > MAX_ENTITY_LENGTH or "\x00" in text:
        return None
    match kind:
        case "ip":
            address = canonical_ip(text)
            return Entity("ip", address, role) if address else None
        case "host" | "email":
            return Entity(kind, text.rstrip(".").lower(), role)
        case "domain":
            name = text.rstrip(".").lower()
            return Entity("domain", name, role) if _DOMAIN(name) else None
        case "process":
            name = text.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower()
            return Entity("process", name, role) if name else None
        case "hash":
            return Entity("hash", text.lower(), role) if _HASH(text) else None
        case "user":
            return None if text.lower() in _EVERYONE else Entity("user", text, role)
        case _:
            return Entity(kind, text, role)


@cache
def read_entity(kind: EntityKind, role: EntityRole, *, account: bool = False) -> Callable[[str], Entity | None]:
    """`entity` of one kind and role, which remembers the last values: logs name the same few again and again.

    Give it no value longer than MAX_ENTITY_LENGTH: such a value names nobody. An address is no domain here. Of an
    `account` its Windows domain is left out, and its case.
    """

    @lru_cache(maxsize=_REMEMBERED)
    def remembered(value: str) -> Entity | None:
        if kind == "domain" and canonical_ip(value):
            return None
        return entity(kind, value.rpartition("\\")[2].lower() if account else value, role)

    return remembered


@lru_cache(maxsize=16384)
def canonical_ip(text: str) -> str:
    """The address in its shortest form, without port, brackets, zone or IPv4-in-IPv6 wrapping; empty if it is none."""
    candidate = text
    if candidate.startswith("["):
        candidate = candidate[1:].partition("]")[0]
    elif candidate.count(":") == 1:
        candidate = candidate.partition(":")[0]
    try:
        address = ipaddress.ip_address(candidate.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return "" if address.is_unspecified else str(address)


def remote_entities(value: str, role: EntityRole) -> Iterable[Entity]:
    """A peer that a log names either by address or by host name."""
    found = entity("ip", value, role) or entity("domain", value, role)
    return () if found is None else (found,)


def url_entities(text: str, role: EntityRole = "target") -> Iterable[Entity]:
    """The URLs in a command line or other text, each with its host as address or domain."""
    if "://" not in text:
        return
    for match in _URL.finditer(text[:65536]):
        url = match[0].rstrip(".,")
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            continue
        yield Entity("url", url, role)
        yield from remote_entities(host, role)


def distinct(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """The entities without repetitions, in order."""
    return tuple(dict.fromkeys(entities))
