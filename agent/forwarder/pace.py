"""When to send: waits between attempts, a pause for all lanes when the server asks for one, and a cap on bytes."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: the n-th wait is anything from 0 to first·2^n, or the longest. In seconds."""

    first_s: float = 0.5
    longest_s: float = 60.0

    def wait_s(self, failures: int, chance: float) -> float:
        """The wait after so many failures in a row (1 and more); `chance` is uniform in 0 to 1."""
        return chance * min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))


class Gate:
    """Lanes wait here before an attempt. Any thread may call any method."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed_until = 0.0
        self._wakes = 0
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether nothing shall be begun any more."""
        return self._stopped

    def hold(self, seconds: float) -> None:
        """Nobody passes for so long: the server asked for it."""
        with self._changed:
            self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    def open(self) -> None:
        """Ends all waits: something has changed."""
        with self._changed:
            self._closed_until = 0.0
            self._wakes += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends all waits for ever."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Waits so long, and until nobody is held; less when the gate is opened or stopped meanwhile."""
        deadline = time.monotonic() + seconds
        with self._changed:
            wakes = self._wakes
            while not self._stopped and wakes == self._wakes:
                left = max(deadline, self._closed_until) - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)


class Bandwidth:
    """A bucket of bytes that fills at a rate and holds one second of it; 0: no limit."""

    def __init__(self, bytes_per_second: int, gate: Gate) -> None:
        self._rate = float(bytes_per_second)
        self._gate = gate
        self._lock = threading.Lock()
        self._free_at = time.monotonic() - 1.0

    def spend(self, size: int) -> None:
        """Returns when so many bytes may be sent; at once when the gate is stopped."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            begins = max(self._free_at, now - 1.0)
            self._free_at = begins + size / self._rate
            wait = begins - now
        while wait > 0 and not self._gate.stopped:
            time.sleep(min(wait, 0.1))
            wait = begins - time.monotonic()


def chance() -> float:
    """Uniform in 0 to 1."""
    return random.random()  # noqa: S311  # spreads retries, keeps no secret
