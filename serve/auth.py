"""Who is asking: a bearer key becomes a principal, and only the principal names the tenant."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from detect.record import TenantId
from serve.errors import WireError
from store.tenants import KeyRefused, Principal

_REMEMBERED = 10_000


class Authenticator:
    """Checks keys against the store and remembers good ones by digest for `keep_s` seconds.

    A key revoked elsewhere therefore works for at most `keep_s` more on this replica. Refusals are not remembered.
    """

    def __init__(
        self,
        check: Callable[[str], Awaitable[Principal | None]],
        name_of: Callable[[TenantId], Awaitable[str]],
        clock: Callable[[], float],
        keep_s: float,
    ) -> None:
        self._check = check
        self._name_of = name_of
        self._clock = clock
        self._keep_s = keep_s
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The holder of the Authorization header's key; raises WireError 401."""
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

    def forget(self) -> None:
        """Drops what is remembered, after a revocation on this replica."""
        self._known.clear()

    async def tenant_principal(self, headers: Mapping[str, str], scope: str) -> tuple[TenantId, Principal]:
        """Tenant and holder of a key with the scope, when no header names another tenant; else 401 or 403."""
        principal = await self.principal(headers)
        if principal.tenant is None:
            raise WireError(403, "an administrator's key reads and writes no tenant's data: use a tenant's key")
        if scope not in principal.scopes:
            raise WireError(403, f"this key lacks the scope {scope!r}: it has {', '.join(sorted(principal.scopes))}")
        stated = headers.get("x-client-id", "").strip()
        if stated and stated.lower() != str(principal.tenant) and stated != await self._name_of(principal.tenant):
            raise WireError(403, "X-Client-Id names another tenant than the key: leave the header out")
        return principal.tenant, principal

    async def admin(self, headers: Mapping[str, str]) -> Principal:
        """The holder of an administrator's key; raises WireError 401 or 403."""
        principal = await self.principal(headers)
        if not principal.admin:
            raise WireError(403, "this needs an administrator's key")
        return principal
