"""Ctrl-C, SIGTERM and SIGHUP as one exception, so that every way of stopping runs the same clean-up, once."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(BaseException):
    """Somebody asked this process to stop. No BaseException handler but the clean-up should take it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """What shells expect of a process that a signal ended."""
        return 128 + self.number


class StopSignals:
    """While entered (main thread only) the signals raise StopRequested; after `begin_stopping` they are ignored."""

    def __init__(self) -> None:
        self._stopping = False
        self._requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in STOPPING}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Takes the signals, again if need be: Ray takes SIGTERM when it starts."""
        for number in STOPPING:
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Raises StopRequested when a signal came: library code that it interrupted may have swallowed the first."""
        if self._requested is not None and not self._stopping:
            raise StopRequested(self._requested)

    def begin_stopping(self) -> None:
        """From here a second Ctrl-C cannot cut the clean-up short and leave processes behind."""
        self._stopping = True
        self.install()

    def end_stopping(self) -> None:
        """The clean-up is done and something goes on: signals count again, and one that came meanwhile does now.

        Raises StopRequested.
        """
        self._stopping = False
        self.install()
        self.check()

    @staticmethod
    def defuse() -> None:
        """Takes back the alarm that Ray's native signal handler sets: it would abort the clean-up after 3 seconds."""
        signal.alarm(0)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._requested = number
        if not self._stopping:
            raise StopRequested(number)
