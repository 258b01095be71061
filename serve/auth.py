"""Who is asking: a bearer key or a client certificate becomes a principal, and only the principal names the tenant."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from detect.record import TenantId
from serve.errors import WireError
from serve.peer import PeerIdentity, PeerSeal
from store.agents import is_revoked
from store.postgres import Pool, tenant_transaction
from store.tenants import KeyRefused, Principal, Scope, TenantNotFound, authenticate, own_tenant

A = TypeVar("A", bound="Authenticator")

_REMEMBERED = 10_000
# A certificate is a sender's: whoever wants to read shows a key.
_CERTIFICATE_SCOPES: frozenset[Scope] = frozenset({"ingest"})


class Authenticator:
    """Checks keys against the store and remembers good ones by digest for `keep_s` seconds.

    A key revoked elsewhere therefore works for at most `keep_s` more on this replica, and so does a certificate of an
    agent that was. Refusals are not remembered. `is_revoked` says whether the agent of a certificate was revoked.
    """

    def __init__(
        self,
        check: Callable[[str], Awaitable[Principal | None]],
        name_of: Callable[[TenantId], Awaitable[str]],
        clock: Callable[[], float],
        keep_s: float,
        seal: PeerSeal | None = None,
        is_revoked: Callable[[PeerIdentity], Awaitable[bool]] | None = None,
    ) -> None:
        self._check = check
        self._name_of = name_of
        self._clock = clock
        self._keep_s = keep_s
        self._seal = seal
        self._is_revoked = is_revoked
        self._active: OrderedDict[PeerIdentity, float] = OrderedDict()
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._names: OrderedDict[TenantId, tuple[float, str]] = OrderedDict()

    def peer(self, headers: Mapping[str, str]) -> PeerIdentity | None:
        """The agent that the connection's verified client certificate names."""
        return None if self._seal is None else self._seal.open(headers)

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The holder of the Authorization header's key or, without one, of the client certificate.

        Raises WireError 401, or 403 when key and certificate belong to different tenants.
        """
        peer = self.peer(headers)
        if peer is None:
            return await self._key_holder(headers)
        if not headers.get("authorization"):
            return await self.certificate_holder(peer)
        principal = await self._key_holder(headers)
        if principal.tenant != peer.tenant:
            detail = "the key is not of the tenant that the client certificate names: use a key and certificate of one"
            raise WireError(403, detail, reason="certificate_mismatch")
        return principal

    async def certificate_holder(self, peer: PeerIdentity) -> Principal:
        """The holder of a verified client certificate; raises WireError 401, or 403 for an agent that was revoked.

        Asked besides the revocation list, which is a file: an authority of somebody else's, a proxy that ends TLS or
        another machine may not have it.
        """
        try:
            await self._name(peer.tenant)
        except TenantNotFound as error:
            detail = "the client certificate names a tenant that does not exist here: use one of this installation"
            raise WireError(401, detail) from error
        await self._check_active(peer)
        return Principal(peer.tenant, peer.agent, _CERTIFICATE_SCOPES, admin=False)

    async def _key_holder(self, headers: Mapping[str, str]) -> Principal:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise WireError(401, "no API key: send the header `Authorization: Bearer <key>`")
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        until, known = self._known.get(digest, (0.0, None))
        if known is not None and self._clock() < until:
            return known
        try:
            principal = await self._check(key)
        except KeyRefused as refusal:
            self._known.pop(digest, None)
            raise WireError(401, f"the API key is {refusal.reason}: ask your administrator for a new one") from refusal
        if principal is None:
            raise WireError(401, "the API key is unknown: check that it was copied whole")
        self._known[digest] = (self._clock() + self._keep_s, principal)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return principal

    async def _check_active(self, peer: PeerIdentity) -> None:
        if self._is_revoked is None or self._clock() < self._active.get(peer, 0.0):
            return
        if await self._is_revoked(peer):
            self._active.pop(peer, None)
            raise WireError(403, f"the agent {peer.agent!r} was revoked: enrol it again", reason="agent_revoked")
        self._active[peer] = self._clock() + self._keep_s
        while len(self._active) > _REMEMBERED:
            self._active.popitem(last=False)

    async def _name(self, tenant: TenantId) -> str:
        until, name = self._names.get(tenant, (0.0, ""))
        if self._clock() < until:
            return name
        name = await self._name_of(tenant)
        self._names[tenant] = (self._clock() + self._keep_s, name)
        while len(self._names) > _REMEMBERED:
            self._names.popitem(last=False)
        return name

    def forget(self) -> None:
        """Drops what is remembered, after a revocation on this replica."""
        self._known.clear()
        self._names.clear()
        self._active.clear()

    async def tenant_principal(self, headers: Mapping[str, str], scope: str) -> tuple[TenantId, Principal]:
        """Tenant and holder of a key with the scope, when no header names another tenant; else 401 or 403."""
        principal = await self.principal(headers)
        if principal.tenant is None:
            raise WireError(403, "an administrator's key reads and writes no tenant's data: use a tenant's key")
        if scope not in principal.scopes:
            raise WireError(403, f"this key lacks the scope {scope!r}: it has {', '.join(sorted(principal.scopes))}")
        stated = headers.get("x-client-id", "").strip()
        if stated and stated.lower() != str(principal.tenant) and stated != await self._name(principal.tenant):
            raise WireError(403, "X-Client-Id names another tenant than the key: leave the header out")
        return principal.tenant, principal

    async def admin(self, headers: Mapping[str, str]) -> Principal:
        """The holder of an administrator's key; raises WireError 401 or 403."""
        principal = await self.principal(headers)
        if not principal.admin:
            raise WireError(403, "this needs an administrator's key")
        return principal


def authenticator_on(pool: Pool, seal: PeerSeal | None, keep_s: float, kind: type[A]) -> A:
    """An authenticator of that kind over the store. Takes a pool of the app role."""

    async def check(key: str) -> Principal | None:
        return await authenticate(pool, key)

    async def name_of(tenant: TenantId) -> str:
        async with tenant_transaction(pool, tenant) as transaction:
            return (await own_tenant(transaction)).name

    async def was_revoked(peer: PeerIdentity) -> bool:
        async with tenant_transaction(pool, peer.tenant) as transaction:
            return await is_revoked(transaction, peer.agent)

    return kind(check, name_of, time.monotonic, keep_s, seal, was_revoked)
