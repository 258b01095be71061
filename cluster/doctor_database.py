"""The disk under the embedded PostgreSQL: how much room it has, and whether its ballast is still there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cluster.ballast import DEFAULT_BYTES, LEAST_FREE, Ballast
from cluster.data_directory import DataDirectory
from cluster.doctor_check import Check

MIB = 2**20
_FREE_SOME = "free some space on that disk, or give it more; the system goes on by itself"


def database_disk_check(directory: DataDirectory) -> Check:
    """Of the folder that holds the database, which need not be on the disk of the data directory."""
    name = "database disk"
    try:
        stored = json.loads((directory.path / "postgres.json").read_text(encoding="utf-8"))
        folder = Path(stored["cluster_dir"])
        usage = shutil.disk_usage(folder)
        there = Ballast(folder).present
    except FileNotFoundError:
        return Check(name, "ok", "the database will be made at the first start")
    except (OSError, ValueError, KeyError) as error:
        return Check(name, "warning", f"the database's folder cannot be looked at: {error}")
    found = f"{usage.free / MIB:,.0f} MiB free at {folder}"
    if usage.free < LEAST_FREE:
        return Check(name, "missing", f"{found}: full, PostgreSQL cannot work", _FREE_SOME)
    if not there:
        room = f"the reserve of {DEFAULT_BYTES / MIB:.0f} MiB is used up or was never made"
        return Check(name, "warning", f"{found}; {room}", f"{_FREE_SOME}, and makes the reserve again")
    return Check(name, "ok", f"{found}, and {DEFAULT_BYTES / MIB:.0f} MiB in reserve")
