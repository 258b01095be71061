"""The listener's socket: uvicorn's HTTP/1.1 protocol without uvicorn's process around it."""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

CONNECTIONS: Final = 256
MOST_HEAD_BYTES: Final = 64 * 1024
"""Of a request's line and headers; they are read before anybody knows who sends them."""
REQUEST_S: Final = 60.0
"""From a request's first byte to its last."""
_KEEP_ALIVE_S = 75
FIRST_BYTES_S: Final = 30.0
"""From a connection to its first request."""
_DRAIN_S = 10.0


class _LocalProtocol(HttpToolsProtocol):
    """Takes so many connections at once, and neither waits for a sender for ever nor gathers whatever it sends.

    The parser keeps all of a head until it is complete, and uvicorn waits for one without end.
    """

    most_bytes = 0  # of one request after its head, with the marks of its chunks
    admitted = False  # whether it has shown the token; the application says so
    since = 0.0
    _deadline: asyncio.TimerHandle | None = None
    _in_head = True
    _received = 0  # bytes of the head so far, then of the rest

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {"connection": self}
        self.since = self.loop.time()
        self._within(FIRST_BYTES_S)
        if len(self.connections) > CONNECTIONS:
            # Any account of the host can open so many, and must not keep the collector out by it.
            others = (other for other in self.connections if isinstance(other, _LocalProtocol))
            min((other for other in others if not other.admitted), key=lambda other: other.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._within(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._received > (MOST_HEAD_BYTES if self._in_head else self.most_bytes):
            self.transport.abort()
            return
        self._received += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._in_head, self._received = True, 0
        self._within(REQUEST_S)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._received = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._received = True, 0
        # From now on it is this side that is waited for, unless the answer has gone out already.
        self._within(_KEEP_ALIVE_S if self.cycle.response_complete else None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._in_head:
            self._within(_KEEP_ALIVE_S)
        super().on_response_complete()

    def _within(self, seconds: float | None) -> None:
        """Ends the connection after so long, unless this is called again; None: it may take what it takes."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class LocalServer:
    """Serves an ASGI application on one address from `start` to `stop`."""

    def __init__(self, application: Any, address: str, port: int, most_body: int) -> None:
        """`most_body`: bytes of a body that the application takes; more is read only so that its answer is."""
        self._config = uvicorn.Config(
            application,
            http=_LocalProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # whoever sends nonsense shall not fill the log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._state = ServerState()
        self._address = (address, port)
        self._protocol = type("_BoundProtocol", (_LocalProtocol,), {"most_bytes": 2 * max(most_body, 1 << 20)})
        self._server: asyncio.Server | None = None
        self._clock: asyncio.TimerHandle | None = None
        self.port = port

    async def start(self) -> None:
        """Listens; raises OSError when the address is taken or not this host's."""
        self._config.load()
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._server = await loop.create_server(
            lambda: self._protocol(self._config, self._state, {}, loop),
            *self._address,
            family=family,
            reuse_address=True,
            backlog=256,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._tick()

    async def stop(self) -> None:
        """Stops listening and returns when the requests under way are answered, or after some seconds."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=_DRAIN_S)
        for connection in list(self._state.connections):
            transport = connection.transport
            if transport is not None:
                transport.abort()
        if self._clock is not None:
            self._clock.cancel()

    def _tick(self) -> None:
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode("ascii"))]
        self._clock = asyncio.get_running_loop().call_later(1.0, self._tick)
