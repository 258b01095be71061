"""Text in a collector's configuration, which its reader would otherwise expand."""

from __future__ import annotations


def literal(text: str) -> str:
    """Text that the collector's configuration reader takes as it is: `$` starts a variable there."""
    return text.replace("$", "$$")
