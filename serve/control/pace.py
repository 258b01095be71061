"""How often one agent may come: a token bucket each, of which a replica remembers the most recent ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from serve.errors import WireError
from serve.ingest.token_bucket import TokenBucket

_REMEMBERED: Final = 50_000


class Pace:
    """At most `burst` requests at once and `rate` a second for long. `clock` is in seconds and does not go back."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float], *, least_retry_s: int = 1) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._least_retry_s = least_retry_s
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def check(self, who: Hashable, detail: str) -> None:
        """Counts a request; raises WireError 429 with that detail when there are too many."""
        now = self._clock()
        bucket = self._buckets.pop(who, None) or TokenBucket(self._rate, self._burst, now)
        self._buckets[who] = bucket
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        if wait := bucket.take(now, 1):
            raise WireError(429, detail, retry_after_s=max(self._least_retry_s, round(wait)))
