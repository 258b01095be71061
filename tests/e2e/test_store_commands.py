"""Backup, restore and holds through the command line of a running system."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.system import System
from tests.e2e.conftest import Tenant
from tests.postgres.fixtures import temporary_data_directory


@pytest.fixture
def folder() -> Iterator[Path]:
    path = temporary_data_directory()
    yield path
    shutil.rmtree(path)


def data_directory(system: System) -> Path:
    command = system.process.cmdline()
    return Path(command[command.index("--data-dir") + 1])


def trustsoc(*arguments: str) -> Any:
    command = [sys.executable, "-m", "cluster.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_running_system_is_backed_up_and_restored(system: System, tenant: Tenant, folder: Path) -> None:
    tenant.send_lines([(1_772_600_000_000_000_000, "Failed password for root from 203.0.113.7 port 1 ssh2")])
    counts = tenant.await_judged()
    data_dir = data_directory(system)
    made = trustsoc("backup", str(folder / "backup"), "--data-dir", str(data_dir))
    [own] = [item for item in made["tenants"] if item["name"] == tenant.name]
    assert own["last_seq"] == counts["batches"]
    assert made["holds_secrets"] is True
    restored = trustsoc("restore", str(folder / "backup"), "--data-dir", str(folder / "new"))
    assert restored["tenants"] == made["tenants"]
    assert (folder / "new" / "client.json").read_bytes() == (data_dir / "client.json").read_bytes()
    assert (folder / "new" / "signing").is_dir(), "keys come along"


def test_a_hold_is_placed_listed_and_released(system: System, new_tenant: Callable[[], Tenant]) -> None:
    tenant = new_tenant()
    where = ("--tenant", tenant.name, "--data-dir", str(data_directory(system)))
    hold = trustsoc("hold", "place", "--reason", "case 17", "--from", "7d", *where)
    assert [item["hold_id"] for item in trustsoc("hold", "list", *where)["items"]] == [hold["hold_id"]]
    released = trustsoc("hold", "release", hold["hold_id"], "--reason", "over", *where)
    assert released["released_at"] is not None
    assert trustsoc("retention", "set", "90", *where) == {"raw_log_days": 90, "own": True}
    assert trustsoc("retention", "show", *where)["own"] is True
