"""PING: says that the agent is there, which versions run and what its clock says. Changes nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any, Final

from agent.controller.executor import INTERRUPTED, Arguments, Ending, JobRun


class Ping:
    """`facts` adds what else the controller knows of itself; `offset_ms` is the server's clock less this host's."""

    type: Final = "PING"

    def __init__(self, version: str, facts: Callable[[], dict[str, Any]], offset_ms: Callable[[], int]) -> None:
        self._version = version
        self._facts = facts
        self._offset_ms = offset_ms
        self._started = time.monotonic_ns()

    def run(self, run: JobRun) -> Ending:
        """Answers with the text that came, versions and clock."""
        arguments = Arguments(run.job.args)
        echo = arguments.text("echo", "", most=1024)
        arguments.done()
        run.write(f"pong {echo}".rstrip())
        data = {
            "echo": echo,
            "version": self._version,
            "python": platform.python_version(),
            "platform": platform.platform()[:200],
            "clock_ms": run.now_ms(),
            "clock_offset_ms": self._offset_ms(),
            "uptime_s": (time.monotonic_ns() - self._started) // 1_000_000_000,
        }
        return Ending("succeeded", "", "", self._facts() | data)

    def resume(self, run: JobRun) -> Ending:
        """A ping that nobody answered in time says nothing; it is not answered late."""
        return INTERRUPTED
