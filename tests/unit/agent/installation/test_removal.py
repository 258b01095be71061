"""`trustsoc-agent uninstall` removes what the agent made, and nothing that would be missed."""

from __future__ import annotations

import io
import threading

import pytest

from agent.installation.places import RunLock, is_running
from agent.spool import Spool
from tests.unit.agent.installation.conftest import Host


def test_it_removes_its_own_files_and_says_what_is_left(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.enrol(tail=True) == 0
    (host.places.state / "notes.txt").write_text("the owner's")
    capsys.readouterr()
    assert host.command("uninstall", "--yes") == 0
    said = capsys.readouterr().out
    assert [path.name for path in host.places.state.iterdir()] == ["notes.txt"]
    assert f"left {host.places.state / 'notes.txt'}" in said
    assert "trustsoc agent revoke web-1" in said
    assert host.places.policy.exists()
    # What the owner wrote serves the next identity.
    assert host.enrol() == 0
    assert host.command("uninstall", "--yes", "--settings-too") == 0
    assert list(host.places.settings.iterdir()) == []


def test_records_that_were_not_sent_need_leave(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.enrol() == 0
    spool = Spool(host.places.spool)
    spool.append([(b"a batch", 3)])
    spool.close()
    assert host.command("uninstall", "--yes") == 2
    assert "3 records were accepted and not sent" in capsys.readouterr().err
    assert (host.places.state / "identity.json").exists()
    assert host.command("uninstall", "--yes", "--lose-unsent") == 0
    assert not host.places.spool.exists()


def test_a_running_agent_is_not_taken_apart(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.enrol() == 0
    lock = RunLock(host.places)
    assert host.command("uninstall", "--yes") == 2
    assert "stop it first" in capsys.readouterr().err
    lock.release()
    assert (host.places.state / "identity.json").exists()


def test_nobody_to_ask_means_no(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.enrol() == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert host.command("uninstall") == 2
    assert "--yes" in capsys.readouterr().err
    assert (host.places.state / "identity.json").exists()


def test_a_link_to_somewhere_else_is_not_followed(host: Host) -> None:
    elsewhere = host.logs / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    assert host.enrol() == 0
    (host.places.state / "spool").symlink_to(elsewhere)
    assert host.command("uninstall", "--yes", "--lose-unsent") == 0
    assert (elsewhere / "kept").exists()
    host.places.state.rmdir()
    host.places.state.symlink_to(elsewhere)
    assert host.command("uninstall", "--yes", "--lose-unsent") == 2
    assert (elsewhere / "kept").exists()


def test_who_looks_whether_an_agent_runs_keeps_none_from_starting(host: Host) -> None:
    assert host.enrol() == 0
    RunLock(host.places).release()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            is_running(host.places)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            lock = RunLock(host.places)
            assert is_running(host.places)
            lock.release()
    finally:
        done.set()
        looking.join()
    assert not is_running(host.places)
