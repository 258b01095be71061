"""A token bucket that is paid afterwards: whoever finds it above zero may pass, and what it took may leave a debt.

So a batch larger than the burst passes once the bucket has anything in it, what comes next waits until the debt is
earned back, and over time no more than `rate` a second gets through. Pure: the time is an argument.
"""

from __future__ import annotations


class TokenBucket:
    """Earns `rate` a second up to `burst`, and starts full. `now` is in seconds of any clock that does not go back."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError(f"a bucket needs a rate and a burst above 0, not {rate} and {burst}")
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """What is in the bucket; below zero is debt."""
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait_s(self, now: float) -> float:
        """Seconds until something is in the bucket; 0 when there is."""
        level = self.level(now)
        return 0.0 if level > 0 else max(-level, 1.0) / self.rate

    def take(self, now: float, amount: float) -> float:
        """Takes the amount and returns 0, or takes nothing and returns the seconds to wait."""
        wait = self.wait_s(now)
        if wait == 0:
            self._level -= amount
        return wait

    def charge(self, now: float, amount: float) -> None:
        """Takes the amount whatever is in the bucket; a negative one gives back, up to the burst."""
        self._level = min(self.burst, self.level(now) - amount)

    def change(self, now: float, rate: float, burst: float) -> None:
        """A new rate from now on; debt is kept, what is above the new burst is not."""
        level = self.level(now)
        self.rate, self.burst = rate, burst
        self._level = min(burst, level)


class Rates:
    """The two buckets of a tenant or of an agent; None where there is no limit."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records: TokenBucket | None = None
        self.bytes: TokenBucket | None = None

    def limit(self, records_per_s: float, bytes_per_s: float, burst_s: float, now: float) -> None:
        """Rates of this replica from now on; 0 is none."""
        self.records = _changed(self.records, records_per_s, burst_s, now)
        self.bytes = _changed(self.bytes, bytes_per_s, burst_s, now)

    def wait_s(self, now: float) -> float:
        """Seconds until both have something; 0 when they have."""
        records = self.records.wait_s(now) if self.records else 0.0
        return max(records, self.bytes.wait_s(now) if self.bytes else 0.0)

    def charge(self, now: float, records: float, size: float) -> None:
        """Takes from both; negative amounts give back."""
        if self.records and records:
            self.records.charge(now, records)
        if self.bytes and size:
            self.bytes.charge(now, size)


def _changed(bucket: TokenBucket | None, rate: float, burst_s: float, now: float) -> TokenBucket | None:
    if rate <= 0:
        return None
    if bucket is None:
        return TokenBucket(rate, rate * burst_s, now)
    bucket.change(now, rate, rate * burst_s)
    return bucket
