"""The system under measurement: brought up by its own command line in a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import psutil

from cluster.certificates import CertificateAuthority, own_hosts
from cluster.data_directory import DataDirectory

_UP_S = 240.0

Part = Literal["edge", "proxy", "postgres", "detector", "advisor", "other"]
_NAMES: dict[str, Part] = {
    "ray::ServeReplica:trustsoc:Edge": "edge",
    "haproxy": "proxy",
    "ray::ProxyActor": "proxy",
    "ray::HAProxyManager": "proxy",
    "postgres": "postgres",
    "ray::DetectorShard": "detector",
    "ray::ServeReplica:trustsoc:Advisor": "advisor",
}


def _part_of(name: str) -> Part:
    # The kernel cuts names, so what was cut is taken for what it begins.
    return next((part for known, part in _NAMES.items() if name.startswith(known) or known == name), "other")


@dataclass(frozen=True, slots=True)
class System:
    """A running installation: its address, a key with all scopes, its first process, and how long it took to start."""

    base_url: str
    key: str
    process: psutil.Process
    started_s: float
    grpc_address: str
    tls_url: str
    directory: Path

    def client(self) -> httpx.Client:
        """An API client of the default tenant."""
        return httpx.Client(base_url=self.base_url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def administrator(self) -> httpx.Client:
        """An API client with the administrator's key."""
        key = json.loads((self.directory / "client.json").read_bytes())["admin_key"]
        return httpx.Client(base_url=self.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=300)

    def status(self) -> dict[str, Any]:
        """GET /api/status."""
        with self.client() as client:
            return status(client)

    def await_judged(self, limit_s: float = 300.0) -> float:
        """Seconds until every durable batch is judged."""
        with self.client() as client:
            return await_judged(client, limit_s)

    def await_advisor(self, limit_s: float = 600.0) -> None:
        """Returns once the advisor has its corpus, or there is none to wait for."""
        deadline = time.monotonic() + limit_s
        while not self.status()["components"]["advisor"]["ready"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the advisor was not ready in {limit_s:.0f} s")
            time.sleep(0.5)

    def processes(self) -> list[psutil.Process]:
        """The whole family, the owner included."""
        return [self.process, *self.process.children(recursive=True)]

    def pss_bytes(self) -> int:
        """Proportional set size of the family: shared pages counted once."""
        total = 0
        for process in self.processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def cpu_seconds(self) -> float:
        """User and system time of the family so far."""
        return sum(self.cpu_by_part().values())

    def cpu_by_part(self) -> dict[Part, float]:
        """User and system time so far of each part of the family, in seconds."""
        total: dict[Part, float] = dict.fromkeys(get_args(Part), 0.0)
        for process in self.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total[_part_of(process.name())] += times.user + times.system
        return total

    def detector(self) -> psutil.Process | None:
        """The process of the first detector actor, if it is there."""
        for process in self.processes():
            with suppress(psutil.Error):
                if _part_of(process.name()) == "detector":
                    return process
        return None


def status(client: httpx.Client) -> dict[str, Any]:
    """GET /api/status, as the client's tenant sees it."""
    answer: dict[str, Any] = client.get("/api/status").raise_for_status().json()
    return answer


def await_judged(client: httpx.Client, limit_s: float) -> float:
    """Seconds until every durable batch of the client's tenant is judged. Raises TimeoutError."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        counts = status(client)["counts"]
        if counts["judged"] == counts["batches"]:
            return time.monotonic() - began
        time.sleep(0.1)
    raise TimeoutError(f"the detectors did not catch up in {limit_s:.0f} s")


def new_tenant(administrator: httpx.Client, name: str, *scopes: str) -> str:
    """Makes a tenant; its key."""
    administrator.post("/api/admin/tenants", json={"name": name}).raise_for_status()
    made = administrator.post(f"/api/admin/tenants/{name}/keys", json={"label": "bench", "scopes": scopes})
    return str(made.raise_for_status().json()["key"])


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_system(llm: str = "none", environment: dict[str, str] | None = None) -> Iterator[System]:
    """`trustsoc up` in an empty data directory until the block ends."""
    with tempfile.TemporaryDirectory(prefix="trustsoc-bench-") as folder:
        # Root's PostgreSQL runs as another user and must be able to pass through.
        Path(folder).chmod(0o711)
        directory = Path(folder) / "data"
        port = free_port()
        command = [sys.executable, "-m", "cluster.cli", "up", "--data-dir", str(directory), "--port", str(port)]
        log = (Path(folder) / "up.log").open("wb")
        began = time.monotonic()
        grpc_port = free_port()
        tls_port = free_port()
        DataDirectory(directory).create()
        CertificateAuthority(directory / "tls").create(own_hosts(), datetime.now(UTC))
        ports = {"TRUSTSOC_GRPC_PORT": str(grpc_port), "TRUSTSOC_TLS_PORT": str(tls_port)}
        stated = os.environ | ports | (environment or {})
        up = subprocess.Popen([*command, "--llm", llm], stdout=log, stderr=log, env=stated)
        try:
            credentials = _await_credentials(directory, up, Path(folder) / "up.log")
            started = time.monotonic() - began
            base_url = f"http://127.0.0.1:{port}"
            addresses = (f"127.0.0.1:{grpc_port}", f"https://localhost:{tls_port}")
            yield System(base_url, credentials, psutil.Process(up.pid), started, *addresses, directory)
        finally:
            up.terminate()
            up.wait(120)
            log.close()


def _await_credentials(directory: Path, up: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _UP_S
    while time.monotonic() < deadline:
        if up.poll() is not None:
            break
        with suppress(OSError, ValueError, KeyError):
            stored = json.loads((directory / "client.json").read_bytes())
            return str(stored["tenant_keys"][stored["tenant"]])
        time.sleep(0.05)
    raise RuntimeError(f"the system did not start: {log.read_text(errors='replace')[-2000:]}")
