"""The data directory: one owner, private files, nothing half written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.data_directory import (
    ClientCredentials,
    DataDirectory,
    DataDirectoryError,
    DataDirectoryInUseError,
    Runtime,
    default_data_directory,
)


def own_runtime() -> Runtime:
    process = psutil.Process()
    return Runtime(process.pid, "http://127.0.0.1:4318", "2026-03-01T12:00:00+00:00", process.create_time(), "mark")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRUSTSOC_DATA_DIR": "/srv/soc", "XDG_DATA_HOME": "/x"}, Path("/srv/soc")),
        ({"XDG_DATA_HOME": "/x"}, Path("/x/trustsoc")),
        ({"XDG_DATA_HOME": "relative"}, Path.home() / ".local/share/trustsoc"),
        ({}, Path.home() / ".local/share/trustsoc"),
    ],
)
def test_the_default_follows_the_environment(environment: dict[str, str], expected: Path) -> None:
    assert default_data_directory(environment) == expected


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "b")
    directory.create()
    assert mode(directory.path) == (0o711 if os.geteuid() == 0 else 0o700)


def test_an_existing_directory_loses_write_access_of_others_and_keeps_search(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    DataDirectory(tmp_path).create()
    assert mode(tmp_path) == 0o755


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataDirectoryError, match="--data-dir"):
        DataDirectory(tmp_path / "file").create()


def test_a_second_owner_hears_who_the_first_is(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with directory.lock():
        directory.write_runtime(own_runtime())
        with pytest.raises(DataDirectoryInUseError) as caught, DataDirectory(tmp_path).lock():
            pytest.fail("two owners")
    assert f"process {os.getpid()}, http://127.0.0.1:4318" in str(caught.value)
    with DataDirectory(tmp_path).lock():
        pass


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, cluster.data_directory as d\n"
        f"with d.DataDirectory(pathlib.Path({str(tmp_path)!r})).lock():\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(DataDirectoryInUseError), DataDirectory(tmp_path).lock():
            pytest.fail("two owners")
        owner.kill()
    with DataDirectory(tmp_path).lock():
        pass


def test_a_runtime_counts_only_while_its_process_lives(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert directory.running() is None
    directory.write_runtime(own_runtime())
    assert directory.running() == own_runtime()
    reused_number = Runtime(os.getpid(), "http://x", "2026-03-01T12:00:00+00:00", 1.0, "mark")
    directory.write_runtime(reused_number)
    assert directory.running() is None
    assert directory.runtime() == reused_number
    directory.clear_runtime()
    directory.clear_runtime()
    assert directory.runtime() is None


def test_credentials_are_private_from_the_first_byte(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    before = os.umask(0)
    try:
        directory.write_credentials(ClientCredentials("http://x", "admin", tenant_keys={"default": "k"}))
    finally:
        os.umask(before)
    assert mode(directory.client_path) == 0o600
    assert directory.credentials() == ClientCredentials("http://x", "admin", "default", {"default": "k"})
    assert [path.name for path in tmp_path.iterdir()] == ["client.json"]


def test_credentials_that_others_can_read_are_refused(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.write_credentials(ClientCredentials("http://x"))
    directory.client_path.chmod(0o640)
    with pytest.raises(DataDirectoryError, match="chmod 600"):
        directory.credentials()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "runtime.json").write_text('{"pid": "x"')
    with pytest.raises(DataDirectoryError, match=r"runtime\.json is damaged"):
        DataDirectory(tmp_path).runtime()
