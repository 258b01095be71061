"""Hearing of jobs at the moment of their commit, by PostgreSQL's LISTEN on a connection of its own.

What is said while the connection is away is lost: whoever listens is told so when it is back, and must look again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from detect.record import TenantId

logger = structlog.get_logger("jobs")

CHANNEL = "trustsoc_jobs"
_CONNECT_S = 10.0
_RETRY_S = 2.0
_CHECK_EVERY_S = 20.0


class JobListener:
    """Calls `heard(tenant, agent)` for every job that becomes due, with '' when signing keys of the tenant changed.

    Calls `missed()` whenever words may have been missed: when the connection is lost, and when it is back.
    """

    def __init__(self, dsn: str, heard: Callable[[TenantId, str], None], missed: Callable[[], None]) -> None:
        self._dsn = dsn
        self._heard = heard
        self._missed = missed
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Listens until cancelled; connects again for as long as it takes."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                logger.warning("the listener for jobs has lost its connection", error=str(error))
            self.listening.clear()
            self._missed()
            await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(
            self._dsn, timeout=_CONNECT_S, server_settings={"application_name": "edge jobs"}
        )
        try:
            await connection.add_listener(CHANNEL, self._on_word)
            self.listening.set()
            self._missed()
            while True:
                await asyncio.sleep(_CHECK_EVERY_S)
                # A connection whose other end has silently gone says nothing for ever.
                await connection.execute("SELECT", timeout=_CONNECT_S)
        finally:
            connection.terminate()

    def _on_word(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        tenant, _, agent = str(payload).partition(" ")
        with contextlib.suppress(ValueError):
            self._heard(TenantId(UUID(tenant)), agent)


@asynccontextmanager
async def listening(
    dsn: str, heard: Callable[[TenantId, str], None], missed: Callable[[], None]
) -> AsyncIterator[JobListener]:
    """Listens while the block runs."""
    listener = JobListener(dsn, heard, missed)
    task = asyncio.get_running_loop().create_task(listener.run(), name="job-listener")
    try:
        yield listener
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
