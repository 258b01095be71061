"""One embedded PostgreSQL per test session, one template database with the schema, one cheap copy of it per test."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from cluster.postgres import SUPERUSER, EmbeddedPostgres, Role
from detect.record import TenantId
from store.bootstrap import bootstrap, grant_database
from store.migrate import migrate
from store.partitions import make_partitions
from store.postgres import Pool, connect_pool
from store.tenants import create_tenant

_TEMPLATE = "trustsoc_template"
_numbers = itertools.count(1)


class Database:
    """A migrated database of its own. Pools are made at first use and closed at the end of the test."""

    def __init__(self, server: EmbeddedPostgres, name: str) -> None:
        self.server = server
        self.name = name
        self._pools: dict[str, Pool] = {}
        self._making = asyncio.Lock()
        self._superuser: asyncpg.Connection | None = None

    def dsn(self, role: Role) -> str:
        return self.server.dsn(role, self.name)

    async def pool(self, role: Role, max_size: int = 4) -> Pool:
        async with self._making:
            if role not in self._pools:
                self._pools[role] = await connect_pool(self.dsn(role), name=f"test {role}", max_size=max_size)
            return self._pools[role]

    async def app(self) -> Pool:
        return await self.pool("trustsoc_app")

    async def writer(self) -> Pool:
        return await self.pool("trustsoc_writer")

    async def detector(self) -> Pool:
        return await self.pool("trustsoc_detector")

    async def superuser(self) -> asyncpg.Connection:
        """For looking behind the policies."""
        if self._superuser is None:
            self._superuser = await asyncpg.connect(self.dsn(SUPERUSER))
        return self._superuser

    async def tenant(self, name: str | None = None) -> TenantId:
        return await create_tenant(await self.app(), name or f"tenant-{uuid4().hex[:12]}", actor="test")

    async def make_day(self, day: date) -> None:
        await make_partitions(await self.app(), day, 1)

    async def close(self) -> None:
        if self._superuser is not None:
            await self._superuser.close()
        for pool in self._pools.values():
            await pool.close()


def temporary_data_directory() -> Path:
    """A folder that the server's unprivileged user can pass through, which pytest's own are not when run by root."""
    path = Path(tempfile.mkdtemp(prefix="trustsoc-"))
    path.chmod(0o711)
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    data_dir = temporary_data_directory()
    server = EmbeddedPostgres(data_dir)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(data_dir)


@pytest_asyncio.fixture(scope="session")
async def database_template(postgres_server: EmbeddedPostgres) -> str:
    await bootstrap(postgres_server.dsn(SUPERUSER), postgres_server.passwords, database=_TEMPLATE)
    await migrate(postgres_server.dsn("trustsoc_owner", _TEMPLATE))
    return _TEMPLATE


@pytest_asyncio.fixture
async def database(postgres_server: EmbeddedPostgres, database_template: str) -> AsyncIterator[Database]:
    name = f"trustsoc_test_{next(_numbers)}"
    superuser = await asyncpg.connect(postgres_server.dsn(SUPERUSER))
    await superuser.execute(f'CREATE DATABASE "{name}" TEMPLATE "{database_template}" OWNER trustsoc_owner')
    await grant_database(superuser, name)
    await superuser.close()
    made = Database(postgres_server, name)
    yield made
    await made.close()
    # A connection of its own: the test may have killed the server.
    superuser = await asyncpg.connect(postgres_server.dsn(SUPERUSER))
    await superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await superuser.close()
