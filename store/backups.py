"""What a backup says of the database that it holds, and what a restored one must say again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from store.postgres import Connection
from store.queries import sql


class NoSuchInstallation(Exception):
    """The database holds no schema of this program, or the role may not read all of it."""


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """A tenant's counts: the last batch accepted and judged, and the rows that tell whether all came along."""

    tenant_id: str
    name: str
    last_seq: int
    judged_seq: int
    batches: int
    events: int


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The schema's newest migration, the server's version, and every tenant's counts, of one moment."""

    schema_number: int
    schema_name: str
    server: str
    tenants: tuple[TenantFacts, ...]


@asynccontextmanager
async def held_snapshot(superuser_dsn: str) -> AsyncIterator[tuple[str, DatabaseFacts]]:
    """A snapshot's id, for pg_dump, with the facts as of it; it can be used while the block runs.

    Needs a role that row-level security does not bind. Raises NoSuchInstallation.
    """
    connection = await asyncpg.connect(superuser_dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot: str = await connection.fetchval(sql("backup_snapshot"))
            yield snapshot, await database_facts(connection)
    finally:
        await connection.close()


async def database_facts(connection: Connection) -> DatabaseFacts:
    """The facts as the connection sees them. Raises NoSuchInstallation."""
    if not await connection.fetchval(sql("backup_possible")):
        raise NoSuchInstallation(
            "there is no Trust SOC in this database, or the role is bound by row-level security: name a superuser's DSN"
        )
    schema = await connection.fetchrow(sql("backup_schema"))
    version = connection.get_server_version()
    rows = await connection.fetch(sql("backup_tenants"))
    return DatabaseFacts(
        schema_number=0 if schema is None else schema["number"],
        schema_name="" if schema is None else schema["name"],
        server=f"{version.major}.{version.minor}",
        tenants=tuple(TenantFacts(**row) for row in rows),
    )


async def is_empty(connection: Connection) -> bool:
    """Whether the database holds no table of ours or anybody's in the schema public."""
    empty: bool = await connection.fetchval(sql("backup_target_empty"))
    return empty


async def gather_statistics(connection: Connection) -> None:
    """ANALYZE: a dump carries no statistics, and plans without them are bad ones."""
    await connection.execute(sql("backup_analyze"), timeout=3600)
