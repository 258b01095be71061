"""How long to wait before asking again: exponential, with full jitter, unless the server named a time."""

from __future__ import annotations

import random
from typing import Final

_LEAST_S: Final = 0.5
_MOST_S: Final = 60.0


class Backoff:
    """Waits between 0 and 0.5, 1, 2, ... 60 seconds, so that many agents do not come back at once."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311  # spreads load, guards nothing
        self._failures = 0

    def next(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait now, at least what the server asked for."""
        ceiling = min(_MOST_S, _LEAST_S * 2 ** min(self._failures, 10))
        self._failures += 1
        return (retry_after_s or 0.0) + self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """The server answered."""
        self._failures = 0
