"""What the doctor asks and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.data_directory import DataDirectory

CheckState = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    """One finding. `missing` is what nothing works without; `mend` is a command, or one sentence where none helps."""

    name: str
    state: CheckState
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Place:
    """What is asked about: the data directory, the address to listen on, and an external PostgreSQL (or "")."""

    directory: DataDirectory
    host: str
    port: int
    postgres_dsn: str = ""
