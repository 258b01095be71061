"""The engine is a process of its own: it listens nowhere but on loopback, and its death costs nobody anything."""

from __future__ import annotations

import os
import signal

import psutil

from bench.system import System
from tests.e2e.conftest import Tenant
from tests.e2e.test_operations import burst

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_only_loopback_is_listened_on(system: System) -> None:
    """Ray, Serve, HAProxy, PostgreSQL and the engine, each with all its ports (decisions 0003 and 0015)."""
    elsewhere = {
        (process.name(), connection.laddr)
        for process in system.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in LOOPBACK
    }
    assert not elsewhere


def test_the_engine_killed_costs_nobody_anything(system: System, tenant: Tenant) -> None:
    engines = [process for process in system.processes() if "serve.engine_process" in " ".join(_command(process))]
    for engine in engines:
        os.kill(engine.pid, signal.SIGKILL)
    assert tenant.send_lines(burst(1)).status_code == 200
    assert tenant.await_judged()["records"] == 10


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
