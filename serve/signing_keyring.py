"""Signing keys as a replica uses them: rows remembered for seconds, secrets derived from the masters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from detect.record import TenantId
from serve.errors import WireError
from serve.signing_masters import MasterKeyError, SigningMasters, load_masters
from store.signing_keys import SigningKeyRow

logger = structlog.get_logger("signing")

_REMEMBERED = 10_000
_MASTER_RETRY_S = 30


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A signing key with its secret, valid or not; repr() hides the secret."""

    row: SigningKeyRow
    secret: str

    def __repr__(self) -> str:
        return f"HeldKey({self.row!r})"

    def check_valid(self, now: datetime) -> None:
        """Raises WireError: 401 when the key is over for ever, 503 when it begins later."""
        if self.row.revoked_at is not None:
            detail = f"the signing key {self.row.key_id} is revoked: sign with the agent's new one"
            raise WireError(401, detail, reason="signing_key_revoked")
        if self.row.expires_at is not None and self.row.expires_at <= now:
            detail = f"the signing key {self.row.key_id} has expired: sign with the agent's new one"
            raise WireError(401, detail, reason="signing_key_expired")
        if self.row.not_before > now:
            wait = min(_MASTER_RETRY_S, 1 + int((self.row.not_before - now).total_seconds()))
            detail = f"the signing key {self.row.key_id} is not valid yet: sign with the agent's old one, or wait"
            raise WireError(503, detail, retry_after_s=wait, reason="signing_key_not_yet_valid")


class SigningKeyring:
    """Looks signing keys up. A change made elsewhere reaches this replica within `keep_s` seconds."""

    def __init__(
        self,
        fetch: Callable[[TenantId, str], Awaitable[SigningKeyRow | None]],
        folder: Path,
        clock: Callable[[], float],
        keep_s: float,
    ) -> None:
        self._fetch = fetch
        self._folder = folder
        self._clock = clock
        self._keep_s = keep_s
        self._masters: SigningMasters | None = None
        self._known: OrderedDict[tuple[TenantId, str], tuple[float, HeldKey]] = OrderedDict()

    async def find(self, tenant: TenantId, key_id: str) -> HeldKey:
        """The tenant's signing key of that id; raises WireError 401 for none, 503 while its master is missing."""
        until, known = self._known.get((tenant, key_id), (0.0, None))
        if known is not None and self._clock() < until:
            return known
        row = await self._fetch(tenant, key_id)
        if row is None:
            self._known.pop((tenant, key_id), None)
            detail = "X-Key-Id names no signing key of this tenant: check that it was copied whole"
            raise WireError(401, detail, reason="signing_key_unknown")
        held = HeldKey(row, self.secret_of(tenant, row))
        self._known[tenant, key_id] = (self._clock() + self._keep_s, held)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return held

    def secret_of(self, tenant: TenantId, row: SigningKeyRow) -> str:
        """The secret text of a key; raises WireError 503 while its master is missing."""
        try:
            return self.masters(row.master).secret_text(row.master, tenant, row.key_id)
        except MasterKeyError as error:
            raise _unusable(error) from error

    def masters(self, master: int) -> SigningMasters:
        """The master keys, read anew when that one is not among those known: it may be missing still.

        Raises MasterKeyError when the folder cannot be used.
        """
        if self._masters is None or master not in self._masters.keys:
            self._masters = load_masters(self._folder)
        return self._masters

    def newest_master(self) -> int:
        """The number of the master that a new key derives from, read from the folder now; raises WireError 503."""
        try:
            self._masters = load_masters(self._folder)
        except MasterKeyError as error:
            raise _unusable(error) from error
        return self._masters.newest

    def forget(self, tenant: TenantId | None = None) -> None:
        """Drops what is remembered of a tenant, or of all, after a change of its keys."""
        for known in [known for known in self._known if tenant is None or known[0] == tenant]:
            del self._known[known]


def _unusable(error: MasterKeyError) -> WireError:
    logger.error("the signing master keys cannot be used", error=str(error))
    detail = "the server cannot verify signatures now: retry later"
    return WireError(503, detail, retry_after_s=_MASTER_RETRY_S, reason="signing_unavailable")
