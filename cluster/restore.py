"""`trustsoc restore`: a backup becomes a new installation, checked before and after.

Nothing that exists is changed: the target is a new data directory, or with a DSN an empty database. What is half
restored when something fails is removed again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from cluster.backup import DATABASE, FILES, JOBS, SECRETS, check_free
from cluster.backup_manifest import BackupError, Manifest, read_manifest, verify
from cluster.data_directory import DataDirectory
from cluster.postgres import DATABASE as DATABASE_NAME
from cluster.postgres import SUPERUSER, EmbeddedPostgres
from cluster.postgres_tools import PostgresToolError, PostgresTools
from cluster.unprivileged import write_private
from store.backups import database_facts, gather_statistics, is_empty
from store.bootstrap import bootstrap
from store.migrate import MigrationError, migrate, migrations

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored, where, the migrations that were applied after it, and how long it took in seconds."""

    data_dir: Path
    manifest: Manifest
    migrated: tuple[str, ...]
    seconds: float


def check_backup(folder: Path) -> Manifest:
    """The manifest of a backup that is whole and that this version can restore. Raises BackupError."""
    manifest = read_manifest(folder)
    newest = migrations()[-1].number
    if manifest.database.schema_number > newest:
        raise BackupError(
            f"the backup has schema {manifest.database.schema_number:04d}, this version knows {newest:04d}: "
            f"restore it with version {manifest.version} or newer"
        )
    verify(folder, manifest)
    return manifest


async def restore_embedded(folder: Path, data_dir: Path, tools: PostgresTools, progress: Progress) -> RestoreReport:
    """Makes the installation `data_dir` (new or empty) from a backup; it is not running afterwards.

    Raises BackupError, DataDirectoryInUse, PostgresSetupError, PostmasterError.
    """
    began = time.monotonic()
    data_dir = data_dir.absolute()
    check_free(data_dir)
    progress("checking the digests of the backup")
    manifest = await asyncio.to_thread(check_backup, folder)
    DataDirectory(data_dir).create()
    server = EmbeddedPostgres(data_dir)
    try:
        _copy_files(folder, data_dir)
        progress("making a new database server")
        await asyncio.to_thread(server.start)
        await bootstrap(server.dsn(SUPERUSER), server.passwords)
        superuser, owner = server.dsn(SUPERUSER, DATABASE_NAME), server.dsn("trustsoc_owner")
        migrated = await _restore_database(folder, manifest, superuser, owner, tools, progress)
    except BaseException as error:
        server.stop()
        _remove(server, data_dir)
        if isinstance(error, PostgresToolError | OSError | asyncpg.PostgresError | MigrationError):
            raise BackupError(f"the restore failed, and nothing of it is left: {error}") from error
        raise
    server.stop()
    return RestoreReport(data_dir, manifest, migrated, time.monotonic() - began)


async def restore_external(
    folder: Path, data_dir: Path, dsns: tuple[str, str], tools: PostgresTools, progress: Progress
) -> RestoreReport:
    """As restore_embedded, into an existing empty database: `dsns` are the superuser's and the owner's of it.

    The four roles must exist (trustsoc up makes them in an embedded server, store.bootstrap elsewhere).
    """
    began = time.monotonic()
    superuser, owner = dsns
    data_dir = data_dir.absolute()
    check_free(data_dir)
    connection = await asyncpg.connect(superuser)
    try:
        if not await is_empty(connection):
            raise BackupError("the database is not empty: name a new one")
    finally:
        await connection.close()
    progress("checking the digests of the backup")
    manifest = await asyncio.to_thread(check_backup, folder)
    try:
        migrated = await _restore_database(folder, manifest, superuser, owner, tools, progress)
    except (PostgresToolError, asyncpg.PostgresError, MigrationError) as error:
        raise BackupError(f"the restore failed; drop the half-filled database before the next try: {error}") from error
    DataDirectory(data_dir).create()
    _copy_files(folder, data_dir)
    return RestoreReport(data_dir, manifest, migrated, time.monotonic() - began)


async def _restore_database(
    folder: Path, manifest: Manifest, superuser: str, owner: str, tools: PostgresTools, progress: Progress
) -> tuple[str, ...]:
    progress(f"restoring the database: {len(manifest.database.tenants)} tenants")
    await asyncio.to_thread(
        tools.run,
        "pg_restore",
        superuser,
        ["--exit-on-error", f"--jobs={JOBS}", str((folder / DATABASE).absolute())],
    )
    progress("comparing with the manifest, gathering statistics")
    connection = await asyncpg.connect(superuser)
    try:
        facts = await database_facts(connection)
        if (facts.tenants, facts.schema_number) != (manifest.database.tenants, manifest.database.schema_number):
            raise BackupError("the restored database does not hold what the manifest says: report this as a defect")
        await gather_statistics(connection)
    finally:
        await connection.close()
    return tuple(await migrate(owner))


def _copy_files(folder: Path, data_dir: Path) -> None:
    """The backup's files, private; secrets.json joins what the new server writes into it."""
    for path in sorted((folder / FILES).iterdir()):
        if path.name == SECRETS:
            write_private(data_dir / path.name, json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1))
        elif path.is_dir():
            shutil.copytree(path, data_dir / path.name)
        else:
            shutil.copy2(path, data_dir / path.name)


def _remove(server: EmbeddedPostgres, data_dir: Path) -> None:
    if (data_dir / "postgres.json").exists():
        shutil.rmtree(server.cluster_dir, ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)
