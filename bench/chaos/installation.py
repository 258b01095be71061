"""An installation that can be killed as a whole and started again on the same data directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from bench.system import free_port
from cluster import process_family

_START_S = 240.0


class Installation:
    """`trustsoc up` on one data directory and one port. The address stays the same over restarts."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        # No tick rows: a tenant that waits for a dead part must get the same journal as one that never waited.
        self._environment = {"TRUSTSOC_GRPC_PORT": "0", "TRUSTSOC_TICK_AFTER_IDLE_S": "86400"} | (environment or {})
        self._up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when /readyz says yes; raises RuntimeError with the end of the log otherwise."""
        command = [sys.executable, "-m", "cluster.cli", "up", "--data-dir", str(self.data), "--port", str(self.port)]
        log_path = self.folder / "up.log"
        with log_path.open("ab") as log:
            self._up = subprocess.Popen(
                [*command, "--llm", "none"], stdout=log, stderr=log, env=os.environ | self._environment
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._up.poll() is None:
            # The file of credentials is written when everything answers; a later start finds the old one.
            if self._ready() and (self.data / "client.json").exists():
                return
            time.sleep(0.1)
        raise RuntimeError(f"the system did not start: {log_path.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """The polite end, as Ctrl-C."""
        if self._up is not None:
            self._up.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._up.wait(120)
            self.kill()

    def kill(self) -> int:
        """SIGKILL to the owner and its whole family at once; how many processes that were."""
        if self._up is None:
            return 0
        doomed = self.processes()
        with suppress(OSError, ValueError, KeyError):
            instance = str(json.loads((self.data / "runtime.json").read_bytes())["instance"])
            doomed |= process_family.family(psutil.Process(self._up.pid), instance, self.data)
        for process in doomed:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(doomed), timeout=20)
        self._up.wait(20)
        self._up = None
        return len(doomed)

    def processes(self) -> set[psutil.Process]:
        """The owner and everything below it that lives."""
        if self._up is None:
            return set()
        with suppress(psutil.NoSuchProcess):
            owner = psutil.Process(self._up.pid)
            return process_family.living({owner, *owner.children(recursive=True)})
        return set()

    def admin_key(self) -> str:
        """The first administrator's key."""
        return str(json.loads((self.data / "client.json").read_bytes())["admin_key"])

    def new_tenant(self, name: str) -> str:
        """Makes a tenant; a key of it that may send and read."""
        with httpx.Client(base_url=self.base_url, headers={"Authorization": f"Bearer {self.admin_key()}"}) as admin:
            admin.post("/api/admin/tenants", json={"name": name}).raise_for_status()
            made = admin.post(f"/api/admin/tenants/{name}/keys", json={"label": "chaos", "scopes": ["ingest", "read"]})
            return str(made.raise_for_status().json()["key"])

    def _ready(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.base_url}/readyz", timeout=5).status_code == 200
        return False
