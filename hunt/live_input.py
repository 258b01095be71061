"""Input that may be long in coming, and must not keep Ctrl-C waiting."""

from __future__ import annotations

import io
import os
import select
from typing import Final

_LOOK_AROUND_SECONDS: Final = 0.5


class LiveInput(io.RawIOBase):
    """What comes through a descriptor, which stays its owner's to close.

    A signal that arrives after Python last looked for one and before the kernel waits is noticed only when that wait
    ends, so no wait is long.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        while not select.select([self._descriptor], [], [], _LOOK_AROUND_SECONDS)[0]:
            pass
        return os.readv(self._descriptor, [buffer])
