"""TLS 1.3 with client certificates at the edge: a listener of every replica's own, beside Ray Serve's proxy.

Serve's proxies cannot do it (docs/decisions/0009): so each replica serves the same application on one shared port
(SO_REUSEPORT), with uvicorn's protocol. Files that change on disk are taken over without a restart: connections from
then on meet the new certificate, authority and revocation list; nobody who is waiting to be accepted is turned away.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Literal, cast

import structlog
import uvicorn
from cryptography import x509
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from actors.metrics import Metrics
from serve.peer import STATE_KEY, TlsPeer, verified_identity
from serve.settings import Settings

logger = structlog.get_logger("tls")

ClientCertificates = Literal["off", "optional", "required"]

_HANDSHAKE_S = 10.0
_FIRST_BYTE_S = 30.0
_KEEP_ALIVE_S = 75
_DRAIN_S = 5.0
_TICK_S = 1.0
_CONNECTIONS = 4096


class TlsError(Exception):
    """The listener cannot start: a file is missing or does not fit the others, or the port is taken."""


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """Where to listen, with what. `revoked` is a revocation list (PEM) that counts where it exists."""

    host: str
    port: int
    certificate: Path
    key: Path
    client_authority: Path
    revoked: Path
    client_certificates: ClientCertificates

    @property
    def files(self) -> tuple[Path, ...]:
        """Whatever a handshake depends on."""
        return (self.certificate, self.key, self.client_authority, self.revoked)


def tls_plan(settings: Settings) -> TlsPlan:
    """The plan of an installation; files default to those that `trustsoc cert` makes."""
    folder = settings.data_dir / "tls"
    return TlsPlan(
        host=settings.tls_host,
        port=settings.tls_port,
        certificate=settings.tls_certificate or folder / "server.pem",
        key=settings.tls_key or folder / "server.key",
        client_authority=settings.tls_client_authority or folder / "authority.pem",
        revoked=settings.tls_revoked or folder / "revoked.pem",
        client_certificates=settings.tls_client_certificates,
    )


def server_context(plan: TlsPlan) -> ssl.SSLContext:
    """TLS 1.3 and nothing older; client certificates as the plan says. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # No resumption: every connection shows its certificate, so a revocation holds from the next connection on.
    context.num_tickets = 0
    try:
        context.load_cert_chain(plan.certificate, plan.key)
        if plan.client_certificates != "off":
            context.load_verify_locations(plan.client_authority)
            required = plan.client_certificates == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            if plan.revoked.exists():
                context.load_verify_locations(plan.revoked)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(str(path) for path in plan.files)
        raise TlsError(f"the TLS files cannot be used ({error}): see `trustsoc cert show`; they are {names}") from error
    return context


def certificate_end(plan: TlsPlan) -> float:
    """When the server's certificate expires, in seconds since the epoch."""
    certificate = x509.load_pem_x509_certificate(plan.certificate.read_bytes())
    return certificate.not_valid_after_utc.timestamp()


class PeerHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that tells the application who is at the other end, and waits for nobody for ever."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast("asyncio.Transport", transport)
        handshake = connection.get_extra_info("ssl_object")
        address = connection.get_extra_info("peername") or ("",)
        peer = TlsPeer(str(address[0]), verified_identity(handshake.getpeercert()))
        self.app_state = {**self.app_state, STATE_KEY: peer}
        super().connection_made(connection)
        if len(self.connections) > _CONNECTIONS:
            connection.abort()
            return
        # uvicorn ends silent connections after their first answer only.
        self.timeout_keep_alive_task = self.loop.call_later(_FIRST_BYTE_S, self.timeout_keep_alive_handler)


class TlsListener:
    """Serves an ASGI application over TLS from `start` to `stop`, on the running event loop."""

    def __init__(
        self, application: ASGIApp, plan: TlsPlan, bound: socket.socket, ends: Callable[[float], None]
    ) -> None:
        """Takes over the `bound` socket. `ends` hears when the certificate in use expires, seconds since the epoch."""
        self._plan = plan
        self._socket = bound
        self._ends = ends
        self._config = uvicorn.Config(
            application,
            http=PeerHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # The other end of the socket is who it is, whatever X-Forwarded-For says.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._state = ServerState()
        self._server: asyncio.AbstractServer | None = None
        self._seen: tuple[int, ...] = ()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens; raises TlsError."""
        self._config.load()
        self._seen = _versions(self._plan.files)
        await self._listen(server_context(self._plan))
        self._state.default_headers = [_date_header()]
        self._watch = asyncio.get_running_loop().create_task(self._run(), name="tls-watch")

    async def stop(self) -> None:
        """Stops listening, lets requests under way end for a few seconds, and closes every connection."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._server is not None:
            self._server.close()
        self._socket.close()
        self._ask_to_close()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=_DRAIN_S)
        for connection in list(self._state.connections):
            transport = connection.transport
            if transport is not None:
                transport.abort()

    async def reload_if_changed(self) -> bool:
        """Takes over files that have changed; keeps the old ones, and tries again later, while the new do not fit."""
        versions = _versions(self._plan.files)
        if versions == self._seen:
            return False
        try:
            context = server_context(self._plan)
        except TlsError as error:
            logger.warning("new TLS files are not usable yet", error=str(error))
            return False
        await self._listen(context)
        self._seen = versions
        # Whoever is connected shows its certificate again, to the authority and revocation list of now.
        self._ask_to_close()
        logger.info("TLS files reloaded", certificate=str(self._plan.certificate))
        return True

    async def _listen(self, context: ssl.SSLContext) -> None:
        before = self._server
        # A duplicate: the kernel's queue of waiting connections outlives the server that a reload replaces.
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol,
            sock=self._socket.dup(),
            ssl=context,
            ssl_handshake_timeout=_HANDSHAKE_S,
            backlog=self._config.backlog,
        )
        if before is not None:
            before.close()
        self._ends(certificate_end(self._plan))

    def _protocol(self) -> asyncio.Protocol:
        return PeerHttpProtocol(self._config, self._state, {}, asyncio.get_running_loop())

    def _ask_to_close(self) -> None:
        for connection in list(self._state.connections):
            connection.shutdown()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._state.default_headers = [_date_header()]
            await self.reload_if_changed()


@contextlib.asynccontextmanager
async def serving_tls(application: ASGIApp, settings: Settings, metrics: Metrics) -> AsyncIterator[None]:
    """Serves the application over TLS while the block runs, where the settings name a port; raises TlsError."""
    if not settings.tls_port:
        yield
        return

    def ends(moment: float) -> None:
        metrics.set("tls_certificate_expires_seconds", moment)

    plan = tls_plan(settings)
    listener = TlsListener(application, plan, bound_socket(plan.host, plan.port), ends)
    try:
        await listener.start()
        yield
    finally:
        await listener.stop()


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that shares its address with those of other replicas; raises TlsError."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
            bound.setblocking(False)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise TlsError(f"cannot listen on {host}:{port} ({error.strerror}): set TRUSTSOC_TLS_PORT") from error
    return bound


def _versions(files: tuple[Path, ...]) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)


def _date_header() -> tuple[bytes, bytes]:
    return b"date", formatdate(time.time(), usegmt=True).encode("ascii")
