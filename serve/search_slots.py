"""How many searches run at once, so that analysts cannot take from ingest what the database has to give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from detect.record import TenantId
from serve.errors import WireError


class SearchSlots:
    """Slots of one replica: so many searches in all and for each tenant; the next wait, at most `waiting` a tenant.

    Searches share a pool of connections with the checks of keys, so there must be fewer slots than connections.
    """

    def __init__(
        self,
        refused: Callable[[], None],
        *,
        total: int = 4,
        per_tenant: int = 2,
        waiting: int = 4,
        wait_s: float = 5.0,
    ) -> None:
        self._refused = refused
        self._all = asyncio.Semaphore(total)
        self._per_tenant = per_tenant
        self._waiting = waiting
        self._wait_s = wait_s
        self._tenants: dict[TenantId, asyncio.Semaphore] = {}
        self._present: dict[TenantId, int] = {}

    @asynccontextmanager
    async def slot(self, tenant: TenantId) -> AsyncIterator[None]:
        """A place for one search; WireError 429 with Retry-After when too many of the tenant's wait, or too long."""
        present = self._present.get(tenant, 0)
        if present >= self._per_tenant + self._waiting:
            raise self._busy()
        own = self._tenants.setdefault(tenant, asyncio.Semaphore(self._per_tenant))
        self._present[tenant] = present + 1
        try:
            async with self._acquired(own), self._acquired(self._all):
                yield
        finally:
            self._present[tenant] -= 1
            if not self._present[tenant]:
                del self._present[tenant], self._tenants[tenant]

    @asynccontextmanager
    async def _acquired(self, places: asyncio.Semaphore) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._wait_s):
                await places.acquire()
        except TimeoutError:
            raise self._busy() from None
        try:
            yield
        finally:
            places.release()

    def _busy(self) -> WireError:
        self._refused()
        detail = "too many searches of this tenant run at once: repeat it, or narrow the time range"
        return WireError(429, detail, retry_after_s=1, reason="searches_busy")
