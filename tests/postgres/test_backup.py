"""A backup taken under load is one moment: what was acknowledged before it is in it, and a restored system goes on."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from cluster.backup import BackupReport, BackupSource, take_backup
from cluster.backup_manifest import MANIFEST, BackupError, Manifest, read_manifest, write_manifest
from cluster.postgres import DATABASE, SUPERUSER, EmbeddedPostgres, Role
from cluster.postgres_tools import PostgresTools
from cluster.restore import check_backup, restore_embedded, restore_external
from detect.record import TenantId
from store.bootstrap import grant_database
from tests.postgres.fixtures import Database, temporary_data_directory
from tests.postgres.test_detector_worker import BATCHES, append, judged, mark, new_tenant, plan, verdict, working

ALL = len(BATCHES) + 1
CATALOGUE = {
    "tables": "SELECT relname, relrowsecurity, relforcerowsecurity, relkind, relowner::regrole::text, reloptions, "
    "coalesce(relacl, acldefault('r', relowner))::text[] FROM pg_class "
    "WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
    "policies": "SELECT tablename, policyname, roles::text[], cmd, qual, with_check FROM pg_policies ORDER BY 1, 2",
    "functions": "SELECT proname, prosecdef, proconfig, coalesce(proacl, acldefault('f', proowner))::text[], "
    "md5(prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1, 5",
    "columns": "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attstorage, "
    "nullif(attacl::text, '{}') FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid IN "
    "(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) ORDER BY 1, 2",
    # Without those of NOT NULL, whose names depend on the order of making; the columns say the same.
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY 1, 2",
    "partitions": "SELECT inhrelid::regclass::text, pg_get_expr(relpartbound, pg_class.oid) FROM pg_inherits "
    "JOIN pg_class ON pg_class.oid = inhrelid WHERE relkind = 'r' ORDER BY 1",
    "triggers": "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2",
    "schema": "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'",
    "database": "SELECT datacl::text, datdba::regrole::text FROM pg_database WHERE datname = current_database()",
    "default rights": "SELECT defaclrole::regrole::text, defaclobjtype, defaclacl::text FROM pg_default_acl",
    "migrations": "SELECT number, name, checksum FROM schema_migrations ORDER BY 1",
}


@pytest.fixture(scope="module")
def tools() -> PostgresTools:
    return PostgresTools.of_the_wheel()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = temporary_data_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def installation(folder: Path) -> Path:
    """The files of a data directory: some that a backup needs, some that can be made again."""
    data_dir = folder / "data"
    (data_dir / "signing").mkdir(parents=True)
    (data_dir / "signing" / "master-1").write_text("a master key")
    (data_dir / "client.json").write_text('{"base_url": "http://127.0.0.1:1"}')
    (data_dir / "secrets.json").write_text('{"postgres": {"trustsoc_app": "old-password"}, "other": "kept"}')
    (data_dir / "qdrant").mkdir()
    (data_dir / "qdrant" / "index").write_text("can be made again")
    (data_dir / "postgres.log").write_text("log")
    (data_dir / "runtime.json").write_text("{}")
    return data_dir


@pytest_asyncio.fixture
async def restored(folder: Path) -> AsyncIterator[Database]:
    """To be used after a restore into `folder/restored`: starts that server, stops it at the end."""
    server = EmbeddedPostgres(folder / "restored")
    made = Database(server, DATABASE)
    yield made
    await made.close()
    server.stop()
    if (folder / "restored" / "postgres.json").exists():
        shutil.rmtree(server.cluster_dir, ignore_errors=True)


def quiet(_: str) -> None:
    return None


async def back_up(database: Database, data_dir: Path | None, target: Path, tools: PostgresTools) -> BackupReport:
    return await take_backup(target, BackupSource(database.dsn(SUPERUSER), data_dir), tools, quiet)


async def catalogue(dsn: str) -> dict[str, list[tuple[object, ...]]]:
    connection = await asyncpg.connect(dsn)
    try:
        return {name: [tuple(row) for row in await connection.fetch(query)] for name, query in CATALOGUE.items()}
    finally:
        await connection.close()


async def test_a_backup_under_load_restores_to_a_system_that_goes_on_as_if_nothing_had_happened(
    database: Database, restored: Database, installation: Path, folder: Path, tools: PostgresTools
) -> None:
    calm, busy = await new_tenant(database), await new_tenant(database)
    await append(database, calm, BATCHES)
    await append(database, busy, BATCHES[:10])
    acknowledged_before = 11
    async with working(database, plan(snapshot_every_batches=4)):
        await judged(database, busy, 3)
        feeding = asyncio.create_task(append(database, busy, BATCHES[10:], first=10))
        report = await back_up(database, installation, folder / "backup", tools)
        await feeding
        for tenant in (calm, busy):
            await judged(database, tenant, ALL)
    expected = await verdict(database, calm)
    assert await verdict(database, busy) == expected

    facts = {TenantId(UUID(item.tenant_id)): item for item in report.manifest.database.tenants}
    assert facts[busy].last_seq >= acknowledged_before
    await restore_embedded(folder / "backup", folder / "restored", tools, quiet)
    restored.server.start()
    assert await mark(restored, busy) == facts[busy].judged_seq
    superuser, original = await restored.superuser(), await database.superuser()
    batches = (
        "SELECT seq, agent, idempotency_key, digest, payload, received FROM journal "
        "WHERE tenant_id = $1 AND seq <= $2 ORDER BY seq"
    )
    for tenant in (calm, busy):
        stored = await superuser.fetch(batches, tenant, facts[tenant].last_seq)
        assert [row["seq"] for row in stored] == list(range(1, facts[tenant].last_seq + 1))
        assert stored == await original.fetch(batches, tenant, facts[tenant].last_seq)

    # The senders send again what they were not told to be in the backup; whatever is there is a duplicate.
    await append(restored, busy, BATCHES)
    async with working(restored, plan(snapshot_every_batches=4)):
        for tenant in (calm, busy):
            await judged(restored, tenant, ALL)
    assert await verdict(restored, calm) == expected
    assert await verdict(restored, busy) == expected


async def test_everything_of_the_schema_comes_back(
    database: Database, restored: Database, folder: Path, installation: Path, tools: PostgresTools
) -> None:
    await database.tenant("kept")
    await database.make_day(date(2026, 3, 4))
    source = await catalogue(database.dsn(SUPERUSER))
    report = await back_up(database, installation, folder / "backup", tools)
    await restore_embedded(folder / "backup", folder / "restored", tools, quiet)
    restored.server.start()
    found = await catalogue(restored.dsn(SUPERUSER))
    for name, rows in source.items():
        assert rows, name
        assert found[name] == rows, name
    # Files: keys come along, what can be made again does not, and the roles have new passwords.
    data_dir = folder / "restored"
    assert (data_dir / "signing" / "master-1").read_text() == "a master key"
    secrets = json.loads((data_dir / "secrets.json").read_text())
    assert secrets["other"] == "kept"
    assert secrets["postgres"]["trustsoc_app"] != "old-password"
    assert not (data_dir / "qdrant").exists()
    assert {"qdrant", "postgres.log", "runtime.json"} <= report.manifest.left_out.keys()
    text = b"".join(path.read_bytes() for path in sorted((folder / "backup" / "files").rglob("*")) if path.is_file())
    assert b"old-password" not in text
    for path in (folder / "backup").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    for role in ("trustsoc_app", "trustsoc_writer", "trustsoc_detector", "trustsoc_owner"):
        roles: Role = role  # type: ignore[assignment]  # of the Literal's own members
        await (await asyncpg.connect(restored.dsn(roles))).close()


def rewritten(folder: Path, **changes: object) -> None:
    """The manifest with other content, and its digest right: what a backup of another version looks like."""
    manifest = read_manifest(folder)
    write_manifest(folder, msgspec.structs.replace(manifest, **changes))


async def test_a_backup_that_is_not_whole_or_too_new_is_refused(
    database: Database, folder: Path, tools: PostgresTools
) -> None:
    await back_up(database, None, folder / "backup", tools)
    intact = folder / "backup"
    assert isinstance(check_backup(intact), Manifest)
    heaviest = max((intact / "database").iterdir(), key=lambda path: path.stat().st_size)

    def damaged(name: str) -> Path:
        copy = folder / name
        shutil.copytree(intact, copy)
        return copy

    flipped = damaged("flipped")
    content = bytearray((flipped / "database" / heaviest.name).read_bytes())
    content[len(content) // 2] ^= 1
    (flipped / "database" / heaviest.name).write_bytes(content)
    missing = damaged("missing")
    (missing / "database" / heaviest.name).unlink()
    stranger = damaged("stranger")
    (stranger / "database" / "more.dat").write_text("x")
    listed = damaged("listed")
    (listed / MANIFEST).write_bytes((listed / MANIFEST).read_bytes().replace(b'"format"', b'"former"'))
    newer = damaged("newer")
    facts = read_manifest(newer).database
    rewritten(newer, database=type(facts)(9999, "of_tomorrow", facts.server, facts.tenants))
    other = damaged("other")
    rewritten(other, format=2)
    for name, complaint in (
        (flipped, "is damaged"), (missing, "is missing"), (stranger, "not in the manifest"),
        (listed, "is damaged"), (newer, "has schema 9999"), (other, "has format 2"),
        (folder / "none", "no whole backup"),
    ):  # fmt: skip
        with pytest.raises(BackupError, match=complaint):
            await restore_embedded(name, folder / "restored", tools, quiet)
        assert not (folder / "restored").exists(), "nothing is left of a restore that was refused"


async def test_neither_a_backup_nor_a_restore_overwrites_anything(
    database: Database, folder: Path, tools: PostgresTools
) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "file").write_text("precious")
    with pytest.raises(BackupError, match="not empty"):
        await back_up(database, None, folder / "mine", tools)
    await back_up(database, None, folder / "backup", tools)
    with pytest.raises(BackupError, match="not empty"):
        await restore_embedded(folder / "backup", folder / "mine", tools, quiet)
    assert (folder / "mine" / "file").read_text() == "precious"
    with pytest.raises(BackupError, match="nothing of it is left"):
        await take_backup(folder / "failed", BackupSource(database.dsn("trustsoc_app"), None), tools, quiet)
    assert sorted(path.name for path in folder.iterdir()) == ["backup", "mine"]


async def test_an_external_database_is_restored_into_an_empty_one(
    database: Database, folder: Path, tools: PostgresTools
) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:3])
    await back_up(database, None, folder / "backup", tools)
    server = database.server
    admin = await asyncpg.connect(server.dsn(SUPERUSER))
    await admin.execute("CREATE DATABASE elsewhere OWNER trustsoc_owner TEMPLATE template0")
    await grant_database(admin, "elsewhere")
    dsns = (server.dsn(SUPERUSER, "elsewhere"), server.dsn("trustsoc_owner", "elsewhere"))
    try:
        report = await restore_external(folder / "backup", folder / "new", dsns, tools, quiet)
        assert report.migrated == ()
        assert await catalogue(dsns[0]) == await catalogue(database.dsn(SUPERUSER))
        with pytest.raises(BackupError, match="not empty"):
            await restore_external(folder / "backup", folder / "other", dsns, tools, quiet)
    finally:
        await admin.execute("DROP DATABASE elsewhere WITH (FORCE)")
        await admin.close()
