"""A connection to the server: TLS 1.3 with this agent's certificate, kept open, one request at a time."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agent.forwarder.identity import Credentials

MOST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read; ours have less than 4 KiB."""

_CONNECT_S = 15.0
_PIECE = 32 * 1024


class LinkDown(Exception):
    """There was no answer. `sent` says that the request may have reached somebody, `stale` that an old connection had
    been closed meanwhile, as servers do: then a new one may well work at once."""

    def __init__(self, detail: str, *, sent: bool, stale: bool) -> None:
        super().__init__(detail)
        self.sent = sent
        self.stale = stale


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of whoever is at the other end. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Link:
    """Connects when needed. One thread posts; any thread may `abort`."""

    def __init__(self, host: str, port: int, answer_s: float, spend: Callable[[int], None]) -> None:
        """`spend` is called before so many bytes of a body are sent, and waits when there is a limit."""
        self._host = host
        self._port = port
        self._answer_s = answer_s
        self._spend = spend
        self._connection: http.client.HTTPSConnection | None = None
        self._version = 0
        self._aborted = threading.Event()

    def post(self, path: str, body: bytes, headers: Mapping[str, str], credentials: Credentials) -> Answer:
        """Raises LinkDown."""
        sent = False
        stale = self._connection is not None and self._version == credentials.version
        try:
            connection = self._connected(credentials)
            connection.putrequest("POST", path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            sent = True
            view = memoryview(body)
            for start in range(0, len(body), _PIECE):
                piece = view[start : start + _PIECE]
                self._spend(len(piece))
                try:
                    connection.send(piece)
                except ConnectionError:
                    break  # who refuses by the headers alone reads no further, and has answered
            answer = connection.getresponse()
            content = answer.read(MOST_ANSWER)
            if not answer.isclosed():
                self.close()  # more than anybody of ours says
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            closed = isinstance(error, ConnectionError | http.client.RemoteDisconnected)
            detail = f"{type(error).__name__}: {error}"[:300]
            raise LinkDown(detail, sent=sent, stale=stale and closed and not self._aborted.is_set()) from error

    def close(self) -> None:
        """Closes the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Lets whoever waits for an answer go on without one, and connects no more."""
        self._aborted.set()
        connection = self._connection
        raw = connection.sock if connection is not None else None
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    def _connected(self, credentials: Credentials) -> http.client.HTTPSConnection:
        if self._aborted.is_set():
            raise ConnectionAbortedError("the forwarder is stopping")
        if self._connection is not None and self._version != credentials.version:
            self.close()
        if self._connection is None:
            made = http.client.HTTPSConnection(self._host, self._port, timeout=_CONNECT_S, context=credentials.context)
            made.connect()
            if self._aborted.is_set():
                made.close()
                raise ConnectionAbortedError("the forwarder is stopping")
            made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.sock.settimeout(self._answer_s)
            self._connection, self._version = made, credentials.version
        return self._connection
