"""Progress of something long: a live line on a terminal, plain lines with elapsed seconds everywhere else."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cluster.terminal_text import visible

_UPDATE_SECONDS = 5.0


class ProgressLines:
    """Call it with what begins now; what went before is ticked off with its duration."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._step_began = self._began
        self._step: str | None = None
        self._status: Status | None = None
        self._updated = 0.0
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(done=kind is None)

    @property
    def elapsed(self) -> float:
        """Seconds since the first moment."""
        return time.monotonic() - self._began

    def __call__(self, step: str) -> None:
        step = visible(step)
        if step == self._step:
            return
        self.finish()
        self._step, self._step_began = step, time.monotonic()
        if self._console.is_terminal:
            self._status = self._console.status(Text(f"{step} …"), spinner="dots")
            self._status.start()
        else:
            self._updated = self.elapsed
            self._line(step)

    def update(self, detail: str) -> None:
        """How far the current step is: live on a terminal, elsewhere a line every few seconds at most."""
        if self._step is None:
            return
        shown = f"{self._step}: {visible(detail)}"
        if self._status is not None:
            self._status.update(Text(shown))
        elif shown != self._shown and self.elapsed - self._updated >= _UPDATE_SECONDS:
            self._updated, self._shown = self.elapsed, shown
            self._line(shown)

    def finish(self, *, done: bool = True) -> None:
        """Ends the current step."""
        if self._status is not None:
            self._status.stop()
            self._status = None
            took = time.monotonic() - self._step_began
            sign = ("✓", "green") if done else ("✗", "bold red")
            self._console.print(Text.assemble(sign, f" {self._step} ", (f"{took:.1f} s", "dim")))
        self._step = None

    def _line(self, shown: str) -> None:
        self._console.print(f"[{self.elapsed:6.1f} s] {shown}", soft_wrap=True)
