"""Rotation by rename and by copytruncate, through the real collector and the real forwarder: no line is lost."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from agent.collector import FileSource, HostProfile
from agent.collector.profile import Queue
from tests.unit.agent.collector.conftest import Chain, append

ROTATIONS = 6
KEPT = 8


def profile(chain: Chain, queue: Queue = "none") -> HostProfile:
    source = FileSource("app", (f"{chain.logs}/*.log",), start_at="beginning")
    return HostProfile("web-1", (source,), endpoint=chain.endpoint, queue=queue, poll_milliseconds=50)


def shift(path: Path) -> None:
    """app.log.2 -> app.log.3, app.log.1 -> app.log.2; the oldest goes."""
    for number in range(KEPT, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))


def written(path: Path, name: str, rng: random.Random) -> list[str]:
    """Appends some lines in a few writes, sometimes with time for the collector to read in between."""
    lines = [f"{name} {number:04d} {'x' * rng.randrange(200)}." for number in range(rng.randrange(1, 60))]
    middle = rng.randrange(len(lines))
    append(path, *lines[:middle])
    time.sleep(rng.choice([0.0, 0.03, 0.12]))
    append(path, *lines[middle:])
    return lines


@pytest.mark.parametrize("queue", ["none", "memory"])
def test_rotation_by_rename_loses_and_doubles_nothing(chain: Chain, queue: Queue) -> None:
    """As a daemon does that learns of the rotation a moment later: it goes on writing into the renamed file."""
    rng = random.Random(7)  # noqa: S311
    log, lines = chain.logs / "app.log", [f"the first line {'y' * 100}"]
    with chain.collector(profile(chain, queue)):
        append(log, *lines)
        for rotation in range(ROTATIONS):
            lines += written(log, f"rename-{rotation}", rng)
            shift(log)
            log.replace(log.with_name("app.log.1"))
            lines += written(log.with_name("app.log.1"), f"late-{rotation}", rng)
            append(log, first := f"new file {rotation} {rng.random()}")
            lines.append(first)
            time.sleep(0.15)
        got = chain.wait_lines(set(lines))
    assert got == dict.fromkeys(lines, 1)


def test_rotation_by_copytruncate_loses_nothing(chain: Chain) -> None:
    """Nobody writes between the copy and the cut, where copytruncate itself loses lines."""
    rng = random.Random(8)  # noqa: S311
    log, lines = chain.logs / "app.log", [f"the first line {'y' * 100}"]
    with chain.collector(profile(chain)):
        append(log, *lines)
        for rotation in range(ROTATIONS):
            lines += written(log, f"copied-{rotation}-{rng.random()}", rng)
            shift(log)
            shutil.copyfile(log, log.with_name("app.log.1"))
            os.truncate(log, 0)
            time.sleep(rng.choice([0.0, 0.02, 0.15]))
        lines += written(log, "last", rng)
        got = chain.wait_lines(set(lines))
    assert set(got) == set(lines)


@pytest.mark.parametrize("queue", ["none", "memory"])
def test_a_forwarder_that_is_killed_again_and_again_costs_no_line(chain: Chain, queue: Queue) -> None:
    """What the collector has sent without an answer it sends again: doubled lines are at most what was on the way."""
    rng = random.Random(9)  # noqa: S311
    log, lines = chain.logs / "app.log", ["the first line"]
    with chain.collector(profile(chain, queue)):
        append(log, *lines)
        for kill in range(4):
            lines += written(log, f"before-{kill}", rng)
            chain.kill_forwarder()
            lines += written(log, f"while-{kill}", rng)
            shift(log)
            log.replace(log.with_name("app.log.1"))
            lines += written(log, f"rotated-{kill}", rng)
            chain.start_forwarder()
        got = chain.wait_lines(set(lines))
    assert set(got) == set(lines)


def test_packed_copies_are_left_alone(chain: Chain) -> None:
    with chain.collector(profile(chain)):
        append(chain.logs / "app.log.2.gz", "these are packed bytes")
        append(chain.logs / "app.log-20260301.xz", "and these too")
        append(chain.logs / "app.log-20260302", "dated and plain")
        append(chain.logs / "app.log", "the last line")
        got = chain.wait_lines({"the last line", "dated and plain"})
        time.sleep(0.3)
    assert set(got) == {"the last line", "dated and plain"} == set(chain.lines())


@pytest.mark.parametrize("queue", ["none", "memory"])
def test_a_collector_stops_by_itself_while_the_forwarder_is_away(chain: Chain, queue: Queue) -> None:
    collector = chain.collector(profile(chain, queue))
    collector.start()
    append(chain.logs / "app.log", "the first line")
    chain.wait_lines({"the first line"})
    chain.kill_forwarder()
    append(chain.logs / "app.log", "another line")
    assert collector.wait_for_log("connection refused", 20.0), collector.log_tail()
    began = time.monotonic()
    collector.stop(30.0)
    assert time.monotonic() - began < 15.0
