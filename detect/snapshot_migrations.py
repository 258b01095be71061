"""Brings the content of an older snapshot up, one format at a time. A step is never changed once it has shipped.

tests/unit/tenant/stored_snapshots holds a snapshot of every format, made by the code of its day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detect.snapshot_evidence import share_evidence

Content = dict[str, Any]


def _to_2(content: Content) -> Content:
    """Format 1 kept evidence in every contribution of a correlation, and once more in a table of the windows."""
    return share_evidence(content)


# Format -> how its content becomes that of the next format.
MIGRATIONS: Mapping[int, Callable[[Content], Content]] = {1: _to_2}


def migrated(content: Content, found: int, wanted: int) -> Content:
    """The content as format `wanted` has it. KeyError when no migration begins at its format."""
    for step in range(found, wanted):
        content = MIGRATIONS[step](content)
    return content
