"""A server, and an agent that is enrolled at it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.controller.assembly import AssembledController
from agent.controller.settings import ControllerSettings
from tests.unit.agent.controller.control_server import ControlServer, control_server

# All types, at rates that no test meets unless it means to.
OPEN_POLICY = "jobs: {PING: , RULES_RELOAD: , UPDATE_CONFIG: , CERT_ROTATE: , UPGRADE: , COLLECT_FILE: , BLOCK_IP: }\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with control_server(folder) as running:
        yield running
        assert not running.troubles


@pytest.fixture
def settings(tmp_path: Path, server: ControlServer) -> ControllerSettings:
    folder = tmp_path / "agent"
    server.make_identity(folder)
    policy = tmp_path / "policy.yml"
    policy.write_text(OPEN_POLICY)
    policy.chmod(0o600)
    return ControllerSettings(folder=str(folder), policy=str(policy))


Started = Callable[..., AssembledController]


@pytest.fixture
def start(settings: ControllerSettings) -> Iterator[Started]:
    """Starts the controller in a thread, with changed settings where they are given; it is stopped at the end."""
    running: list[tuple[AssembledController, threading.Thread]] = []

    def started(**changes: Any) -> AssembledController:
        controller = AssembledController(replace(settings, **changes), wait_s=2)
        thread = threading.Thread(target=controller.run)
        running.append((controller, thread))
        thread.start()
        return controller

    yield started
    for controller, thread in running:
        controller.stop()
        thread.join(30.0)
        assert not thread.is_alive()
