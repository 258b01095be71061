"""Calls of the Control API: TLS 1.3 with the agent's certificate, each request in a signed envelope.

An answer without X-Server-Time is not the server's but some proxy's, and says nothing. The envelope's time follows the
server's clock, so that a host whose clock is off can still say so; whether a job is valid is judged by the host's own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
import uuid
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from agent.contract import SERVER_TIME_HEADER, SigningKey, new_nonce, sign
from agent.controller.identity import AgentIdentity

_MOST_ANSWER: Final = 4_194_304
_TIMEOUT_S: Final = 30.0
_MOST_DIGITS: Final = 15


class Unreachable(Exception):
    """Nobody knows whether the call counted: ask again, after `retry_after_s` where the server named it."""

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The server's own definite no. `status` is HTTP's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the authority to trust, and the agent's certificate and key."""

    authority: Path
    certificate: Path
    key: Path


class ControlClient:
    """One connection to the Control API, kept open; used by one thread at a time, `interrupt` by any."""

    def __init__(self, identity: AgentIdentity, signing_key: SigningKey, tls: TlsFiles) -> None:
        url = urlsplit(identity.control)
        if url.scheme != "https" or not url.hostname or url.query or url.fragment:
            raise ValueError(f"the address of the Control API must be https://HOST[:PORT][/PATH], not {url.geturl()}")
        self._identity = identity
        self._signing_key = signing_key
        self._tls = tls
        self._host, self._port, self._base = url.hostname, url.port or 443, url.path.rstrip("/")
        self._connection: HTTPSConnection | None = None
        self.offset_ms = 0  # the server's clock less this host's

    @property
    def host(self) -> str:
        """The name or address of the server."""
        return self._host

    def with_files(self, tls: TlsFiles) -> ControlClient:
        """Another client of the same agent, with a connection of its own."""
        other = ControlClient(self._identity, self._signing_key, tls)
        other.offset_ms = self.offset_ms
        return other

    def sibling(self) -> ControlClient:
        """Another client with the same files, for another thread."""
        return self.with_files(self._tls)

    def use_key(self, signing_key: SigningKey) -> None:
        """Signs with this key from the next call on."""
        self._signing_key = signing_key

    def post(self, path: str, body: dict[str, Any], *, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        """The object that the server answers with. Raises Unreachable, Refused."""
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        answer = self._call("POST", path, data, timeout_s, _MOST_ANSWER)
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"{path} was answered with something else than JSON") from error
        if not isinstance(value, dict):
            raise Unreachable(f"{path} was answered with something else than an object")
        return value

    def get(self, path: str, *, most_bytes: int, timeout_s: float = _TIMEOUT_S) -> bytes:
        """The bytes at that path, at most so many. Raises Unreachable, Refused (413 when there are more)."""
        return self._call("GET", path, b"", timeout_s, most_bytes)

    def download(self, path: str, sink: BinaryIO, *, most_bytes: int, timeout_s: float = _TIMEOUT_S) -> None:
        """Writes the bytes at that path to a file, from its beginning. Raises as `get` does."""
        self._call("GET", path, b"", timeout_s, most_bytes, sink)

    def reconnect(self) -> None:
        """Closes the connection; the next call opens another, with the files as they are then."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """Ends a call that waits: it raises Unreachable."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _call(
        self, method: str, path: str, body: bytes, timeout_s: float, most_bytes: int, sink: BinaryIO | None = None
    ) -> bytes:
        idempotency_key = uuid.uuid4().hex
        for attempt in (0, 1):
            if sink is not None:
                sink.seek(0)
                sink.truncate()
            request = (method, path, body, idempotency_key)
            status, headers, data = self._exchange(request, timeout_s, most_bytes, sink)
            server_time = _whole(headers.get(SERVER_TIME_HEADER.lower(), ""))
            if server_time is None:
                raise Unreachable(f"{path} was answered with {status} by something that is not the server")
            was_off = self.offset_ms
            self.offset_ms = server_time - time.time_ns() // 1_000_000
            if status in (200, 201, 204):
                return data
            # A used nonce and a clock that was off are mended by signing again.
            resign = status == 409 or (status == 503 and abs(self.offset_ms - was_off) > 60_000)
            if attempt or not resign:
                break
        detail = _detail(data)
        if status == 429 or status >= 500:
            raise Unreachable(f"{path}: {status}: {detail}", _seconds(headers.get("retry-after", "")))
        raise Refused(status, detail)

    def _exchange(
        self, request: tuple[str, str, bytes, str], timeout_s: float, most_bytes: int, sink: BinaryIO | None
    ) -> tuple[int, dict[str, str], bytes]:
        method, path, body, idempotency_key = request
        full = self._base + path
        envelope = sign(
            self._signing_key,
            method=method,
            path=full,
            client_id=str(self._identity.tenant),
            body=body,
            idempotency_key=idempotency_key,
            timestamp_ms=time.time_ns() // 1_000_000 + self.offset_ms,
            nonce=new_nonce(),
        )
        headers = envelope.headers | {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        try:
            connection = self._connected(timeout_s)
            connection.request(method, full, body, headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            data, whole = _body(answer, most_bytes, sink)
            if not whole:
                self.reconnect()
                return 413, found, b"the answer is larger than this agent takes"
            if answer.will_close:
                self.reconnect()
        except (OSError, HTTPException, ValueError) as error:
            self.reconnect()
            raise Unreachable(f"{path}: {type(error).__name__}: {error}") from error
        return answer.status, found, data

    def _connected(self, timeout_s: float) -> HTTPSConnection:
        if self._connection is None:
            context = ssl.create_default_context(cafile=str(self._tls.authority))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            self._connection = HTTPSConnection(self._host, self._port, context=context, timeout=timeout_s)
            self._connection.connect()
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        return self._connection


def _body(answer: HTTPResponse, most_bytes: int, sink: BinaryIO | None) -> tuple[bytes, bool]:
    """The body, empty where it went to the sink, and whether it was all there is."""
    if sink is None or answer.status != 200:
        data = answer.read(most_bytes + 1)
        return data, len(data) <= most_bytes
    taken = 0
    while chunk := answer.read(65_536):
        taken += len(chunk)
        if taken > most_bytes:
            return b"", False
        sink.write(chunk)
    return b"", True


def _detail(data: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        return str(json.loads(data).get("detail", ""))[:500]
    return data[:200].decode("utf-8", "replace")


def _seconds(text: str) -> float | None:
    seconds = _whole(text)
    return min(float(seconds), 3600.0) if seconds is not None else None


def _whole(text: str) -> int | None:
    """The number, None for what is none: also of digits that are not 0 to 9, or more of them than a time has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None
