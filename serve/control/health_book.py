"""What agents say of themselves, gathered in memory and written about once a second, one statement a tenant.

A killed replica takes the last second with it: the next poll says it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog

from detect.record import TenantId
from store.agents import HeardHealth, write_health
from store.postgres import Pool, StorageUnavailable, tenant_transaction

logger = structlog.get_logger("agents")

_EVERY_S = 1.0
_GROUP = 1000
_STOP_S = 5.0


class HealthBook:
    """The newest word of each agent, until it is written."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._heard: dict[TenantId, dict[str, HeardHealth]] = {}

    def note(self, tenant: TenantId, heard: HeardHealth) -> None:
        """Remembers what an agent said; an earlier word that was not written yet is forgotten."""
        self._heard.setdefault(tenant, {})[heard.agent] = heard

    async def flush(self) -> int:
        """Writes what was heard; returns how many agents. What cannot be written now is kept unless there is newer."""
        heard, self._heard = self._heard, {}
        written = 0
        for tenant, agents in heard.items():
            words = sorted(agents.values(), key=lambda word: word.agent)
            for start in range(0, len(words), _GROUP):
                group = words[start : start + _GROUP]
                try:
                    async with tenant_transaction(self._pool, tenant) as tx:
                        written += await write_health(tx, group)
                except StorageUnavailable:
                    for word in group:
                        self._heard.setdefault(tenant, {}).setdefault(word.agent, word)
                except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    # The words of this group are lost and no other's with them: the next poll says them again.
                    logger.error("the health of agents could not be written", tenant=str(tenant), error=str(error))
        return written

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()


@asynccontextmanager
async def open_health_book(pool: Pool) -> AsyncIterator[HealthBook]:
    """A book that is written while the block runs, and once more at its end."""
    book = HealthBook(pool)
    task = asyncio.get_running_loop().create_task(book._run(), name="agent-health")
    try:
        yield book
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await book.flush()
