"""The rules of supervision, on small programs: pauses between starts, the order of stopping, who ends all of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent.installation.conftest import is_alive, wait_for

ROOT = Path(__file__).resolve().parents[4]
HEEDS = """
import signal, sys
def end(*_):
    open({notes!r}, "a").write("{name} ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open({notes!r}, "a").write("{name} began\\n")
while True: signal.pause()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({notes!r}, "a").write("{name} began\\n")
while True: signal.pause()
"""
QUIET = """
import signal
while True: signal.pause()
"""
FAILS = """
import time
open({notes!r}, "a").write(f"{{time.monotonic()}}\\n")
raise SystemExit({status})
"""


class Bench:
    """Runs supervisors over programs that note what happens to them."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.state = folder / "state"
        self.running: list[subprocess.Popen[bytes]] = []

    def program(
        self, name: str, code: str, *, ends_all: bool = False, stop_s: float = 20.0, status: int = 0
    ) -> dict[str, object]:
        text = code.format(notes=str(self.notes), name=name, status=status)
        return {"name": name, "code": text, "stop_s": stop_s, "ends_all": ends_all}

    def start(self, *programs: dict[str, object]) -> subprocess.Popen[bytes]:
        module = "tests.unit.agent.installation.supervised"
        command = [sys.executable, "-m", module, str(self.state), json.dumps(programs)]
        self.running.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
        return self.running[-1]

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_started_is_stopped_first(bench: Bench, number: signal.Signals) -> None:
    process = bench.start(bench.program("takes", HEEDS), bench.program("sends", HEEDS))
    wait_for(lambda: len(bench.noted()) == 2, "both programs")
    process.send_signal(number)
    assert process.wait(30) == 0
    assert bench.noted()[2:] == ["sends ended", "takes ended"]


def test_one_that_does_not_listen_is_killed(bench: Bench) -> None:
    process = bench.start(bench.program("deaf", DEAF, stop_s=0.3))
    wait_for(bench.noted, "the program")
    pid = json.loads((bench.state / "run" / "agent.json").read_text())["programs"][0]["pid"]
    process.terminate()
    assert process.wait(30) == 0
    assert not is_alive(pid)


def test_one_that_fails_is_started_again_after_longer_and_longer_pauses(bench: Bench) -> None:
    process = bench.start(bench.program("fails", FAILS, status=3), bench.program("stays", QUIET))
    wait_for(lambda: len(bench.noted()) >= 3, "three starts")
    times = [float(line) for line in bench.noted()]
    assert times[1] - times[0] >= 0.9
    assert times[2] - times[1] >= 1.8
    process.terminate()
    assert process.wait(30) == 0


def test_one_that_cannot_be_used_from_the_start_ends_all(bench: Bench) -> None:
    process = bench.start(bench.program("stays", HEEDS), bench.program("unusable", FAILS, status=2))
    assert process.wait(30) == 2
    assert not (bench.state / "run" / "agent.json").exists()


def test_the_one_that_ends_to_be_started_anew_ends_all_and_well(bench: Bench) -> None:
    process = bench.start(bench.program("stays", HEEDS), bench.program("upgraded", FAILS, ends_all=True, status=0))
    assert process.wait(30) == 0


def test_other_programs_may_end_well_without_ending_all(bench: Bench) -> None:
    process = bench.start(bench.program("short", FAILS, status=0))
    wait_for(lambda: len(bench.noted()) >= 2, "a second start")
    assert process.poll() is None


def test_what_cannot_be_noted_does_not_end_what_runs(bench: Bench) -> None:
    (bench.state / "run" / "agent.json").mkdir(parents=True)
    process = bench.start(bench.program("stays", HEEDS))
    wait_for(bench.noted, "the program")
    process.terminate()
    assert process.wait(30) == 0
    assert bench.noted() == ["stays began", "stays ended"]
