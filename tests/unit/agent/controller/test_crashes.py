"""The real program, killed in the middle of a job at every durable step: one end for each job, one effect at most."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from agent.controller.settings import ControllerSettings
from agent.jobs import Job, Result
from tests.unit.agent.controller.control_server import ControlServer

# Half steps from the start of the program to the acknowledgement of its first job; the last one kills nobody.
STEPS = range(1, 14)


def settings_file(settings: ControllerSettings, folder: Path, command: str = "") -> Path:
    value = asdict(settings)
    for section in ("collector", "rules", "certificate", "upgrade"):
        del value[section]
    if command:
        value["rules"] = {"command": ["/bin/sh", "-c", command]}
    path = folder / "controller.yml"
    path.write_text(yaml.safe_dump(value))
    return path


@contextmanager
def program(settings: Path, kill_at: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    module = "tests.unit.agent.controller.crashing" if kill_at else "agent.controller"
    arguments = [str(settings), str(kill_at)] if kill_at else ["--config", str(settings)]
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def again(server: ControlServer, job: Job, item: dict[str, object]) -> None:
    """What a server does when the lease ends without a result."""
    if not server.finals(job):
        server.items = [item | {"attempt": 2, "lease": "99999999-2222-4333-8444-555555555555"}]


def test_a_second_one_says_that_the_first_is_there_and_may_be_started_again(
    server: ControlServer, settings: ControllerSettings, tmp_path: Path
) -> None:
    """What starts the agent tries again after 1, and gives up after 2: a first one that still ends is no reason to."""
    path = settings_file(settings, tmp_path)
    with program(path):
        with server.changed:
            assert server.changed.wait_for(lambda: bool(server.health), 30)
        with program(path) as second:
            assert second.wait(30) == 1


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_a_job_is_run_at_most_once_and_answered(
    server: ControlServer, settings: ControllerSettings, tmp_path: Path, step: int
) -> None:
    effect = tmp_path / "effect"
    path = settings_file(settings, tmp_path, f"echo x >> {effect}")
    job = server.job("RULES_RELOAD")
    item = server.give(job)
    with program(path, step) as killed:
        deadline = time.monotonic() + 30
        while killed.poll() is None and not server.finals(job) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)  # the steps after the result, such as noting that it was taken
        killed_there = killed.poll() == -signal.SIGKILL
    assert killed_there == (step < STEPS[-1])
    again(server, job, item)
    polls = len(server.health)
    with program(path) as second:
        result = server.wait_final(job)
        with server.changed:
            assert server.changed.wait_for(lambda: len(server.health) > polls, 20)
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0
    ran = effect.read_text().count("x") if effect.exists() else 0
    assert ran <= 1
    assert (result.state, result.reason) in {("succeeded", ""), ("failed", "interrupted")}
    assert result.state != "succeeded" or ran == 1
    assert len({outcome(final) for final in server.finals(job)}) == 1, "what was said once is never taken back"


def outcome(result: Result) -> tuple[str, str, int]:
    return result.state, result.reason, result.ended_at


def test_killed_while_the_job_works_it_is_interrupted_and_not_run_again(
    server: ControlServer, settings: ControllerSettings, tmp_path: Path
) -> None:
    effect = tmp_path / "effect"
    path = settings_file(settings, tmp_path, f"echo x >> {effect}; sleep 60")
    job = server.job("RULES_RELOAD")
    item = server.give(job)
    with program(path) as first:
        while not effect.exists():
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
    server.items = [item | {"attempt": 2, "lease": "99999999-2222-4333-8444-555555555555"}]
    with program(path):
        result = server.wait_final(job, count=2)
        assert str(result.lease) == "99999999-2222-4333-8444-555555555555"
        assert {outcome(final)[:2] for final in server.finals(job)} == {("failed", "interrupted")}
    assert effect.read_text() == "x\n"


def test_a_signal_ends_the_poll_at_once(server: ControlServer, settings: ControllerSettings, tmp_path: Path) -> None:
    with program(settings_file(settings, tmp_path)) as process:
        with server.changed:
            assert server.changed.wait_for(lambda: bool(server.health), 20)
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("harm", ["job_keys.json", "identity.json", "result.key", "controller.yml"])
def test_it_says_why_it_cannot_start(settings: ControllerSettings, tmp_path: Path, harm: str) -> None:
    path = settings_file(settings, tmp_path)
    folder = Path(settings.folder) if (Path(settings.folder) / harm).exists() else tmp_path
    (folder / harm).write_text("folder: [1]")
    done = subprocess.run(
        [sys.executable, "-m", "agent.controller", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "cannot start" in done.stderr
    assert harm in done.stderr
