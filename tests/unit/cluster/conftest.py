"""A real HTTP server on loopback that answers as a test says, and a data directory that points at it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.data_directory import ClientCredentials, DataDirectory

TENANT_KEY = "tsoc_tenant_key_that_must_stay_secret"
ADMIN_KEY = "tsoc_admin_key_that_must_stay_secret"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    pairs: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        """The parameters, of which each was given once."""
        assert len(dict(self.pairs)) == len(self.pairs)
        return dict(self.pairs)


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Route = Callable[[Asked], Answer]


class TinyServer:
    """Routes by "METHOD /path"; everything that was asked is kept."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {"GET /healthz": lambda _: Answer(body={})}
        self.asked: list[Asked] = []
        tiny = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def _answer(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, url.path, parse_qsl(url.query), headers, body)
                tiny.asked.append(asked)
                route = tiny.routes.get(f"{self.command} {url.path}")
                answer = route(asked) if route else problem(404, "Not Found", f"nothing at {url.path}")
                content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                content = b"" if answer.body is None else content
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(content)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                """Tests read what was asked, not a log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answers(self, route: str, body: Any, status: int = 200) -> None:
        """The same answer every time."""
        self.routes[route] = lambda _: Answer(status, body)

    def asked_for(self, route: str) -> list[Asked]:
        return [asked for asked in self.asked if f"{asked.method} {asked.path}" == route]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def problem(status: int, title: str, detail: str) -> Answer:
    """RFC 9457 problem details as the edge sends them."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Answer(status, body, content_type="application/problem+json")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them."""
    for name in ("DATA_DIR", "URL", "API_KEY", "ADMIN_KEY", "HTTP_PORT", "LLM", "INSTANCE"):
        monkeypatch.delenv(f"TRUSTSOC_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def server() -> Iterator[TinyServer]:
    tiny = TinyServer()
    yield tiny
    tiny.close()


@pytest.fixture
def directory(tmp_path: Path, server: TinyServer) -> DataDirectory:
    """A data directory whose credentials are for the tiny server."""
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    directory.write_credentials(
        ClientCredentials(server.url, admin_key=ADMIN_KEY, tenant="default", tenant_keys={"default": TENANT_KEY})
    )
    return directory


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def run(directory: DataDirectory) -> Run:
    """Runs `trustsoc` with the arguments on the data directory of the test."""

    def run_command(*arguments: str, stdin: bytes | None = None) -> Outcome:
        result = CliRunner().invoke(app, [*arguments, "--data-dir", str(directory.path)], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run_command


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
