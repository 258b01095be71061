"""Who is at the other end: only a verified certificate says, and no header of a client can claim it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import (
    STATE_KEY,
    PeerIdentity,
    PeerMiddleware,
    PeerSeal,
    TlsPeer,
    forwarded_identity,
    identity_of,
    trusted_networks,
    verified_identity,
)

TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
WEB = PeerIdentity(TENANT, "web-1")
DATABASE = PeerIdentity(TENANT, "db-1")
FORWARDED = ("x-forwarded-client-cert", f'Hash=ab;Subject="CN=x, O=y";URI={DATABASE.uri}')


def seen(headers: list[tuple[str, str]], peer: TlsPeer | None, trusted: str = "") -> PeerIdentity | None:
    """Whom a handler behind the middleware takes the peer of such a request for."""
    seal = PeerSeal()
    found: list[PeerIdentity | None] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        sent = Headers(scope=scope)
        assert "x-forwarded-client-cert" not in sent
        found.append(seal.open(sent))

    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "headers": raw, "state": {} if peer is None else {STATE_KEY: peer}}
    middleware = PeerMiddleware(handler, seal, trusted_networks(trusted))
    asyncio.run(middleware(scope, None, None))  # type: ignore[arg-type]  # the handler reads the scope alone
    [identity] = found
    return identity


def test_a_verified_certificate_names_its_agent() -> None:
    assert seen([("host", "x")], TlsPeer("192.0.2.1", WEB)) == WEB
    assert seen([], TlsPeer("192.0.2.1", None)) is None
    assert seen([], None) is None


@pytest.mark.parametrize("name", ["x-trustsoc-peer", "X-TrustSOC-Peer"])
def test_a_client_cannot_claim_an_identity(name: str) -> None:
    for value in (WEB.uri, f" {WEB.uri}", f"{'0' * 32} {WEB.uri}", PeerSeal().header(WEB)[1].decode()):
        assert seen([(name, value)], None) is None
        assert seen([(name, value)], TlsPeer("192.0.2.1", None)) is None
        assert seen([(name, value)], TlsPeer("192.0.2.1", DATABASE)) == DATABASE


def test_a_forwarded_certificate_counts_from_trusted_networks_on_our_own_port_only() -> None:
    trusted = "10.0.0.0/8, fd00::/8"
    for address in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3", "fd00::1%eth0"):
        assert seen([FORWARDED], TlsPeer(address, None), trusted) == DATABASE
    for address in ("192.0.2.1", "11.0.0.1", "fe80::1", "", "nonsense"):
        assert seen([FORWARDED], TlsPeer(address, None), trusted) is None
        assert seen([FORWARDED], TlsPeer(address, WEB), trusted) == WEB
    assert seen([FORWARDED], TlsPeer("10.1.2.3", None)) is None, "trusted networks are off by default"
    assert seen([FORWARDED], None, trusted) is None, "through Serve's proxy nobody knows the other end"
    assert seen([FORWARDED, FORWARDED], TlsPeer("10.1.2.3", None), trusted) is None
    assert seen([], TlsPeer("10.1.2.3", WEB), trusted) == WEB


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"URI={WEB.uri}", WEB),
        (f'By=spiffe://edge;Hash=00;Subject="/C=US;O=a,b \\" c/";URI={WEB.uri};DNS=x', WEB),
        (f'URI="{WEB.uri}"', WEB),
        (f"URI={WEB.uri};URI={DATABASE.uri}", None),
        (f"URI=spiffe://x;URI={WEB.uri}", WEB),
        (f"URI={WEB.uri},URI={DATABASE.uri}", None),
        (f'Subject="URI={WEB.uri}"', None),
        ("", None),
        ("Cert=nonsense", None),
        ("Cert=" + "a" * 20_000, None),
    ],
)
def test_the_forwarded_header(value: str, expected: PeerIdentity | None) -> None:
    assert forwarded_identity(value) == expected


def test_a_forwarded_certificate_in_whole(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "tls")
    authority.create(["localhost"], datetime.now(UTC))
    path = authority.issue_agent("acme", WEB, datetime.now(UTC))
    assert forwarded_identity(f'Cert="{quote(path.read_text(), safe="")}"') == WEB
    assert forwarded_identity(f'Cert="{quote(authority.server_path.read_text(), safe="")}"') is None


@given(st.text(max_size=200))
def test_hostile_headers_name_nobody(value: str) -> None:
    assert forwarded_identity(value) is None
    assert PeerSeal().open({"x-trustsoc-peer": value}) is None


def test_names_in_certificates() -> None:
    names = (("DNS", "web-1"), ("URI", WEB.uri))
    assert verified_identity({"subjectAltName": names}) == WEB
    assert verified_identity({"subjectAltName": (("DNS", WEB.uri),)}) is None
    assert verified_identity({}) is None
    assert verified_identity(None) is None
    assert identity_of([WEB.uri, DATABASE.uri]) is None
    for wrong in (WEB.uri.upper(), WEB.uri + "/", WEB.uri + "\n", WEB.uri.replace("tenant", "tenants"), "trustsoc://"):
        assert identity_of([wrong]) is None


def test_networks_are_networks() -> None:
    assert trusted_networks("") == ()
    with pytest.raises(ValueError, match="does not appear"):
        trusted_networks("10.0.0.0/8, everybody")
