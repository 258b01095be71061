"""Commands of the operator that copy an installation and bring it back: backup, restore."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console
from rich.text import Text

from cluster import render
from cluster.backup import BackupReport, BackupSource, take_backup
from cluster.backup_manifest import BackupError, Manifest
from cluster.cli_options import AsJson, DataDir, directory_of
from cluster.cli_running import explained_start, settings_of
from cluster.command_error import CommandError
from cluster.data_directory import DataDirectory
from cluster.postgres import DATABASE, SUPERUSER, EmbeddedPostgres
from cluster.postgres_tools import PostgresTools
from cluster.progress_lines import ProgressLines
from cluster.restore import RestoreReport, restore_embedded, restore_external
from cluster.terminal_text import text

Dsn = Annotated[
    str,
    typer.Option(
        "--dsn",
        envvar="TRUSTSOC_SUPERUSER_DSN",
        help="Of an external PostgreSQL's superuser; set the variable rather than the option: others can read options.",
        show_default="the embedded PostgreSQL",
    ),
]
PgBin = Annotated[
    Path | None,
    typer.Option("--pg-bin", help="Folder of pg_dump and pg_restore.", show_default="those that come along"),
]


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; it will hold secrets.")],
    data_dir: DataDir = None,
    dsn: Dsn = "",
    pg_bin: PgBin = None,
    as_json: AsJson = False,
) -> None:
    """Copies one moment of the whole installation into a folder, while it runs."""
    directory = directory_of(data_dir)
    tools = _tools(pg_bin)
    with _progress(as_json) as progress, _explained(), _source(directory, dsn) as source:
        report = asyncio.run(take_backup(target, source, tools, progress))
    if as_json:
        render.print_json(_report_json(report.folder, report.manifest, report.seconds))
        return
    _show_backup(render.terminal(), report)


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A backup.", exists=True, file_okay=False)],
    *,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="The new installation's folder: new or empty.")],
    dsn: Dsn = "",
    owner_dsn: Annotated[
        str, typer.Option("--owner-dsn", envvar="TRUSTSOC_OWNER_DSN", help="Of trustsoc_owner, with --dsn.")
    ] = "",
    pg_bin: PgBin = None,
    as_json: AsJson = False,
) -> None:
    """Makes a new installation from a backup; start it with `trustsoc up --data-dir NEW`."""
    tools = _tools(pg_bin)
    if dsn and not owner_dsn:
        raise CommandError("--dsn needs --owner-dsn as well: migrations run as the owner")
    with _progress(as_json) as progress, _explained():
        if dsn:
            made = restore_external(source, data_dir, (dsn, owner_dsn), tools, progress)
        else:
            made = restore_embedded(source, data_dir, tools, progress)
        report = asyncio.run(made)
    if as_json:
        shown = _report_json(report.data_dir, report.manifest, report.seconds)
        render.print_json(shown | {"migrated": list(report.migrated)})
        return
    _show_restore(render.terminal(), report)


def _tools(pg_bin: Path | None) -> PostgresTools:
    with explained_start():
        return PostgresTools(pg_bin.absolute()) if pg_bin else PostgresTools.of_the_wheel()


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    if quiet:
        yield lambda _: None
        return
    with ProgressLines(render.terminal()) as progress:
        yield progress


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        with explained_start():
            yield
    except BackupError as error:
        raise CommandError(str(error)) from error
    except (OSError, asyncpg.PostgresError) as error:
        raise CommandError(f"the database cannot be reached: {error}") from error


@contextlib.contextmanager
def _source(directory: DataDirectory, dsn: str) -> Iterator[BackupSource]:
    """The running installation, or the one that is started for as long as its backup takes."""
    outside = _outside(directory)
    if dsn:
        yield BackupSource(dsn, directory.path if directory.path.is_dir() else None, outside)
        return
    if not (directory.path / "postgres.json").exists():
        raise CommandError(f"there is no installation in {directory.path}: name it with --data-dir, or give --dsn")
    server = EmbeddedPostgres(directory.path)
    superuser = server.dsn(SUPERUSER, DATABASE)
    if asyncio.run(_answers(superuser)):
        yield BackupSource(superuser, directory.path, outside)
        return
    server.start()
    try:
        yield BackupSource(server.dsn(SUPERUSER, DATABASE), directory.path, outside)
    finally:
        server.stop()


def _outside(directory: DataDirectory) -> tuple[Path, ...]:
    """Files of keys and certificates that the settings name outside the data directory."""
    settings = settings_of(directory, None, None)
    named = [
        value for value in settings.model_dump(exclude={"data_dir", "cache_dir"}).values() if isinstance(value, Path)
    ]
    return tuple(
        path for path in named if path.exists() and not path.resolve().is_relative_to(directory.path.resolve())
    )


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


def _report_json(folder: Path, manifest: Manifest, seconds: float) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "created_at": manifest.created_at,
        "version": manifest.version,
        "schema": manifest.database.schema_number,
        "bytes": manifest.bytes,
        "files": len(manifest.files),
        "seconds": round(seconds, 3),
        "holds_secrets": True,
        "left_out": manifest.left_out,
        "tenants": [
            {"name": tenant.name, "last_seq": tenant.last_seq, "judged_seq": tenant.judged_seq, "events": tenant.events}
            for tenant in manifest.database.tenants
        ],
    }


def _show_backup(console: Console, report: BackupReport) -> None:
    manifest = report.manifest
    size = f"{manifest.bytes / 2**20:,.1f} MiB in {len(manifest.files)} files, {report.seconds:.1f} s"
    console.print(Text.assemble("Backed up to ", (str(report.folder), "bold"), f": {size}."), soft_wrap=True)
    for tenant in manifest.database.tenants:
        console.print(text(f"  {tenant.name}: {tenant.last_seq} batches, {tenant.judged_seq} judged"))
    outside = [name for name, reason in manifest.left_out.items() if "yourself" in reason]
    for name in outside:
        console.print(text(f"Not in it: {name}; copy it yourself.", "yellow"), soft_wrap=True)
    console.print(
        text(
            "It holds keys and every tenant's logs: keep it as you keep those. Its files are private (0600).", "yellow"
        ),
        soft_wrap=True,
    )


def _show_restore(console: Console, report: RestoreReport) -> None:
    console.print(
        Text.assemble(
            f"Restored the backup of {report.manifest.created_at} in {report.seconds:.1f} s. Start it: ",
            (f"trustsoc up --data-dir {report.data_dir}", "bold"),
        ),
        soft_wrap=True,
    )
    console.print(
        text("What senders were told to be stored after that moment is not in it: have them send again.", "yellow"),
        soft_wrap=True,
    )
