"""The key of a detection item: its field, and modifiers that are known and can stand together (Sigma 2.1, modifiers).

pySigma applies modifiers one after the other and refuses some combinations by the types that come out. What it would
take and judge otherwise than the author meant is refused here, in words.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from sigma.modifiers import modifier_mapping

POSITIONS = frozenset({"contains", "startswith", "endswith"})
COMPARISONS = frozenset({"gt", "gte", "lt", "lte"})
TIME_PARTS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "week": (1, 53), "month": (1, 12), "year": (1, 9999)}
_REGEX_FLAGS = frozenset({"i", "m", "s", "ignorecase", "multiline", "dotall"})
_WIDE = frozenset({"wide", "utf16", "utf16le", "utf16be"})
_BASE64 = frozenset({"base64", "base64offset"})
_ANYWHERE = frozenset({"all", "neq", "expand"})
_NEEDS_FIELD = frozenset({"exists", "fieldref", *COMPARISONS, *TIME_PARTS})
KNOWN = frozenset({*modifier_mapping, "utf16le"})
# What may stand beside a modifier that leaves no text to work on.
_COMPANIONS: dict[str, frozenset[str]] = {
    "re": _REGEX_FLAGS | POSITIONS | _ANYWHERE,
    "cidr": _ANYWHERE,
    "exists": frozenset(),
    "fieldref": POSITIONS | {"cased", "all", "neq"},
    **dict.fromkeys(COMPARISONS, frozenset({*TIME_PARTS, "all", "neq"})),
    **dict.fromkeys(TIME_PARTS, COMPARISONS | {"all", "neq"}),
}


class BadModifiers(ValueError):
    """Modifiers that are not known, or that mean nothing together; the text says why."""


class ItemKey(NamedTuple):
    """The parts of a key such as `CommandLine|contains|all`; `field` is None for keywords."""

    field: str | None
    modifiers: tuple[str, ...]


def read_key(key: str) -> ItemKey:
    """The parts of a key. Raises BadModifiers."""
    field, *modifiers = key.split("|")
    if modifiers:
        problem = _unknown(modifiers) or _misplaced(field, modifiers) or _incompatible(modifiers)
        if problem:
            raise BadModifiers(problem)
    return ItemKey(field or None, tuple(modifiers))


def _unknown(modifiers: list[str]) -> str | None:
    for number, modifier in enumerate(modifiers):
        if modifier not in KNOWN:
            return f"Unknown modifier {modifier!r}"
        if modifier in modifiers[:number]:
            return f"the modifier {modifier!r} is given twice"
    return None


def _misplaced(field: str, modifiers: list[str]) -> str | None:
    if not field and (needy := [modifier for modifier in modifiers if modifier in _NEEDS_FIELD]):
        return f"{needy[0]!r} needs a field: it cannot be asked of keywords"
    if "re" not in modifiers and (flags := [modifier for modifier in modifiers if modifier in _REGEX_FLAGS]):
        return f"{flags[0]!r} is a flag of `re`, which is missing"
    texts = [modifier for modifier in modifiers if modifier in _BASE64 | _WIDE]
    for modifier in texts:
        if POSITIONS.intersection(modifiers[: modifiers.index(modifier)]):
            return f"{modifier!r} must come before contains, startswith and endswith, which would be encoded with it"
    if _BASE64.intersection(texts) and texts[-1] in _WIDE:
        return f"{texts[-1]!r} must come before base64: afterwards there is nothing to encode"
    return None


def _incompatible(modifiers: list[str]) -> str | None:
    given: AbstractSet[str] = set(modifiers)
    for modifier in modifiers:
        allowed = _COMPANIONS.get(modifier)
        if allowed is not None and (strange := [other for other in modifiers if other not in {modifier, *allowed}]):
            return f"{modifier!r} cannot stand together with {strange[0]!r}"
    for family in (COMPARISONS, frozenset(TIME_PARTS), _WIDE, _BASE64):
        if len(both := sorted(family & given)) > 1:
            return f"{both[0]!r} and {both[1]!r} exclude each other"
    first = modifiers[0]
    for modifier in ("re", "cidr", "fieldref"):
        before = (
            [other for other in modifiers[: modifiers.index(modifier)] if other not in _ANYWHERE | {"cased"}]
            if modifier in given
            else []
        )
        if before:
            return f"{modifier!r} must come before {before[0]!r}"
    if COMPARISONS & given and TIME_PARTS.keys() & given and first in COMPARISONS:
        return f"{first!r} must come after the part of the time that it compares"
    return None
