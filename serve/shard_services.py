"""The shards for administrators: who holds what, how far behind, and changing how many actors share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from actors.directory import DetectorDirectory
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import WireError
from serve.named_tenant import named_tenant
from store.audit import append_audit
from store.postgres import Pool, system_transaction, tenant_transaction
from store.shards import (
    PlanRow,
    ShardSet,
    actor_names,
    holdings,
    pin,
    pinned_actor,
    plan,
    progress,
    scale,
    shard_set,
    unpin,
)
from store.tenants import list_tenants
from store.values import iso_time

Headers = Mapping[str, str]


class ShardServices:
    """Wired once per replica. Every method asks for an administrator's key: WireError 401, 403, 404, 422, 503."""

    def __init__(
        self,
        authenticator: Authenticator,
        app_pool: Pool,
        writer_pool: Pool,
        directory: DetectorDirectory,
        virtual_shards: int,
    ) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._directory = directory
        self._virtual_shards = virtual_shards

    async def show(self, headers: Headers) -> dict[str, Any]:
        """The plan, the actors' reports, and per shard its holder, epoch, tenants and lag in batches."""
        await self._authenticator.admin(headers)
        async with system_transaction(self._writer_pool) as tx:
            decided = await plan(tx)
            shards = await shard_set(tx, actor_names(1))
            held = await holdings(tx)
            lags = await progress(tx)
            names = {tenant.id: tenant.name for tenant in await list_tenants(tx)}
        tenants: Counter[int] = Counter()
        behind: Counter[int] = Counter()
        for tenant, lag in lags.items():
            shard = shards.shard_of(tenant, self._virtual_shards)
            tenants[shard] += 1
            behind[shard] += lag
        numbers = sorted({*range(self._virtual_shards), *shards.pins.values()})
        pinned = {shard: names.get(tenant, str(tenant)) for tenant, shard in shards.pins.items()}
        return _plan_json(decided, shards) | {
            "actors": await self._directory.reports(),
            "shards": [
                {
                    "shard": number,
                    "actor": held[number].actor if number in held else None,
                    "wanted": shards.holder_of(number),
                    "epoch": held[number].epoch if number in held else 0,
                    "claimed_at": iso_time(held[number].claimed_at) if number in held else None,
                    "released": number in held and held[number].released,
                    "pinned": pinned.get(number),
                    "tenants": tenants[number],
                    "lag_batches": behind[number],
                }
                for number in numbers
            ],
        }

    async def scale(self, headers: Headers, actors: int) -> dict[str, Any]:
        """Sets how many actors share the virtual shards; they follow within seconds."""
        administrator = await self._authenticator.admin(headers)
        try:
            async with system_transaction(self._writer_pool) as tx:
                decided = await scale(tx, actors, changed_by=administrator.key_id)
                shards = await shard_set(tx, actor_names(actors))
        except (ValueError, LookupError) as error:
            raise WireError(422, str(error)) from error
        return _plan_json(decided, shards)

    async def pin(self, headers: Headers, name: str) -> dict[str, Any]:
        """Gives a tenant an actor of its own."""
        return await self._change(headers, name, "tenant.pin", self._pin)

    async def unpin(self, headers: Headers, name: str) -> dict[str, Any]:
        """Puts a tenant back among the others."""
        return await self._change(headers, name, "tenant.unpin", self._unpin)

    async def _pin(self, tenant: TenantId, actor: str) -> dict[str, Any]:
        async with system_transaction(self._writer_pool) as tx:
            shard = await pin(tx, tenant, changed_by=actor)
        return {"pinned": True, "shard": shard, "actor": pinned_actor(shard)}

    async def _unpin(self, tenant: TenantId, actor: str) -> dict[str, Any]:
        async with system_transaction(self._writer_pool) as tx:
            await unpin(tx, tenant, changed_by=actor)
            shards = await shard_set(tx, actor_names(1))
        shard = shards.shard_of(tenant, self._virtual_shards)
        return {"pinned": False, "shard": shard, "actor": shards.holder_of(shard)}

    async def _change(
        self,
        headers: Headers,
        name: str,
        action: str,
        change: Callable[[TenantId, str], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        administrator = await self._authenticator.admin(headers)
        tenant = await named_tenant(self._writer_pool, name)
        done = await change(tenant.id, administrator.key_id)
        async with tenant_transaction(self._app_pool, tenant.id) as tx:
            await append_audit(tx, administrator.key_id, action, f"tenant:{tenant.id}", done)
        return {"tenant": tenant.name} | done


def _plan_json(decided: PlanRow | None, shards: ShardSet) -> dict[str, Any]:
    return {
        "desired_actors": len(shards.actors) if decided is None else decided.actors,
        "configured_actors": None if decided is None else decided.configured,
        "revision": shards.revision,
        "changed_by": None if decided is None else decided.changed_by,
        "changed_at": None if decided is None else iso_time(decided.changed_at),
        "pinned_tenants": len(shards.pins),
    }
