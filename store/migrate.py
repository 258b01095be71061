"""Numbered migrations, store/migrations/NNNN_name.sql: each in a transaction, once, and never changed afterwards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import asyncpg

from store.queries import sql

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")


class MigrationError(Exception):
    """The schema cannot be brought up to date."""


class ChangedMigration(MigrationError):
    """A migration that was applied reads differently now."""


class NewerSchema(MigrationError):
    """The database holds a migration that this version of the program does not know."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text, in hex."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The migrations that come with the program, in order. Raises MigrationError when the numbers have a gap."""
    found = []
    for entry in (resources.files("store") / "migrations").iterdir():
        if match := _FILE.match(entry.name):
            found.append(Migration(int(match.group(1)), match.group(2), entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("the files of store/migrations must be numbered 0001, 0002, … without a gap")
    return found


async def migrate(owner_dsn: str, known: Sequence[Migration] | None = None) -> list[str]:
    """Applies what is missing as the owner and returns the names of what was applied; [] when nothing was missing.

    Raises ChangedMigration or NewerSchema, and changes nothing then. Two starters take turns.
    """
    known = migrations() if known is None else known
    connection = await asyncpg.connect(owner_dsn)
    try:
        await connection.execute(sql("migrations_lock"))
        await connection.execute(sql("migrations_table"))
        rows = await connection.fetch(sql("migrations_applied"))
        _check(known, {row["number"]: (row["name"], row["checksum"]) for row in rows})
        pending = known[len(rows) :]
        for migration in pending:
            async with connection.transaction():
                await connection.execute(migration.text)
                await connection.execute(sql("migration_record"), migration.number, migration.name, migration.checksum)
        return [f"{migration.number:04d}_{migration.name}" for migration in pending]
    finally:
        # Closing the session gives up its advisory lock as well.
        await connection.close()


def _check(known: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> None:
    by_number = {migration.number: migration for migration in known}
    for number, (name, checksum) in applied.items():
        migration = by_number.get(number)
        if migration is None:
            raise NewerSchema(
                f"the database holds migration {number:04d}_{name}, which this version does not know: "
                "run the newer version, or restore the database from before the upgrade"
            )
        if migration.checksum != checksum:
            raise ChangedMigration(
                f"migration {number:04d}_{name} was applied with checksum {checksum[:12]}… and now has "
                f"{migration.checksum[:12]}…: applied migrations must not be edited, add a new one instead"
            )
