"""An edge that somebody else owns: it has the server's TLS key, hands on what agents ask, and changes the answers."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from bench.system import System

Item = dict[str, Any]


class HostileEdge:
    """What it knows and what it does to jobs that agents pull: `inject` comes before what the server has to say,
    `withhold` keeps jobs back in `kept`, `alter` changes them. `results` are those that agents sent, with its answer.
    """

    def __init__(self, system: System) -> None:
        self.changed = threading.Condition()
        self.inject: list[Item] = []
        self.seen: list[Item] = []
        self.kept: list[Item] = []
        self.results: list[tuple[Item, int]] = []
        self.withhold = False
        self.alter: Callable[[Item], Item] = lambda item: item
        # Straight to a replica: the proxy of the plain port would not tell that an agent has gone.
        self._server = urlsplit(system.tls_url).netloc
        self._trusted = ssl.create_default_context(cafile=str(system.directory / "tls" / "authority.pem"))
        edge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answered = edge._answer(self.path, dict(self.headers.items()), body, self.connection)
                if answered is None:
                    self.close_connection = True
                    return
                status, headers, content = answered
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(system.directory / "tls" / "server.pem", system.directory / "tls" / "server.key")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://localhost:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def result_of(self, job: str, count: int = 1, seconds: float = 60) -> Item:
        """The agent's last final result of the job, once there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.finals(job)) >= count, seconds), self.results
            return self.finals(job)[-1]

    def finals(self, job: str) -> list[Item]:
        """The agent's final results of the job."""
        return [said for said, _ in self.results if said["job"] == job and said["state"] != "running"]

    def _answer(
        self, path: str, headers: dict[str, str], body: bytes, agent: socket.socket
    ) -> tuple[int, dict[str, str], bytes] | None:
        if path == "/agent/jobs/pull" and (forged := self._injected()):
            return 200, {"X-Server-Time": str(time.time_ns() // 1_000_000)}, json.dumps(forged).encode()
        connection = HTTPSConnection(self._server, timeout=60, context=self._trusted)
        try:
            connection.request("POST", path, body, {name: headers[name] for name in headers if name != "Host"})
            # The server gives no job to a poll whose agent has gone, so it must learn of that.
            while not select.select([connection.sock], [], [], 0.05)[0]:
                if select.select([agent], [], [], 0)[0]:
                    return None
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        with self.changed:
            if path == "/agent/jobs/pull" and answer.status == 200:
                content = json.dumps(self._tampered(json.loads(content))).encode()
            elif path == "/agent/jobs/result":
                self.results.append((json.loads(json.loads(body)["result"]), answer.status))
            self.changed.notify_all()
        kept = ("X-Server-Time", "Content-Type", "Retry-After")
        return answer.status, {name: value for name in kept if (value := answer.getheader(name))}, content

    def _injected(self) -> Item | None:
        with self.changed:
            if not self.inject:
                return None
            items, self.inject = self.inject, []
        return {"items": items, "server_time": time.time_ns() // 1_000_000, "job_keys": None}

    def _tampered(self, answer: Item) -> Item:
        self.seen += answer["items"]
        if self.withhold:
            self.kept += answer["items"]
            return answer | {"items": []}
        return answer | {"items": [self.alter(item) for item in answer["items"]]}
