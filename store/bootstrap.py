"""Makes the roles and the database of an installation, with a superuser's connection. Idempotent."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Literal, get_args

import asyncpg

from store.queries import sql

RoleName = Literal["trustsoc_owner", "trustsoc_writer", "trustsoc_app", "trustsoc_detector"]
ROLES: tuple[RoleName, ...] = get_args(RoleName)


async def bootstrap(superuser_dsn: str, passwords: Mapping[str, str], *, database: str = "trustsoc") -> None:
    """Makes or puts right the four roles, sets their passwords and makes the database, owned by trustsoc_owner.

    `superuser_dsn` is of any existing database of the server (PostgreSQL 16 or later). Raises KeyError when a role has
    no password.
    """
    connection = await asyncpg.connect(superuser_dsn)
    try:
        await connection.execute(sql("create_roles"))
        for role in ROLES:
            await connection.execute(await connection.fetchval(sql("password_statement"), role, passwords[role]))
        if not await connection.fetchval(sql("database_exists"), database):
            statement = await connection.fetchval(sql("create_database_statement"), database)
            # Another starter may make it in between, which is as good.
            with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                await connection.execute(statement)
        await grant_database(connection, database)
    finally:
        await connection.close()


async def grant_database(superuser: asyncpg.Connection[asyncpg.Record], database: str) -> None:
    """Leaves CONNECT on a database to the four roles alone. A copy of a database does not inherit this."""
    await superuser.execute(await superuser.fetchval(sql("database_privileges_statement"), database))
