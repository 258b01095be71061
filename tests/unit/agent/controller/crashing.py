"""A controller that is killed at its n-th durable step: `python -m tests.unit.agent.controller.crashing SETTINGS N`.

Every fsync, fdatasync and rename counts; N is where SIGKILL comes, before the step when it is odd, after it when it is
even (N counts half steps). Anything else is the real program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from agent.controller.__main__ import main


def killing(limit: int) -> None:
    passed = 0

    def half_step() -> None:
        nonlocal passed
        passed += 1
        if passed == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            half_step()
            result = call(*args, **kwargs)
            half_step()
            return result

        return stepped

    for name in ("fsync", "fdatasync", "replace"):
        setattr(os, name, wrapped(getattr(os, name)))


if __name__ == "__main__":
    killing(int(sys.argv[2]))
    sys.exit(main(["--config", sys.argv[1]]))
