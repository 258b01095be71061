"""Migrations are applied once, in order, by one starter at a time, and are never changed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

from cluster.postgres import LOGIN_ROLES, SUPERUSER, EmbeddedPostgres
from store.bootstrap import bootstrap
from store.migrate import ChangedMigration, Migration, NewerSchema, migrate, migrations
from tests.postgres.fixtures import Database

NAME = "trustsoc_migrations"


@pytest_asyncio.fixture
async def empty(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """The owner's DSN of a database without any table."""
    await bootstrap(postgres_server.dsn(SUPERUSER), postgres_server.passwords, database=NAME)
    yield postgres_server.dsn("trustsoc_owner", NAME)
    superuser = await asyncpg.connect(postgres_server.dsn(SUPERUSER))
    await superuser.execute(f'DROP DATABASE "{NAME}" WITH (FORCE)')
    await superuser.close()


async def catalogue(dsn: str) -> list[str]:
    """Every table's columns, every index, constraint, policy, function and grant, as text."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("""
            SELECT 'column ' || c.oid::regclass || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                   || ' ' || a.attnotnull || coalesce(' ' || a.attacl::text, '') AS fact
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
            UNION ALL SELECT 'table ' || relname || ' ' || coalesce(relacl::text, '') || relforcerowsecurity
            FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
            UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT policyname || ' ' || tablename || coalesce(qual, '') FROM pg_policies
            UNION ALL SELECT pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
            ORDER BY 1""")
        return [row["fact"] for row in rows]
    finally:
        await connection.close()


async def test_the_schema_is_what_the_migrations_make_and_a_second_run_does_nothing(
    empty: str, database: Database
) -> None:
    applied = await migrate(empty)
    assert applied == [f"{item.number:04d}_{item.name}" for item in migrations()]
    schema = await catalogue(empty)
    assert schema == await catalogue(database.dsn("trustsoc_owner"))
    assert await migrate(empty) == []
    assert await catalogue(empty) == schema


async def test_starters_at_the_same_time_take_turns(empty: str) -> None:
    counts = sorted(len(applied) for applied in await asyncio.gather(*(migrate(empty) for _ in range(4))))
    assert counts == [0, 0, 0, len(migrations())]


async def test_an_edited_migration_is_refused(empty: str) -> None:
    await migrate(empty)
    known = migrations()
    known[0] = replace(known[0], text=known[0].text + "-- edited")
    with pytest.raises(ChangedMigration, match="0001_initial"):
        await migrate(empty, known)


async def test_a_schema_of_a_newer_version_is_refused(empty: str) -> None:
    newer = [*migrations(), Migration(len(migrations()) + 1, "future", "CREATE TABLE future ()")]
    await migrate(empty, newer)
    with pytest.raises(NewerSchema, match="future"):
        await migrate(empty)


async def test_a_migration_that_fails_leaves_nothing_behind(empty: str) -> None:
    await migrate(empty)
    before = await catalogue(empty)
    number = len(migrations()) + 1
    broken = [*migrations(), Migration(number, "broken", "CREATE TABLE half (); SELECT 1 / 0;")]
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty, broken)
    assert await catalogue(empty) == before
    assert await migrate(empty) == []


async def test_bootstrap_again_changes_passwords_and_keeps_the_data(
    empty: str, postgres_server: EmbeddedPostgres
) -> None:
    await migrate(empty)
    await bootstrap(postgres_server.dsn(SUPERUSER), postgres_server.passwords, database=NAME)
    assert await migrate(empty) == []
    hostile = dict.fromkeys(LOGIN_ROLES, 'it\'s "$1" \\ %I; DROP ROLE x')
    try:
        await bootstrap(postgres_server.dsn(SUPERUSER), hostile, database=NAME)
        connection = await asyncpg.connect(empty, password=hostile["trustsoc_owner"])
        await connection.close()
    finally:
        await bootstrap(postgres_server.dsn(SUPERUSER), postgres_server.passwords, database=NAME)
