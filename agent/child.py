"""A child process that does not outlive its parent (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(unblock: Iterable[signal.Signals] = ()) -> Callable[[], None]:
    """A `preexec_fn`: the child gets SIGTERM when the thread that made it ends, even by SIGKILL, and hears `unblock`.

    What the child does between fork and exec is only system calls; all else is made ready here.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()
    signals = tuple(unblock)

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        # A parent that ended before the first line has sent nothing.
        if os.getppid() != parent:
            os._exit(1)

    return arrange
