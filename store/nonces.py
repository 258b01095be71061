"""Nonces of signed requests, spent once across all replicas and forgotten when the timestamp window refuses them.

Requests that wait together share one statement, as batches share a commit of the journal; the table is unlogged, so
nobody waits for a disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from detect.record import TenantId
from store.postgres import Pool, StorageUnavailable, storage_errors, system_transaction
from store.queries import sql

_WAITING = 8192
_GROUP = 512
_SWEEP_ROWS = 10_000
_SWEEP_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Nonce:
    """A nonce of one key of one tenant. It may be forgotten after `expires`."""

    tenant: TenantId
    key_id: str
    text: str
    expires: datetime

    @property
    def identity(self) -> tuple[UUID, str, str]:
        """What makes two nonces the same."""
        return self.tenant, self.key_id, self.text


class NonceStore:
    """Spends nonces through a pool of the writer role. Safe for concurrent calls on one event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[tuple[Nonce, asyncio.Future[bool]]] = deque()
        self._drain_task: asyncio.Task[None] | None = None

    async def spend(self, nonce: Nonce) -> bool:
        """Whether this caller is the first to spend it, on any replica.

        Raises StorageUnavailable; it may then be spent or not, so the sender must sign again with another.
        """
        if len(self._waiting) >= _WAITING:
            raise StorageUnavailable("too many signed requests wait", 1.0)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((nonce, future))
        if self._drain_task is None or self._drain_task.done():
            self._drain_task = asyncio.create_task(self._drain(), name="nonces")
        return await future

    async def close(self) -> None:
        """Returns when everything that waited is answered."""
        if self._drain_task is not None:
            await self._drain_task

    async def _drain(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(_GROUP, len(self._waiting)))]
            try:
                won = await self._insert([nonce for nonce, _ in group])
                for nonce, future in group:
                    if not future.done():
                        # Of equal ones in a group the first has it.
                        future.set_result(nonce.identity in won)
                    won.discard(nonce.identity)
            except (StorageUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            finally:
                # Reached with unanswered senders only when this task is cancelled at shutdown.
                for _, future in group:
                    if not future.done():
                        future.set_exception(StorageUnavailable("the nonce store is shutting down", 2.0))

    async def _insert(self, nonces: Sequence[Nonce]) -> set[tuple[UUID, str, str]]:
        with storage_errors():
            rows = await self._pool.fetch(
                sql("nonces_spend"),
                [nonce.tenant for nonce in nonces],
                [nonce.key_id for nonce in nonces],
                [nonce.text for nonce in nonces],
                [nonce.expires for nonce in nonces],
            )
        return {(row["tenant_id"], row["key_id"], row["nonce"]) for row in rows}


async def sweep_nonces(pool: Pool, now: datetime) -> int:
    """Forgets nonces that expired before `now`, in bounded steps; returns how many. Takes a pool of the writer role."""
    forgotten = 0
    for _ in range(_SWEEP_ROUNDS):
        async with system_transaction(pool) as transaction:
            status: str = await transaction.connection.execute(sql("nonces_sweep"), now, _SWEEP_ROWS)
        count = int(status.removeprefix("DELETE "))
        forgotten += count
        if count < _SWEEP_ROWS:
            break
    return forgotten
