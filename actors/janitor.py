"""Housekeeping of the store: partitions of raw logs made ahead, old ones dropped by retention."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import structlog

from store.partitions import keep_partitions
from store.postgres import Pool, StorageUnavailable

logger = structlog.get_logger("janitor")

_EVERY_S = 3600.0
_DAYS_AHEAD = 3


class Janitor:
    """Sweeps at start and every hour. Several may run at once: what they do is idempotent."""

    def __init__(self, app_pool: Pool, retention_days: int) -> None:
        self._pool = app_pool
        self._retention_days = retention_days
        self._task: asyncio.Task[None] | None = None

    async def sweep(self) -> None:
        """Makes the partitions of today and the days ahead; drops those past the retention."""
        made, dropped = await keep_partitions(
            self._pool, datetime.now(UTC), ahead_days=_DAYS_AHEAD, retention_days=self._retention_days
        )
        if made or dropped:
            logger.info("partitions swept", made=made, dropped=dropped)

    def start(self) -> None:
        """Begins the hourly sweeps."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the hourly sweeps."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.sweep()
            except StorageUnavailable as error:
                logger.warning("sweep postponed", error=str(error))
