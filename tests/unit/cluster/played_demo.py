"""The demo on a terminal, with a cluster of its own that is somebody else's server: DIRECTORY URL FILE.

FILE gets the folder whose files are to be stored. It says `waits` when the demo has been played and goes on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.data_directory import DataDirectory
from cluster.demo import DemoPlan, DemoSite, run_demo
from cluster.lifecycle import Progress


@dataclass(frozen=True)
class Endpoint:
    base_url: str
    agent_url: str = ""
    admin_key: str | None = "first-admin-secret"


class ServerOfTheTest:
    def start(self, _progress: Progress) -> Endpoint:
        return Endpoint(sys.argv[2])

    def stop(self) -> None:
        """It goes on."""

    def wait(self) -> None:
        sys.stderr.write("waits\n")
        threading.Event().wait(20)
        sys.stderr.write("nobody stopped it\n")


class Told:
    """A sender that tells where the lines are."""

    def __init__(self, site: DemoSite) -> None:
        self._site = site

    def start(self, _progress: Callable[[str], None]) -> None:
        Path(sys.argv[3]).write_text(str(self._site.folder))

    def account(self) -> dict[str, Any]:
        return {}

    def stop(self) -> None:
        Path(sys.argv[3]).write_text("")


if __name__ == "__main__":
    lines = [(0.0, "auth.log", f"line {number}") for number in range(20)]
    plan = DemoPlan(lambda: iter(lines), Told, deadline_seconds=30)
    run_demo(DataDirectory(Path(sys.argv[1])), sys.argv[2], ServerOfTheTest, plan, once=False)
