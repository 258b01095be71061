"""What a full disk means to somebody who asks how the installation is doing."""

from __future__ import annotations

import shutil
from pathlib import Path

_FULL = 32 * 2**20  # two segments of PostgreSQL's log: with less it cannot work


def disk_trouble(folder: Path | None) -> str:
    """One sentence when the disk that holds `folder` is full; empty when it is not, or is not watched."""
    if folder is None:
        return ""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return f"the disk of the database cannot be looked at: {error.strerror}"
    if usage.free >= _FULL:
        return ""
    return (
        f"the disk of the database is full ({usage.free // 2**20} of {usage.total // 2**20} MiB free): "
        "free some space, and everything goes on by itself"
    )
