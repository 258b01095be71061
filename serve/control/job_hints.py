"""Agents that wait on this replica for jobs, and how they are woken; meanwhile nothing asks the database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from detect.record import TenantId
from serve.errors import WireError

MOST_OF_ONE_AGENT: Final = 4
_RETRY_S = 10


class Waiter:
    """One request that waits. `spread`: everybody was woken at once, so each should look at a moment of its own."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.spread = False

    def clear(self) -> None:
        """Forgets what was said so far; call it before looking."""
        self._event.clear()
        self.spread = False

    def wake(self, *, spread: bool = False) -> None:
        """Something may be there."""
        self.spread = spread
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """Whether it was woken within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class JobHints:
    """Who waits for jobs: at most so many at once, three quarters of them of one tenant. Not safe for threads.

    `changed` hears how many they are.
    """

    def __init__(self, most: int, changed: Callable[[int], None] = lambda waiting: None) -> None:
        self._most = most
        # What is left is for the others: an operator can enrol as many agents as there are places.
        self._most_of_one_tenant = max(1, most * 3 // 4)
        self._of_tenant: Counter[TenantId] = Counter()
        self._changed = changed
        self._waiting: dict[tuple[TenantId, str], set[Waiter]] = {}
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return self._count

    @contextmanager
    def waiter(self, tenant: TenantId, agent: str) -> Iterator[Waiter]:
        """A place to wait in; raises WireError 429 for an agent with too many, 503 when all are taken."""
        places = self._waiting.get((tenant, agent), set())
        if len(places) >= MOST_OF_ONE_AGENT:
            detail = f"{MOST_OF_ONE_AGENT} requests of this agent wait for jobs already: is it running twice?"
            raise WireError(429, detail, retry_after_s=_RETRY_S)
        if self._count >= self._most or self._of_tenant[tenant] >= self._most_of_one_tenant:
            raise WireError(503, "too many agents wait on this replica", retry_after_s=_RETRY_S, reason="busy")
        made = Waiter()
        places.add(made)
        self._waiting[tenant, agent] = places
        self._count += 1
        self._of_tenant[tenant] += 1
        self._changed(self._count)
        try:
            yield made
        finally:
            self._count -= 1
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]
            self._changed(self._count)
            places.discard(made)
            if not places:
                self._waiting.pop((tenant, agent), None)

    def hint(self, tenant: TenantId, agent: str) -> None:
        """A job may be there for this agent."""
        for waiter in self._waiting.get((tenant, agent), ()):
            waiter.wake()

    def hint_all(self) -> None:
        """Words may have been missed: everybody should look."""
        for places in self._waiting.values():
            for waiter in places:
                waiter.wake(spread=True)
