"""Legal holds and a tenant's own retention, for administrators: what must not be thrown away, and when the rest is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from serve.auth import Authenticator
from serve.errors import WireError
from serve.named_tenant import named_tenant
from store.holds import (
    HoldNotFound,
    LegalHold,
    list_holds,
    own_retention,
    place_hold,
    release_hold,
    set_retention,
)
from store.postgres import Pool, tenant_transaction
from store.values import iso_time


class HoldServices:
    """Wired once per replica. Every method asks for an administrator's key: WireError 401, 403, 404, 422, 503."""

    def __init__(
        self, authenticator: Authenticator, app_pool: Pool, writer_pool: Pool, raw_log_retention_days: int
    ) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._default_days = raw_log_retention_days

    async def holds(self, headers: Mapping[str, str], name: str) -> list[dict[str, Any]]:
        """A tenant's holds, those in force first."""
        await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as tx:
            return [_json(hold) for hold in await list_holds(tx)]

    async def place(
        self, headers: Mapping[str, str], name: str, reason: str, start: datetime | None, end: datetime | None
    ) -> dict[str, Any]:
        """Places a hold; from its answer on nothing that it covers is deleted."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                return _json(await place_hold(tx, reason, start, end, actor=administrator.key_id))
        except ValueError as error:
            raise WireError(422, str(error)) from error

    async def release(self, headers: Mapping[str, str], name: str, hold_id: UUID, reason: str) -> dict[str, Any]:
        """Ends a hold; its row stays."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        try:
            async with tenant_transaction(self._app_pool, tenant) as tx:
                return _json(await release_hold(tx, hold_id, reason, actor=administrator.key_id))
        except HoldNotFound as error:
            raise WireError(404, f"tenant {name!r} has no hold {hold_id} in force") from error
        except ValueError as error:
            raise WireError(422, str(error)) from error

    async def retention(self, headers: Mapping[str, str], name: str) -> dict[str, Any]:
        """How long the tenant's raw logs are kept, and whether that is its own."""
        await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as tx:
            return self._retention_json(await own_retention(tx))

    async def retain(self, headers: Mapping[str, str], name: str, days: int | None) -> dict[str, Any]:
        """Gives the tenant a retention of its own, or with None the installation's again."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        async with tenant_transaction(self._app_pool, tenant) as tx:
            await set_retention(tx, days, actor=administrator.key_id)
        return self._retention_json(days)

    def _retention_json(self, own: int | None) -> dict[str, Any]:
        return {"raw_log_days": self._default_days if own is None else own, "own": own is not None}


def _json(hold: LegalHold) -> dict[str, Any]:
    moments = {
        "from": hold.held_from,
        "to": hold.held_to,
        "placed_at": hold.placed_at,
        "released_at": hold.released_at,
    }
    shown = {
        "hold_id": str(hold.hold_id),
        "reason": hold.reason,
        "placed_by": hold.placed_by,
        "released_by": hold.released_by,
    }
    return shown | {name: None if at is None else iso_time(at) for name, at in moments.items()}
