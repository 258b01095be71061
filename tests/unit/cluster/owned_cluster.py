"""A program that owns a data directory through running_cluster, with a child of its own, until it is told to stop.

Arguments: data directory, and how it behaves: `good`, `leaky` (its stop forgets the child) or `deaf` (never stops).
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cluster.data_directory import DataDirectory
from cluster.lifecycle import Progress, running_cluster
from cluster.stop_signals import StopRequested


@dataclass(frozen=True)
class Endpoint:
    base_url: str
    admin_key: str | None
    agent_url: str = ""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b'{"key_id": "k", "key": "tenant-secret", "name": "default"}'
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


class SmallCluster:
    """An HTTP server that makes tenants and keys, and a child process."""

    def __init__(self, behaviour: str) -> None:
        self._behaviour = behaviour
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, progress: Progress) -> Endpoint:
        progress("starting the child")
        self._child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return Endpoint(f"http://127.0.0.1:{self._server.server_port}", "first-admin-secret")

    def stop(self) -> None:
        if self._behaviour == "deaf":
            threading.Event().wait()
        self._server.shutdown()
        if self._behaviour != "leaky" and self._child is not None:
            self._child.terminate()
            self._child.wait()

    def wait(self) -> None:
        threading.Event().wait()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        with running_cluster(
            DataDirectory(Path(sys.argv[1])), "http://127.0.0.1:9", lambda: SmallCluster(sys.argv[2]), say
        ) as started:
            say(f"ready {started.base_url} {started.new_admin_key}")
            started.cluster.wait()
    except StopRequested:
        say("stopped")
