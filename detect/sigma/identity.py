"""What rules are known by, in packs, overlays, tests and references alike. Needs nothing of pySigma."""

from __future__ import annotations

from typing import Any
from uuid import UUID


def identity_of(content: dict[str, Any], path: str, position: int) -> str:
    """The id that the rule of a document is known by: the stated one, else the name, else the document's place."""
    return stated_identity(content) or f"{path}#{position}"


def stated_identity(content: dict[str, Any]) -> str | None:
    """The stated id, a UUID in its usual form, or else the name; None where neither is stated."""
    stated = content.get("id")
    if stated is None:
        name = content.get("name")
        return None if name is None else str(name)
    return canonical_reference(str(stated))


def canonical_reference(text: str) -> str:
    """An id or name as rules are known by it: of a UUID, case and braces do not matter."""
    try:
        return str(UUID(text)) if len(text) >= 32 else text
    except ValueError:
        return text
