"""What an administrator does to running detectors: more and fewer of them, a look back, and what marks stand for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.system import System
from tests.e2e.conftest import Tenant, wait_for
from tests.e2e.test_operations import burst, verdict

NOW = int(time.time()) * 10**9
DAY = 86_400 * 10**9


def trustsoc(system: System, *arguments: str) -> Any:
    """What the command prints as JSON, asked of the running system."""
    line = system.process.cmdline()
    folder = line[line.index("--data-dir") + 1]
    command = [sys.executable, "-m", "cluster.cli", *arguments, "--data-dir", folder, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scaled(system: System, count: int) -> dict[str, Any]:
    """The shards once all of them are held by whom they should be held by, and every actor runs."""
    names = {f"detector-{number}" for number in range(count)}

    def settled() -> dict[str, Any] | None:
        answer: dict[str, Any] = trustsoc(system, "shards", "--all")
        held = all(shard["actor"] == shard["wanted"] for shard in answer["shards"])
        states = {actor["actor"]: actor["state"] for actor in answer["actors"]}
        return answer if held and states == dict.fromkeys(names, "running") else None

    return wait_for(settled, f"{count} actors with their shards")


def test_scaling_under_load_and_a_replay_that_finds_no_difference(
    system: System, new_tenant: Callable[[], Tenant]
) -> None:
    calm, moved = new_tenant(), new_tenant()
    try:
        for number in range(30):
            for tenant in (calm, moved):
                assert tenant.send_lines(burst(number)).status_code == 200
            if number == 8:
                trustsoc(system, "shards", "scale", "3")
            if number == 14:
                three = scaled(system, 3)
                assert {shard["actor"] for shard in three["shards"]} == {"detector-0", "detector-1", "detector-2"}
                assert trustsoc(system, "shards", "pin", moved.name)["pinned"]
            if number == 20:
                trustsoc(system, "shards", "unpin", moved.name)
                trustsoc(system, "shards", "scale", "1")
        for tenant in (calm, moved):
            tenant.await_judged()
        scaled(system, 1)
    finally:
        trustsoc(system, "shards", "scale", "1")
    assert verdict(calm), "a silent run would prove nothing"
    assert verdict(moved) == verdict(calm)

    with moved.client.stream("POST", "/api/replay", json={"from": 1}) as answer:
        assert json.loads(next(answer.iter_lines()))["type"] == "start"
    # Nobody hears the end of that one, but when it has ended there is room for the next.
    wait_for(lambda: moved.client.post("/api/replay", json={"from": 1}).status_code == 200 or None, "another replay")
    result = trustsoc(system, "replay", "--tenant", moved.name, "--from", "1")
    assert result["same"] == len(verdict(moved))
    assert [result[name] for name in ("missing", "new", "changed")] == [0, 0, 0]
    assert trustsoc(system, "deadletter", "list", "--tenant", moved.name)["items"] == []


def test_late_and_future_records_are_kept_marked_and_counted(system: System, tenant: Tenant) -> None:
    before = marks(system)
    tenant.send_lines([(NOW, "on time")])
    tenant.await_judged()
    tenant.send_lines([(NOW - DAY // 2, "half a day late"), (NOW + 2 * DAY, "of the day after tomorrow")])
    tenant.await_judged()
    found = {item["message"]: item["time_mark"] for item in tenant.get("/api/logs")["items"]}
    assert found == {"on time": "", "half a day late": "late", "of the day after tomorrow": "future"}
    after = marks(system)
    assert (after["late"] - before["late"], after["future"] - before["future"]) == (1, 1)


def marks(system: System) -> dict[str, int]:
    reports = system.status()["components"]["detectors"]["actors"]
    return {name: sum(report.get(name, 0) for report in reports) for name in ("late", "future")}
