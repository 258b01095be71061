"""The TLS listener on a real socket: 1.3 only, client certificates verified, files taken over while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import STATE_KEY, PeerIdentity, TlsPeer
from serve.settings import Settings
from serve.tls import ClientCertificates, TlsError, TlsListener, TlsPlan, bound_socket, server_context, tls_plan

NOW = datetime.now(UTC)
AGENT = PeerIdentity(TenantId(UUID("11111111-1111-4111-8111-111111111111")), "web-1")


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it knows of the connection."""
    peer: TlsPeer = scope["state"][STATE_KEY]
    body = f"{peer.address} {peer.identity.uri if peer.identity else 'nobody'}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    made = CertificateAuthority(tmp_path / "tls")
    made.create(["localhost", "127.0.0.1"], NOW)
    return made


def plan_of(authority: CertificateAuthority, client_certificates: ClientCertificates) -> TlsPlan:
    settings = Settings(data_dir=authority.folder.parent, tls_client_certificates=client_certificates)
    return tls_plan(settings)


class Listening:
    def __init__(self, authority: CertificateAuthority, listener: TlsListener, port: int, ends: list[float]) -> None:
        self.authority = authority
        self.listener = listener
        self.port = port
        self.ends = ends

    def context(self, agent: Path | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.authority.certificate_path))
        if agent is not None:
            made.load_cert_chain(agent, agent.with_suffix(".key"))
        return made

    def client(self, agent: Path | None = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://localhost:{self.port}", verify=self.context(agent), trust_env=False, timeout=10
        )

    async def get(self, agent: Path | None = None) -> str:
        async with self.client(agent) as client:
            return (await client.get("/")).text


@contextlib.asynccontextmanager
async def listening(
    authority: CertificateAuthority, client_certificates: ClientCertificates = "optional"
) -> AsyncIterator[Listening]:
    bound = bound_socket("127.0.0.1", 0)
    ends: list[float] = []
    listener = TlsListener(application, plan_of(authority, client_certificates), bound, ends.append)
    port = bound.getsockname()[1]
    await listener.start()
    try:
        yield Listening(authority, listener, port, ends)
    finally:
        await listener.stop()


async def test_a_client_certificate_is_verified_and_named(authority: CertificateAuthority) -> None:
    agent = authority.issue_agent("acme", AGENT, NOW)
    async with listening(authority) as at:
        assert await at.get() == "127.0.0.1 nobody"
        assert await at.get(agent) == f"127.0.0.1 {AGENT.uri}"


async def test_forwarded_addresses_do_not_change_who_the_peer_is(authority: CertificateAuthority) -> None:
    async with listening(authority) as at, at.client() as client:
        assert (await client.get("/", headers={"X-Forwarded-For": "10.0.0.1"})).text == "127.0.0.1 nobody"


async def test_without_a_certificate_there_is_no_connection_where_one_is_required(
    authority: CertificateAuthority,
) -> None:
    agent = authority.issue_agent("acme", AGENT, NOW)
    async with listening(authority, "required") as at:
        with pytest.raises(httpx.TransportError):
            await at.get()
        assert await at.get(agent) == f"127.0.0.1 {AGENT.uri}"


async def test_certificates_of_others_are_no_certificates(authority: CertificateAuthority, tmp_path: Path) -> None:
    stranger = CertificateAuthority(tmp_path / "stranger")
    stranger.create(["localhost"], NOW)
    forged = stranger.issue_agent("acme", AGENT, NOW)
    expired = authority.issue_agent("acme", PeerIdentity(AGENT.tenant, "old"), NOW - timedelta(days=9), days=1)
    async with listening(authority) as at:
        for certificate in (forged, expired, authority.server_path):
            with pytest.raises(httpx.TransportError):
                await at.get(certificate)


async def test_tls_1_2_is_refused(authority: CertificateAuthority) -> None:
    async with listening(authority) as at:
        old = at.context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", at.port, ssl=old, server_hostname="localhost")
        _, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=at.context(), server_hostname="localhost")
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.close()
        await writer.wait_closed()


async def test_a_renewed_certificate_is_taken_over_without_a_restart(authority: CertificateAuthority) -> None:
    async with listening(authority) as at, at.client() as client:
        assert (await client.get("/")).status_code == 200
        before = await serial(at)
        assert not await at.listener.reload_if_changed()
        authority.issue_server(["localhost"], NOW, days=30)
        assert await at.listener.reload_if_changed()
        assert await serial(at) != before
        assert at.ends[1] < at.ends[0], "the gauge shows the end of the certificate in use"
        assert (await client.get("/")).status_code == 200


async def test_half_written_files_leave_the_old_ones_in_force(authority: CertificateAuthority) -> None:
    async with listening(authority) as at:
        before = await serial(at)
        key = authority.folder / "server.key"
        good = key.read_bytes()
        key.write_bytes(good[:40])
        assert not await at.listener.reload_if_changed()
        assert await serial(at) == before
        key.write_bytes(good)
        os.utime(key, ns=(1, 1))
        assert await at.listener.reload_if_changed()
        assert await serial(at) == before


async def test_a_revoked_certificate_is_refused_from_the_next_connection_on(authority: CertificateAuthority) -> None:
    agent = authority.issue_agent("acme", AGENT, NOW)
    other = authority.issue_agent("acme", PeerIdentity(AGENT.tenant, "web-2"), NOW)
    async with listening(authority) as at, at.client(agent) as client:
        assert (await client.get("/")).status_code == 200
        authority.revoke(agent, NOW)
        assert await at.listener.reload_if_changed()
        with pytest.raises(httpx.TransportError):
            await client.get("/")
        assert (await at.get(other)).endswith("web-2")


async def test_replicas_share_a_port(authority: CertificateAuthority) -> None:
    async with listening(authority) as at:
        second = bound_socket("127.0.0.1", at.port)
        second.close()
        with pytest.raises(TlsError, match="TRUSTSOC_TLS_PORT"):
            bound_socket("192.0.2.77", at.port)


def test_files_that_do_not_fit_are_named(authority: CertificateAuthority, tmp_path: Path) -> None:
    (authority.folder / "server.key").unlink()
    with pytest.raises(TlsError, match=r"server\.key"):
        server_context(plan_of(authority, "optional"))
    with pytest.raises(TlsError, match="trustsoc cert"):
        server_context(tls_plan(Settings(data_dir=tmp_path / "nothing")))


async def serial(at: Listening) -> str:
    _, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=at.context(), server_hostname="localhost")
    found = str(writer.get_extra_info("peercert")["serialNumber"])
    writer.close()
    await writer.wait_closed()
    return found
