"""Up and down with real processes: one owner, and nothing left behind whatever way it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.data_directory import DataDirectory, DataDirectoryInUseError
from cluster.lifecycle import running_cluster, stop_cluster
from cluster.process_family import family, living

PROGRAM = Path(__file__).with_name("owned_cluster.py")

Start = Callable[[str], "subprocess.Popen[str]"]


def nobody_listens(_text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def home(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data")


@pytest.fixture
def start(home: DataDirectory) -> Iterator[Start]:
    """Starts the owner and returns when it is ready."""
    owners: list[subprocess.Popen[str]] = []

    def start_owner(behaviour: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), str(home.path), behaviour]
        environment_of_tests = {"PYTHONPATH": str(PROGRAM.parents[3]), "PATH": "/usr/bin:/bin"}
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_of_tests)
        owners.append(owner)
        assert owner.stdout is not None
        assert next(line for line in owner.stdout if line.startswith("ready")).endswith(" first-admin-secret\n")
        return owner

    yield start_owner
    for owner in owners:
        owner.kill()
        owner.wait()
        if owner.stdout is not None:
            owner.stdout.close()
    for child in everything(home):
        child.kill()


def everything(home: DataDirectory) -> set[psutil.Process]:
    runtime = home.runtime()
    return family(None, runtime.instance, home.path) if runtime else set()


def child_of(owner: subprocess.Popen[str]) -> psutil.Process:
    (child,) = psutil.Process(owner.pid).children()
    return child


def test_a_start_keeps_the_keys_for_the_command_line(home: DataDirectory, start: Start) -> None:
    owner = start("good")
    credentials, runtime = home.credentials(), home.running()
    assert credentials is not None
    assert runtime is not None
    assert (credentials.admin_key, credentials.tenant_keys) == ("first-admin-secret", {"default": "tenant-secret"})
    assert credentials.base_url == runtime.base_url
    assert runtime.pid == owner.pid


def test_a_second_up_says_who_is_there(home: DataDirectory, start: Start) -> None:
    owner = start("good")

    def unwanted() -> None:
        pytest.fail("a second cluster was made")

    with (
        pytest.raises(DataDirectoryInUseError, match=rf"process {owner.pid}, http://127\.0\.0\.1:"),
        running_cluster(home, "http://127.0.0.1:9", unwanted, nobody_listens),  # type: ignore[arg-type]  # never called
    ):
        pytest.fail("two owners")
    assert home.running() is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_of_asking_leaves_nothing(home: DataDirectory, start: Start, number: signal.Signals) -> None:
    owner = start("good")
    child = child_of(owner)
    owner.send_signal(number)
    output, _ = owner.communicate()
    assert output.endswith("stopping\nstopped\n")
    assert (owner.returncode, living({child}), home.runtime()) == (0, set(), None)


def test_down_waits_for_the_end(home: DataDirectory, start: Start) -> None:
    owner = start("good")
    child = child_of(owner)
    outcome = stop_cluster(home, nobody_listens)
    assert (outcome.was_running, outcome.ended) == (True, [])
    assert (owner.wait(), living({child}), home.runtime()) == (0, set(), None)


def test_an_owner_that_forgets_a_child_ends_it_before_it_goes(home: DataDirectory, start: Start) -> None:
    owner = start("leaky")
    child = child_of(owner)
    assert stop_cluster(home, nobody_listens).was_running
    assert (owner.wait(), living({child})) == (0, set())


def test_an_owner_that_does_not_listen_is_ended_with_its_family(home: DataDirectory, start: Start) -> None:
    owner = start("deaf")
    child = child_of(owner)
    outcome = stop_cluster(home, nobody_listens, patience_seconds=0.2)
    assert outcome.was_running
    assert any(str(child.pid) in ended for ended in outcome.ended)
    assert (living({child}), home.runtime()) == (set(), None)
    assert not psutil.pid_exists(owner.pid)


def test_down_cleans_up_after_an_owner_that_was_killed(home: DataDirectory, start: Start) -> None:
    owner = start("good")
    child = child_of(owner)
    owner.kill()
    owner.communicate()
    assert living({child}) == {child}
    outcome = stop_cluster(home, nobody_listens)
    assert not outcome.was_running
    assert [str(child.pid) in ended for ended in outcome.ended] == [True]
    assert (living({child}), home.runtime()) == (set(), None)


def test_down_where_nothing_runs_is_no_error(home: DataDirectory) -> None:
    outcome = stop_cluster(home, nobody_listens)
    assert (outcome.was_running, outcome.ended) == (False, [])
    assert not home.path.exists()


def test_a_start_that_fails_stops_what_it_had_started(home: DataDirectory) -> None:
    stopped = []

    class Broken:
        def start(self, progress: object) -> None:
            raise RuntimeError("no disk")

        def stop(self) -> None:
            stopped.append(True)

    with (
        pytest.raises(RuntimeError, match="no disk"),
        running_cluster(home, "http://127.0.0.1:9", Broken, nobody_listens),  # type: ignore[arg-type]  # fails to start
    ):
        pytest.fail("it never started")
    assert stopped == [True]
    assert home.runtime() is None
