"""A small server of real HTTP over TLS 1.3 with client certificates: it checks envelopes and records what it took."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.contract import SigningKey, payload_hash, read_envelope
from agent.forwarder.inflate import inflate
from agent.forwarder.otlp_check import count_records
from serve.ingest.balance import SenderBooks, ServerBooks, balance

KEY = SigningKey("a1b2c3d4e5f6", "tss_a1b2c3d4e5f6_secret")
WINDOW_S = 300.0
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(slots=True)
class Row:
    """A batch of the journal."""

    seq: int
    key: str
    run: str
    digest: str
    records: int
    plain: bytes


@dataclass(slots=True)
class Attempt:
    """One request for /ingest/logs, and what it was answered with (0: nothing)."""

    key: str
    nonce: str
    timestamp_ms: int
    status: int
    at: float


@dataclass(slots=True)
class Journal:
    """What the server has stored, as the real one does: by key, each key once."""

    rows: dict[str, Row] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    statements: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[Any] = field(default_factory=list)
    nonces: set[str] = field(default_factory=set)
    elsewhere: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bodies(self) -> list[bytes]:
        return [row.plain for row in self.rows.values()]

    def records(self) -> int:
        return sum(row.records for row in self.rows.values())


class TinyServer:
    """`faults` are taken one for each batch request: names of Handler.FAULTS, or None for good behaviour."""

    def __init__(self, certificates: Path, port: int = 0, journal: Journal | None = None) -> None:
        self.journal = journal or Journal()
        self.faults: deque[str | None] = deque()
        self.always: str | None = None
        self.clock_ahead_s = 0.0
        self.together: threading.Barrier | None = None
        self.keys = {KEY.key_id: KEY.secret}
        self.ledger_answer: tuple[int, dict[str, Any]] | None = None
        self.ledger_stranger: tuple[int, dict[str, Any]] | None = None
        handler = type("BoundHandler", (Handler,), {"owner": self})
        self.http = _Server(("127.0.0.1", port), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        context.load_verify_locations(certificates / "authority.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.http.context = context
        self.port = int(self.http.server_address[1])
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def now_ms(self) -> int:
        return int((time.time() + self.clock_ahead_s) * 1000)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.http.cut_all()
        self._thread.join()

    def wait(self, condition: Callable[[Journal], bool], what: str, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition(self.journal):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.01)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    context: ssl.SSLContext

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: set[socket.socket] = set()

    def get_request(self) -> tuple[Any, Any]:
        raw, address = super().get_request()
        self.open.add(raw)
        return raw, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):
            request.settimeout(10)
            wrapped = self.context.wrap_socket(request, server_side=True)
            self.open.add(wrapped)
            try:
                super().finish_request(wrapped, client_address)
            finally:
                self.open.discard(wrapped)
                wrapped.close()

    def cut_all(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One connection of an agent."""

    protocol_version = "HTTP/1.1"
    owner: TinyServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/ingest/ledger":
            self._ledger(body)
            return
        owner = self.owner
        fault = owner.faults.popleft() if owner.faults else owner.always
        status, headers, answer = self._foreign(fault) or self._judged(body, fault)
        if owner.together is not None and status == 401:
            owner.together.wait(10)
        envelope = {name.lower(): value for name, value in self.headers.items()}
        attempt = Attempt(
            envelope.get("x-idempotency-key", ""),
            envelope.get("x-nonce", ""),
            int(envelope.get("x-request-timestamp", "0")),
            status,
            time.monotonic(),
        )
        owner.journal.attempts.append(attempt)
        if not status:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(status, headers, answer)

    def _foreign(self, fault: str | None) -> tuple[int, dict[str, str], bytes] | None:
        """Answers that are not ours: of a proxy, a portal, or of nobody."""
        if fault == "drop":
            return 0, {}, b""
        if fault is not None and fault.startswith("html"):
            status, _, retry_after = fault.removeprefix("html").partition("+")
            told = {"Retry-After": retry_after} if retry_after else {}
            return int(status), {"Content-Type": "text/html"} | told, HTML
        return None

    def _judged(self, body: bytes, fault: str | None) -> tuple[int, dict[str, str], bytes]:
        owner, journal = self.owner, self.owner.journal
        ours = {"X-Server-Time": str(owner.now_ms())}
        headers = {name.lower(): value for name, value in self.headers.items()}
        envelope = read_envelope(headers)
        parts = envelope.parts
        if fault is not None and fault.isdigit():
            extra = {"Retry-After": "1"} if fault in {"429", "503"} else {}
            return int(fault), ours | extra, b"refused by the test"
        if abs(parts.timestamp_ms - owner.now_ms()) > WINDOW_S * 1000:
            return 503, ours | {"Retry-After": "5"}, b"clock"
        secret = owner.keys.get(parts.key_id)
        if secret is None or payload_hash(body) != parts.payload_hash:
            return 401 if secret is None else 400, ours, b"key or digest"
        if not envelope.signed_by(secret, "POST", "/ingest/logs"):
            return 401, ours, b"signature"
        with journal.lock:
            if parts.nonce in journal.nonces or fault == "nonce":
                return 409, ours, b"nonce"
            journal.nonces.add(parts.nonce)
            answer = self._stored(body, headers, parts.idempotency_key, ours)
        return (0, {}, b"") if fault == "store_then_drop" else answer

    def _stored(
        self, body: bytes, headers: dict[str, str], key: str, ours: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        journal = self.owner.journal
        encoding: Any = headers.get("content-encoding", "identity")
        plain = inflate(body, encoding, 64 << 20)
        kind: Any = "json" if "json" in headers["content-type"] else "protobuf"
        records, digest, run = count_records(kind, plain), hashlib.sha256(plain).hexdigest(), headers["x-agent-run"]
        known = journal.rows.get(key)
        if known is not None and known.digest != digest:
            return 400, ours, b"another body under this key"
        if known is None:
            known = journal.rows[key] = Row(len(journal.rows) + 1, key, run, digest, records, plain)
            duplicate = "false"
        else:
            duplicate = "true"
            if known.run != run:
                ours["X-Batch-Elsewhere"] = "true"
                journal.elsewhere[run] = journal.elsewhere.get(run, 0) + records
        return 200, ours | {"X-Batch-Seq": str(known.seq), "X-Batch-Duplicate": duplicate}, b""

    def _ledger(self, body: bytes) -> None:
        owner, journal = self.owner, self.owner.journal
        statement = json.loads(body)
        ours = {"Content-Type": "application/json", "X-Server-Time": str(owner.now_ms())}
        if owner.ledger_answer is not None:
            status, found = owner.ledger_answer
            journal.statements.append(statement)
            self._answer(status, ours, json.dumps(found).encode())
            return
        if owner.ledger_stranger is not None:
            status, found = owner.ledger_stranger
            self._answer(status, {"Content-Type": "application/json"}, json.dumps(found).encode())
            return
        with journal.lock:
            rows = [row for row in journal.rows.values() if row.run == statement["run"]]
            last = max((row.seq for row in rows), default=0)
            stored = sum(row.records for row in rows)
            books = ServerBooks(stored, journal.elsewhere.get(statement["run"], 0), last)
            given = {name: value for name, value in statement.items() if name != "run"}
            verdict = balance(SenderBooks(**given), books, ServerBooks())
            journal.statements.append(statement)
            journal.verdicts.append(verdict)
            found = {"balanced": verdict.balanced, "detail": verdict.detail, "head": len(journal.rows)}
        self._answer(200, ours, json.dumps(found).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Not on the test's output."""


@contextlib.contextmanager
def serving(certificates: Path, port: int = 0, journal: Journal | None = None) -> Iterator[TinyServer]:
    server = TinyServer(certificates, port, journal)
    try:
        yield server
    finally:
        server.close()
