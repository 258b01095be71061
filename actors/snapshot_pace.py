"""When a tenant's state is worth a snapshot: what a restart would have to judge again against what one costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# What a restart may have to judge again at most, as long as a snapshot is cheap, in seconds of judging.
_REPLAY_S = 3.0
# Snapshots take at most about as much as the judging: what is dear is made beside it, on another core if there is one,
# and the longer it is put off the more a restart has to judge again.
_LARGEST_SHARE = 1.0


@dataclass(slots=True)
class SnapshotPace:
    """Counts the judging since the last snapshot. Times are seconds of processor time, `at` is the clock's.

    `cost_s` is what the last snapshot took; until there is one, what reading the last one took. From
    `dear_s` on it is dear.
    """

    at: float = 0.0
    batches: int = 0
    judging_s: float = 0.0
    cost_s: float = 0.0
    dear_s: float = 0.1

    @property
    def dear(self) -> bool:
        """Whether a snapshot takes so long that judging should not wait for it."""
        return self.cost_s >= self.dear_s

    def judged(self, batches: int, judging_s: float) -> None:
        """Counts what was judged."""
        self.batches += batches
        self.judging_s += judging_s

    def due(self, asked: bool) -> bool:
        """Whether it is time; `asked` says that the plan's pace would have one. A dear one must be worth it."""
        worth = not self.dear or self.judging_s * _LARGEST_SHARE >= self.cost_s
        return worth and (asked or self.judging_s >= _REPLAY_S)

    def restart(self, at: float) -> None:
        """A snapshot was taken, or read."""
        self.at, self.batches, self.judging_s = at, 0, 0.0


@contextmanager
def uncollected() -> Iterator[None]:
    """No looking for cycles meanwhile: states and snapshots are very many objects and have none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
