"""Syslog over TCP and TLS (RFC 5424 and 3164 messages, RFC 6587 framing, RFC 5425): listeners and who may send.

Each replica opens every listener (SO_REUSEPORT), and the kernel spreads connections. A port that cannot be opened is
tried again for ever and told by log and metric: it must not take the other doors with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from serve.auth import Authenticator
from serve.errors import WireError
from serve.ingest.intake import Sender
from serve.ingest.syslog_connection import ConnectionRefused, SyslogConnection, SyslogParts
from serve.peer import PeerIdentity, verified_identity
from serve.syslog_listener import SyslogListener

logger = structlog.get_logger("syslog")

_HANDSHAKE_S: Final = 10.0
_BUFFER: Final = 64 * 1024
_KEY_BYTES: Final = 4096


class SyslogDoor:
    """All listeners of a replica, and their connections."""

    def __init__(self, listeners: Sequence[SyslogListener], authenticator: Authenticator, parts: SyslogParts) -> None:
        self._listeners = listeners
        self._authenticator = authenticator
        self._parts = parts
        self._connections: set[asyncio.Task[None]] = set()
        self._open = _Open()

    async def serve(self) -> None:
        """Listens until `parts.stopping` is set; returns when every connection has stored what it had read."""
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners:
                group.create_task(self._listen(listener))
        while self._connections:
            await asyncio.wait(self._connections)

    async def _listen(self, listener: SyslogListener) -> None:
        """Keeps one listener open, with the files as they are: new ones count from the next connection on."""
        stopping = self._parts.stopping
        server: asyncio.Server | None = None
        opened_with: tuple[int, ...] = ()
        while not stopping.is_set():
            files = await asyncio.to_thread(_marks, listener)
            if server is None or files != opened_with:
                try:
                    fresh = await self._opened(listener)
                except OSError as error:
                    where = {"host": listener.host, "port": listener.port}
                    logger.error("the syslog listener cannot open", **where, error=str(error))
                else:
                    if server is None:
                        self._count_listeners(1)
                    else:
                        server.close()
                    server, opened_with = fresh, files
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self._parts.limits.look_again_s)
        if server is not None:
            server.close()
            self._count_listeners(-1)

    async def _opened(self, listener: SyslogListener) -> asyncio.Server:
        context = None if listener.certificate is None else tls_context(listener)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connected(listener, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return await asyncio.start_server(
            accept,
            listener.host,
            listener.port,
            limit=_BUFFER,
            ssl=context,
            ssl_handshake_timeout=None if context is None else _HANDSHAKE_S,
            reuse_port=True,
        )

    async def _connected(
        self, listener: SyslogListener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        metrics = self._parts.metrics
        outcome = "closed"
        self._open.connections += 1
        metrics.set("syslog_open_connections", self._open.connections)
        try:
            if self._open.connections > self._parts.limits.connections:
                outcome = "too_many"
                return
            peer = _address(writer)
            sender = self._sender_of(listener, writer)
            await SyslogConnection(self._parts, reader, peer, sender).run()
        except ConnectionRefused:
            outcome = "refused"
        except Exception:  # a defect costs this connection what it had gathered, as a kill would; the others go on
            outcome = "failed"
            logger.exception("a syslog connection failed")
        finally:
            self._open.connections -= 1
            metrics.set("syslog_open_connections", self._open.connections)
            metrics.count("syslog_connections", outcome=outcome)
            writer.close()

    def _sender_of(self, listener: SyslogListener, writer: asyncio.StreamWriter) -> Callable[[], Awaitable[Sender]]:
        handshake = writer.get_extra_info("ssl_object")
        identity = verified_identity(handshake.getpeercert()) if handshake is not None else None
        return lambda: sender_of(self._authenticator, listener.key_file, identity)

    def _count_listeners(self, change: int) -> None:
        self._open.listeners += change
        self._parts.metrics.set("syslog_listeners", self._open.listeners)


@dataclass(slots=True)
class _Open:
    connections: int = field(default=0)
    listeners: int = field(default=0)


async def sender_of(authenticator: Authenticator, key_file: Path | None, identity: PeerIdentity | None) -> Sender:
    """Whose messages come in: the tenant of the key in the file or of the certificate; of both if they agree.

    Asked for every batch, so a revoked key or a new one in the file counts from the next batch on. Raises WireError.
    """
    if key_file is None:
        if identity is None:
            raise WireError(401, "the client certificate names no agent: use one that `trustsoc cert` has made")
        principal = await authenticator.certificate_holder(identity)
    else:
        headers = {"authorization": f"Bearer {await asyncio.to_thread(_key_in, key_file)}"}
        _, principal = await authenticator.tenant_principal(headers, "ingest")
    if principal.tenant is None or (identity is not None and identity.tenant != principal.tenant):
        raise WireError(403, "the listener's key and the client certificate are of different tenants")
    return Sender(principal.tenant, principal.key_id)


def _key_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        # The file may be on its way (a secret that is being mounted): the sender waits meanwhile.
        raise WireError(503, f"the key file of the syslog listener cannot be read: {error}", reason="no_key") from error


def tls_context(listener: SyslogListener) -> ssl.SSLContext:
    """TLS 1.2 or newer, as RFC 9662 asks of syslog; raises OSError (ssl.SSLError) for files that do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if listener.certificate is None or listener.key is None:
        raise ValueError("the listener has no certificate")
    context.load_cert_chain(listener.certificate, listener.key)
    if listener.client_authority is not None:
        context.load_verify_locations(listener.client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
        if listener.revoked is not None:
            context.load_verify_locations(listener.revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _marks(listener: SyslogListener) -> tuple[int, ...]:
    """What changes when a file of the listener does; a missing file is 0."""
    files = (listener.certificate, listener.key, listener.client_authority, listener.revoked)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files if file is not None)


def _address(writer: asyncio.StreamWriter) -> str:
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        # A sender that vanished without a word would hold its place for ever.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer = writer.get_extra_info("peername")
    return str(peer[0]) if peer else ""


@asynccontextmanager
async def serving_syslog(
    listeners: Sequence[SyslogListener], authenticator: Authenticator, parts: SyslogParts
) -> AsyncIterator[None]:
    """Listens while the block runs; at its end connections get `parts.limits.stop_s` to store what they have read."""
    serving = asyncio.create_task(SyslogDoor(listeners, authenticator, parts).serve(), name="syslog")
    try:
        yield
    finally:
        parts.stopping.set()
        await serving
