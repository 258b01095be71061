"""Administration of signing keys: made, listed, rotated with an overlap, revoked; the secret is in one answer only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from actors.janitor import Chore
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import WireError
from serve.ingest.envelope import EnvelopeCheck
from serve.named_tenant import named_tenant
from serve.settings import Settings
from serve.signing_keyring import SigningKeyring
from store.nonces import NonceStore, sweep_nonces
from store.postgres import Pool, tenant_transaction
from store.signing_keys import (
    SigningKeyNotFound,
    SigningKeyRow,
    create_signing_key,
    get_signing_key,
    list_signing_keys,
    revoke_signing_key,
    rotate_signing_keys,
)
from store.values import iso_time

_SWEEP_EVERY_S = 60.0


class SigningServices:
    """Wired once per replica. Every method asks for an administrator's key: WireError 401, 403, 404, 422, 503."""

    def __init__(
        self, authenticator: Authenticator, app_pool: Pool, writer_pool: Pool, keyring: SigningKeyring
    ) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._keyring = keyring

    async def keys(self, headers: Mapping[str, str], name: str) -> list[dict[str, Any]]:
        """A tenant's signing keys without their secrets."""
        await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as transaction:
            return [_json(row) for row in await list_signing_keys(transaction)]

    async def create(
        self,
        headers: Mapping[str, str],
        name: str,
        agent: str,
        not_before: datetime | None,
        expires_at: datetime | None,
    ) -> dict[str, Any]:
        """A new key of an agent, beside those it has."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        master = self._keyring.newest_master()
        async with tenant_transaction(self._app_pool, tenant) as transaction:
            row = await create_signing_key(
                transaction,
                agent,
                master=master,
                actor=administrator.key_id,
                not_before=not_before,
                expires_at=expires_at,
            )
        return _json(row) | {"secret": self._keyring.secret_of(tenant, row)}

    async def rotate(self, headers: Mapping[str, str], name: str, agent: str, overlap: timedelta) -> dict[str, Any]:
        """A new key of an agent; those it had go on for the overlap."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        master = self._keyring.newest_master()
        ends = datetime.now(UTC) + overlap
        try:
            async with tenant_transaction(self._app_pool, tenant) as transaction:
                row = await rotate_signing_keys(
                    transaction, agent, master=master, actor=administrator.key_id, overlap_ends=ends
                )
        except SigningKeyNotFound as error:
            raise WireError(404, f"{error}: create one first") from error
        self._keyring.forget()
        return _json(row) | {"secret": self._keyring.secret_of(tenant, row)}

    async def revoke(self, headers: Mapping[str, str], name: str, key_id: str) -> None:
        """Ends a key at once here, within seconds on other replicas."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        try:
            async with tenant_transaction(self._app_pool, tenant) as transaction:
                await revoke_signing_key(transaction, key_id, actor=administrator.key_id)
        except SigningKeyNotFound as error:
            raise WireError(404, f"tenant {name!r} has no signing key {key_id!r}") from error
        self._keyring.forget()


def signing_keyring(settings: Settings, app_pool: Pool) -> SigningKeyring:
    """The keyring of a replica."""

    async def fetch(tenant: TenantId, key_id: str) -> SigningKeyRow | None:
        async with tenant_transaction(app_pool, tenant) as transaction:
            return await get_signing_key(transaction, key_id)

    return SigningKeyring(fetch, settings.signing_folder, time.monotonic, settings.key_cache_s)


def envelope_check(
    settings: Settings, authenticator: Authenticator, keyring: SigningKeyring, nonces: NonceStore
) -> EnvelopeCheck:
    """What the signed door demands of its senders."""
    window_s = settings.signature_window_s
    return EnvelopeCheck(authenticator, keyring, nonces.spend, lambda: datetime.now(UTC), window_s)


def nonce_chore(writer_pool: Pool) -> Chore:
    """Forgets the nonces that the timestamp window refuses by itself."""

    async def sweep(now: datetime) -> int:
        return await sweep_nonces(writer_pool, now)

    return Chore("signing_nonces_expired", _SWEEP_EVERY_S, sweep)


def _json(row: SigningKeyRow) -> dict[str, Any]:
    moments = {name: getattr(row, name) for name in ("created_at", "not_before", "expires_at", "revoked_at")}
    shown: dict[str, Any] = {"key_id": row.key_id, "agent": row.agent, "master": row.master}
    return shown | {name: None if moment is None else iso_time(moment) for name, moment in moments.items()}
