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
_KEEP_ALIVE_S = 75
_FIRST_BYTES_S = 30.0
_DRAIN_S = 10.0


class _LocalProtocol(HttpToolsProtocol):
    """Waits for nobody for ever, and takes so many connections at once."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        # uvicorn ends silent connections after their first answer only.
        self.timeout_keep_alive_task = self.loop.call_later(_FIRST_BYTES_S, self.timeout_keep_alive_handler)


class LocalServer:
    """Serves an ASGI application on one address from `start` to `stop`."""

    def __init__(self, application: Any, address: str, port: int) -> None:
        self._config = uvicorn.Config(
            application,
            http=_LocalProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._state = ServerState()
        self._address = (address, port)
        self._server: asyncio.Server | None = None
        self._clock: asyncio.TimerHandle | None = None
        self.port = port

    async def start(self) -> None:
        """Listens; raises OSError when the address is taken or not this host's."""
        self._config.load()
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._server = await loop.create_server(
            lambda: _LocalProtocol(self._config, self._state, {}, loop),
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
