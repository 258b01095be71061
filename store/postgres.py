"""The way into Postgres: pools, and the transactions that are the only doors to a tenant's data.

What can fail for a while (a lost connection, a full disk, no free connection) leaves here as StorageUnavailable, so
that the edge can answer 503 with Retry-After.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from detect.record import TenantId
from store.queries import sql

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:  # the driver's classes take no parameters at run time
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

_ACQUIRE_SECONDS = 10.0
_COMMAND_SECONDS = 60.0


class StorageUnavailable(Exception):
    """The database cannot serve now and may do so later. `retry_after_s` is a good time to wait, in seconds."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"the database is not available ({reason}); try again in {retry_after_s:g} s")
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class TenantTransaction:
    """An open transaction that sees and writes the rows of one tenant only."""

    connection: Connection
    tenant: TenantId


@dataclass(frozen=True, slots=True)
class SystemTransaction:
    """An open transaction of the writer role, which sees all tenants but only the columns that routing needs."""

    connection: Connection


# How long to wait, in seconds. The first class that fits counts, so a narrower one stands before its parent.
_WAIT_S: dict[type[Exception], float] = {
    asyncpg.DiskFullError: 30.0,
    asyncpg.TooManyConnectionsError: 1.0,
    asyncpg.InsufficientResourcesError: 5.0,
    asyncpg.PostgresIOError: 30.0,
    asyncpg.CannotConnectNowError: 2.0,
    asyncpg.OperatorInterventionError: 2.0,
    asyncpg.PostgresConnectionError: 2.0,
    asyncpg.DeadlockDetectedError: 1.0,
    asyncpg.SerializationError: 1.0,
    asyncpg.LockNotAvailableError: 1.0,
    asyncpg.ReadOnlySQLTransactionError: 5.0,
    # What the driver says when the server's last word came between two questions; it drops the connection then.
    asyncpg.InternalClientError: 2.0,
    ConnectionError: 2.0,
    TimeoutError: 2.0,
}
# Answers of the server to one statement, not about its health.
_NOT_ABOUT_HEALTH = (asyncpg.QueryCanceledError,)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what the driver raises for trouble that may pass into StorageUnavailable; lets everything else through."""
    try:
        yield
    except _NOT_ABOUT_HEALTH:
        raise
    except tuple(_WAIT_S) as error:
        wait = next(seconds for kind, seconds in _WAIT_S.items() if isinstance(error, kind))
        raise StorageUnavailable(type(error).__name__, wait) from error
    except asyncpg.InterfaceError as error:
        # The driver says "connection is closed" and misuse by the same class; only the first may pass.
        if "clos" not in str(error):
            raise
        raise StorageUnavailable("connection closed", 2.0) from error


async def connect_pool(
    dsn: str, *, name: str, min_size: int = 1, max_size: int = 8, longest_pause_s: float = 60.0
) -> Pool:
    """A pool of connections that names itself `name` in pg_stat_activity. Raises StorageUnavailable.

    A process that stands still for `longest_pause_s` in the middle of a transaction loses it, and its locks: others
    must not wait for a host that hangs.
    """
    try:
        with storage_errors():
            return await asyncpg.create_pool(
                dsn,
                min_size=min_size,
                max_size=max_size,
                command_timeout=_COMMAND_SECONDS,
                timeout=_ACQUIRE_SECONDS,
                # One-off plans of short statements cost more to compile than to run.
                server_settings={
                    "application_name": name,
                    "jit": "off",
                    "timezone": "UTC",
                    "search_path": "public",
                    "idle_in_transaction_session_timeout": str(round(longest_pause_s * 1000)),
                    # Behind the client's own limit, for clients that hang in the middle of a COPY.
                    "statement_timeout": str(round(1.5 * _COMMAND_SECONDS * 1000)),
                },
            )
    except OSError as error:
        raise StorageUnavailable(f"cannot connect: {error}", 2.0) from error


@asynccontextmanager
async def single_statement(pool: Pool) -> AsyncIterator[Connection]:
    """A connection outside of any transaction, for one statement that enters its tenant by itself."""
    with storage_errors():
        try:
            connection = await pool.acquire(timeout=_ACQUIRE_SECONDS)
        except OSError as error:
            raise StorageUnavailable(f"cannot connect: {error}", 2.0) from error
        try:
            yield connection
        finally:
            await pool.release(connection, timeout=_ACQUIRE_SECONDS)


@asynccontextmanager
async def _transaction(pool: Pool) -> AsyncIterator[Connection]:
    async with single_statement(pool) as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def tenant_transaction(pool: Pool, tenant: TenantId) -> AsyncIterator[TenantTransaction]:
    """A transaction of the app role for one tenant: commits at the end of the block, rolls back on an error."""
    async with _transaction(pool) as connection:
        await connection.execute(sql("enter_tenant"), str(tenant))
        yield TenantTransaction(connection, tenant)


@asynccontextmanager
async def detector_transaction(pool: Pool, tenant: TenantId) -> AsyncIterator[TenantTransaction]:
    """As tenant_transaction, on a pool of the detector role, which becomes the app role first."""
    async with _transaction(pool) as connection:
        await connection.execute(sql("enter_tenant_as_detector"), str(tenant))
        yield TenantTransaction(connection, tenant)


@asynccontextmanager
async def key_lookup_transaction(pool: Pool, digest: bytes) -> AsyncIterator[Connection]:
    """A transaction of the app role that sees the one key whose SHA-256 is `digest`, and nothing else."""
    async with _transaction(pool) as connection:
        await connection.execute(sql("enter_key_lookup"), digest.hex())
        yield connection


@asynccontextmanager
async def system_transaction(pool: Pool) -> AsyncIterator[SystemTransaction]:
    """A transaction of the writer role over all tenants: heads, marks, due work, shards. Needs a writer pool."""
    async with _transaction(pool) as connection:
        yield SystemTransaction(connection)


@asynccontextmanager
async def system_transaction_as_detector(pool: Pool) -> AsyncIterator[SystemTransaction]:
    """As system_transaction, on a pool of the detector role, which becomes the writer role first."""
    async with _transaction(pool) as connection:
        await connection.execute(sql("become_writer"))
        yield SystemTransaction(connection)
