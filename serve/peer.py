"""The other end of a TLS connection: which agent of which tenant its certificate names, and how handlers learn it.

A verified certificate names its holder in a subject alternative name of type URI,
`trustsoc://tenant/<tenant id>/agent/<name>`. The outermost layer of the application takes every header away that could
claim as much, and puts in its own, sealed with a random token of this process.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote
from uuid import UUID

from cryptography import x509
from starlette.types import ASGIApp, Receive, Scope, Send

from detect.record import TenantId

STATE_KEY: Final = "trustsoc_connection"
_SEALED: Final = "x-trustsoc-peer"
_FORWARDED: Final = "x-forwarded-client-cert"
_RESERVED = frozenset({_SEALED.encode(), _FORWARDED.encode()})

_NAME = re.compile(r"trustsoc://tenant/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/agent/([a-z0-9][a-z0-9._-]{0,62})")
_PAIR = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,"]*)')
_FORWARDED_LIMIT = 16 * 1024

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The agent that a certificate names."""

    tenant: TenantId
    agent: str

    @property
    def uri(self) -> str:
        """The identity as certificates carry it."""
        return f"trustsoc://tenant/{self.tenant}/agent/{self.agent}"


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """What our own listener knows of a connection: the socket's other address, and who its certificate names."""

    address: str
    identity: PeerIdentity | None


class PeerSeal:
    """Carries an identity from the outermost layer to the handlers in a header that no client can make."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(16)

    def header(self, identity: PeerIdentity) -> tuple[bytes, bytes]:
        """The raw header to add to a request."""
        return _SEALED.encode(), f"{self._token} {identity.uri}".encode("ascii")

    def open(self, headers: Mapping[str, str]) -> PeerIdentity | None:
        """The identity that this process sealed into the headers; anything else is no identity."""
        token, _, uri = headers.get(_SEALED, "").partition(" ")
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token.encode()):
            return None
        return identity_of([uri])


class PeerMiddleware:
    """The outermost ASGI layer. Believes a forwarded certificate only on our own TLS port, from the named networks.

    Requests through Ray Serve's proxy never carry an identity: there the other end of the socket is the proxy.
    """

    def __init__(self, application: ASGIApp, seal: PeerSeal, trusted: tuple[Network, ...]) -> None:
        self._application = application
        self._seal = seal
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            scope = self._sealed(scope)
        await self._application(scope, receive, send)

    def _sealed(self, scope: Scope) -> Scope:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        kept = [header for header in headers if header[0].lower() not in _RESERVED]
        peer = (scope.get("state") or {}).get(STATE_KEY)
        identity = self._identity(peer, headers) if isinstance(peer, TlsPeer) else None
        if identity is not None:
            kept.append(self._seal.header(identity))
        elif len(kept) == len(headers):
            return scope
        return {**scope, "headers": kept}

    def _identity(self, peer: TlsPeer, headers: Iterable[tuple[bytes, bytes]]) -> PeerIdentity | None:
        forwarded = [value for name, value in headers if name.lower() == _FORWARDED.encode()]
        if not forwarded or not self._trusts(peer.address):
            return peer.identity
        return forwarded_identity(forwarded[0].decode("latin-1")) if len(forwarded) == 1 else None

    def _trusts(self, address: str) -> bool:
        try:
            given = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped is not None:
            given = given.ipv4_mapped
        return any(given in network for network in self._trusted)


def identity_of(uris: Iterable[str]) -> PeerIdentity | None:
    """The agent that subject alternative names of type URI name; None for none, and for more than one."""
    found = [match for uri in uris if (match := _NAME.fullmatch(uri))]
    if len(found) != 1:
        return None
    return PeerIdentity(TenantId(UUID(found[0][1])), found[0][2])


def verified_identity(certificate: Mapping[str, Any] | None) -> PeerIdentity | None:
    """The same, of what ssl.SSLSocket.getpeercert() says about a certificate that it has verified."""
    names = (certificate or {}).get("subjectAltName", ())
    return identity_of(value for kind, value in names if kind == "URI")


def forwarded_identity(value: str) -> PeerIdentity | None:
    """The agent that one X-Forwarded-Client-Cert element names, by its URI fields or by its Cert field (escaped PEM).

    Several elements mean several proxies, of which only the last is known: such a header names nobody.
    """
    if len(value) > _FORWARDED_LIMIT:
        return None
    pairs = [(match[1].lower(), match[2].strip('"')) for match in _PAIR.finditer(value)]
    if "," in _PAIR.sub("", value):
        return None
    certificates = [text for name, text in pairs if name == "cert"]
    if certificates:
        return _pem_identity(unquote(certificates[0])) if len(certificates) == 1 else None
    return identity_of(text for name, text in pairs if name == "uri")


def trusted_networks(text: str) -> tuple[Network, ...]:
    """The networks of a comma-separated list of CIDR blocks; raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _pem_identity(pem: str) -> PeerIdentity | None:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii", "replace"))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    return identity_of(names.get_values_for_type(x509.UniformResourceIdentifier))
