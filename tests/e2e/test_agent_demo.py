"""The demo on a system that runs: a real agent for as long as it plays, and nothing of it afterwards, however it ends.

That it ends well, on a system of its own, is in test_command_line.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench.system import System
from tests.e2e.conftest import admin_headers, wait_for


@pytest.fixture
def demo(system: System, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts it, and returns once it plays: its agent is enrolled, runs and has answered a PING."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        words = tmp_path / f"demo-{len(started)}.err"
        argv = [sys.executable, "-m", "cluster.cli", "demo", "--once", "--data-dir", str(system.directory)]
        with words.open("wb") as stderr:
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=stderr)
        started.append(process)

        def plays() -> bool:
            said = words.read_text(errors="replace")
            assert process.poll() is None, said
            return "playing the intrusion" in said

        wait_for(plays, "the demo playing", 60)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def of_the_agent(system: System) -> list[psutil.Process]:
    """Every process whose command names the demo's agent, or that such a process started."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(system.directory / "demo-agent") in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def agents(system: System) -> list[dict[str, Any]]:
    """The demo's agents, the newest first."""
    headers = admin_headers(system)
    with httpx.Client(base_url=system.base_url, headers=headers, timeout=60) as admin:
        made = admin.post("/api/admin/tenants/demo/keys", json={"label": "test", "scopes": ["read"]}).json()
    reader = {"Authorization": f"Bearer {made['key']}"}
    items = httpx.get(f"{system.base_url}/api/agents", headers=reader, timeout=60).json()["items"]
    return sorted(items, key=lambda item: item["enrolled_at"], reverse=True)


def test_stopped_while_it_plays_it_takes_its_agent_along(
    system: System, demo: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = demo()
    # The supervisor, forwarder, controller and collector: each is told its folder.
    assert len(of_the_agent(system)) == 4
    assert agents(system)[0]["state"] == "active"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    assert of_the_agent(system) == []
    assert not (system.directory / "demo-agent").exists()
    assert agents(system)[0]["state"] == "revoked"
    assert system.process.is_running(), "a system that ran before goes on"


def test_killed_it_leaves_no_process_and_the_next_one_clears_what_is_left(
    system: System, demo: Callable[[], subprocess.Popen[bytes]]
) -> None:
    killed = demo()
    left = of_the_agent(system)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    gone, alive = psutil.wait_procs(left, timeout=60)
    assert (len(gone), alive) == (4, [])
    assert agents(system)[0]["state"] == "active"
    following = demo()
    states = [agent["state"] for agent in agents(system)[:2]]
    assert states == ["active", "revoked"]
    following.send_signal(signal.SIGTERM)
    assert following.wait(60) == 128 + signal.SIGTERM
