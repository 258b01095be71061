"""`trustsoc backup`: one moment of the whole installation in a folder, taken while it runs.

The database is dumped by pg_dump from one exported snapshot, so that journal, judgements and marks fit together: every
batch that was acknowledged before the backup began is in it. Then the files of the data directory follow, keys and
certificates among them; a key that a row of the snapshot needs was there before the row. What can be made again stays
out: the roles' passwords, the advisor's index and work files, logs.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cluster.backup_manifest import FORMAT, BackupError, Manifest, measure, write_manifest
from cluster.postgres_tools import PostgresToolError, PostgresTools
from cluster.unprivileged import write_private
from serve.version import VERSION
from store.backups import NoSuchInstallation, held_snapshot

Progress = Callable[[str], None]

DATABASE = "database"
FILES = "files"
JOBS = 2
# Names at the top of a data directory that are not copied, and why.
_LEFT_OUT = {
    "postgres": "the database cluster: the dump has its contents",
    "postgres.json": "port and place of the database cluster: chosen anew",
    "runtime.json": "what runs now",
    "qdrant": "the advisor's index: made again at the next start",
    "engine": "work files of the language model: made again at the next start",
    "*.lock": "locks",
    "*.log": "logs of the programs",
    "*.log.*": "logs of the programs",
    "*.unfinished": "half-written files",
    "*.sock": "sockets",
}
SECRETS = "secrets.json"


@dataclass(frozen=True, slots=True)
class BackupSource:
    """What is backed up: a database by a superuser's DSN, and a data directory (None: the database alone).

    `elsewhere` are files that the settings name outside the data directory; they are named, not copied.
    """

    superuser_dsn: str
    data_dir: Path | None
    elsewhere: tuple[Path, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What was made: the folder, its manifest, and how long it took in seconds."""

    folder: Path
    manifest: Manifest
    seconds: float


async def take_backup(target: Path, source: BackupSource, tools: PostgresTools, progress: Progress) -> BackupReport:
    """Makes the folder `target`, which must not exist or be empty. Raises BackupError; nothing is left behind then.

    Until it is whole it is called `<target>.unfinished`.
    """
    began = time.monotonic()
    target = target.absolute()
    check_free(target)
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(mode=0o700, parents=True)
        manifest = await _fill(unfinished, source, tools, progress)
        target.mkdir(exist_ok=True)
        unfinished.replace(target)
    except (OSError, PostgresToolError, NoSuchInstallation) as error:
        raise BackupError(f"the backup failed, and nothing of it is left: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return BackupReport(target, manifest, time.monotonic() - began)


def check_free(target: Path) -> None:
    """Raises BackupError for a folder with something in it."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{target} exists and is not empty: name a new folder")


async def _fill(folder: Path, source: BackupSource, tools: PostgresTools, progress: Progress) -> Manifest:
    created_at = datetime.now(UTC)
    progress("reading the state of the journal")
    async with held_snapshot(source.superuser_dsn) as (snapshot, facts):
        progress(f"dumping the database: {len(facts.tenants)} tenants, schema {facts.schema_number:04d}")
        dump = ["--format=directory", f"--jobs={JOBS}", "--compress=gzip:1", f"--file={folder / DATABASE}"]
        await asyncio.to_thread(tools.run, "pg_dump", source.superuser_dsn, [*dump, f"--snapshot={snapshot}"])
    progress("copying keys and certificates")
    left_out = _copy_files(source, folder / FILES)
    progress("computing digests")
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        created_at=created_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        database=facts,
        files=measure(folder),
        left_out=left_out,
    )
    write_manifest(folder, manifest)
    return manifest


def _copy_files(source: BackupSource, target: Path) -> dict[str, str]:
    """Copies what of the data directory cannot be made again; returns what was left out, by name, and why."""
    target.mkdir(mode=0o700)
    left_out = {str(path): "outside the data directory: copy it yourself" for path in source.elsewhere}
    if source.data_dir is None:
        return left_out | {"the data directory": "the database alone was asked for"}
    for path in sorted(source.data_dir.iterdir()):
        reason = _reason_to_leave(path)
        if reason:
            left_out[path.name] = reason
        elif path.name == SECRETS:
            _copy_secrets(path, target / path.name)
        elif path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=False)
        else:
            shutil.copy2(path, target / path.name)
    return left_out


def _reason_to_leave(path: Path) -> str:
    for pattern, reason in _LEFT_OUT.items():
        if fnmatch.fnmatch(path.name, pattern):
            return reason
    if path.is_symlink():
        return "a link: copy what it points at yourself"
    return "" if path.is_file() or path.is_dir() else "neither a file nor a folder"


def _copy_secrets(path: Path, target: Path) -> None:
    """All but the passwords of the database's roles: a restored server has new ones."""
    kept = {name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name != "postgres"}
    if kept:
        write_private(target, json.dumps(kept, indent=1))
