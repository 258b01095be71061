"""A full disk: senders get 503, nothing acknowledged is lost, and with room again everything goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from cluster.ballast import LEAST_FREE, Ballast
from cluster.data_directory import DataDirectory
from cluster.doctor_database import database_disk_check
from cluster.postgres import DATABASE, SUPERUSER, EmbeddedPostgres
from detect.record import TenantId
from serve.disk_state import disk_trouble
from serve.errors import WireError
from serve.ingest.intake import errors_on_the_wire
from store.bootstrap import bootstrap
from store.journal import JournalWriter
from store.migrate import migrate
from store.postgres import StorageUnavailable, tenant_transaction
from tests.postgres.fixtures import Database, temporary_data_directory
from tests.postgres.test_detector_worker import BATCHES, append, judged, new_tenant, plan, verdict, working
from tests.postgres.test_journal import entry

MIB = 2**20
DISK = 320 * MIB


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """A file system of its own, in memory, that a test can fill."""
    folder = temporary_data_directory()
    mount = shutil.which("mount") or "/bin/mount"
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK},mode=0711", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        folder.rmdir()
        pytest.skip("this user may not mount a file system, so no disk can be filled")
    try:
        yield folder
    finally:
        subprocess.run([shutil.which("umount") or "/bin/umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


class Filler:
    """A file of somebody else's on the same disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"
        self._folder = folder

    def leave(self, free: int) -> None:
        """Grows until so many bytes are free."""
        found = os.statvfs(self._folder)
        with self._path.open("ab") as file, contextlib.suppress(OSError):
            file.write(b"\0" * max(0, found.f_bavail * found.f_frsize - free))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@pytest_asyncio.fixture
async def crowded(small_disk: Path) -> AsyncIterator[tuple[Database, Filler]]:
    """A running system's database on the small disk, with whoever fills it."""
    server = EmbeddedPostgres(small_disk / "data", ballast_bytes=32 * MIB)
    filler = Filler(small_disk)
    database = Database(server, DATABASE)
    try:
        server.start()
        await bootstrap(server.dsn(SUPERUSER), server.passwords)
        await migrate(server.dsn("trustsoc_owner"))
        yield database, filler
    finally:
        filler.remove()
        await database.close()
        server.stop()
        shutil.rmtree(small_disk / "data")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """The timeout of the test session is its end."""
    while not await condition():
        await asyncio.sleep(0.1)


async def appended(journal: JournalWriter, tenant: TenantId, key: str) -> int | None:
    """The seq of a batch of a MiB, or None when the sender would be told to come back; nothing else may happen."""
    try:
        with errors_on_the_wire():
            return (await journal.append(entry(tenant, key, payload=os.urandom(MIB)))).seq
    except WireError as error:
        assert error.status == 503
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
        return None


async def test_a_full_disk_costs_nothing_but_time(crowded: tuple[Database, Filler]) -> None:
    database, filler = crowded
    watched, bulk = await new_tenant(database), await database.tenant()
    await append(database, watched, BATCHES[:10])
    journal = JournalWriter(await database.writer())
    acknowledged: dict[int, str] = {}
    async with working(database, plan()) as worker:
        await judged(database, watched, 5)
        filler.leave(24 * MIB)
        number, refused = 0, 0
        while refused < 5:
            number += 1
            seq = await appended(journal, bulk, f"batch {number}")
            if seq is None:
                refused += 1
                filler.leave(0)
            else:
                acknowledged[seq] = f"batch {number}"
        assert acknowledged, "there was room for some"

        async def readable() -> bool:
            try:
                async with tenant_transaction(await database.app(), bulk) as tx:
                    return bool(await tx.connection.fetchval("SELECT count(*) FROM journal"))
            except StorageUnavailable:
                return False

        await until(readable)
        filler.remove()

        async def accepted() -> bool:
            return await appended(journal, bulk, "after") is not None

        await until(accepted)
        await append(database, watched, BATCHES[10:], first=10)
        await judged(database, watched, len(BATCHES) + 1)
        assert worker.report.state == "running"
    superuser = await asyncpg.connect(database.dsn(SUPERUSER))
    rows = await superuser.fetch("SELECT seq, idempotency_key FROM journal WHERE tenant_id = $1 ORDER BY seq", bulk)
    stored = {row["seq"]: row["idempotency_key"].decode() for row in rows}
    assert acknowledged.items() <= stored.items()
    assert list(stored) == list(range(1, len(stored) + 1)), "no gap, whatever was refused"
    await superuser.close()
    assert len((await verdict(database, watched))["records"]) == 10 * len(BATCHES)


async def test_the_ballast_lets_a_server_come_up_that_died_on_a_full_disk(
    crowded: tuple[Database, Filler], small_disk: Path
) -> None:
    database, filler = crowded
    server = database.server
    tenant = await new_tenant(database)
    ballast = Ballast(server.cluster_dir)
    assert ballast.present
    before = await mark_of_head(database, tenant)
    filler.leave(0)
    assert ballast.disk_is_full
    os.kill(server.pid or 0, signal.SIGKILL)

    async def up() -> bool:
        return await mark_of_head(database, tenant, give_up=True) == before

    await until(up)
    assert not ballast.present, "its space is what the server lives on"

    # The second time there is nothing to give: the supervisor says what is wrong, and waits for room.
    filler.leave(0)
    assert "full" in disk_trouble(server.cluster_dir)
    found = database_disk_check(DataDirectory(server.data_dir))
    assert (found.state, "full" in found.found) == ("missing", True)
    os.kill(server.pid or 0, signal.SIGKILL)

    async def in_trouble() -> bool:
        return "disk is full" in server.trouble

    await until(in_trouble)
    filler.remove()
    await until(up)

    async def as_before() -> bool:
        return server.trouble == "" and ballast.present

    await until(as_before)
    assert disk_trouble(server.cluster_dir) == ""
    assert database_disk_check(DataDirectory(server.data_dir)).state == "ok"
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > LEAST_FREE


async def mark_of_head(database: Database, tenant: TenantId, *, give_up: bool = False) -> int | None:
    """The last seq of the tenant's journal through a new connection; None when the server cannot be reached."""
    try:
        connection = await asyncpg.connect(database.dsn(SUPERUSER), timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        if give_up:
            return None
        raise
    try:
        return int(await connection.fetchval("SELECT last_seq FROM journal_heads WHERE tenant_id = $1", tenant))
    finally:
        await connection.close()
