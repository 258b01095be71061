"""The store's own chores: partitions ahead, retention of raw logs and rollups, pruning of the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from actors.janitor import Chore
from detect.record import TenantId
from store.partitions import drop_partitions, make_partitions
from store.postgres import Pool, system_transaction
from store.pruning import prune_journal, prune_raw_logs, prune_rollups
from store.tenants import list_tenants

_DAYS_AHEAD = 3
_HOUR_S = 3600.0
_JOURNAL_EVERY_S = 300.0


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """How long the installation keeps what: raw logs in days (a tenant may have its own), the rest as durations."""

    raw_log_days: int = 30
    journal: timedelta = timedelta(days=7)
    rollups_1m: timedelta = timedelta(days=30)
    rollups_5m: timedelta = timedelta(days=90)
    rollups_1h: timedelta = timedelta(days=400)


def store_chores(app_pool: Pool, writer_pool: Pool, plan: RetentionPlan) -> list[Chore]:
    """The chores, in the order in which they are worth doing. Takes pools of the app and of the writer role."""
    keeper = _Keeper(app_pool, writer_pool, plan)
    return [
        Chore("partitions_ahead", _HOUR_S, keeper.make_partitions),
        Chore("partitions_past_retention", _HOUR_S, keeper.drop_partitions),
        Chore("raw_logs_past_retention", _HOUR_S, keeper.prune_raw_logs),
        Chore("journal_past_replay", _JOURNAL_EVERY_S, keeper.prune_journal),
        Chore("rollups_past_retention", _HOUR_S, keeper.prune_rollups),
    ]


@dataclass(frozen=True, slots=True)
class _Keeper:
    app_pool: Pool
    writer_pool: Pool
    plan: RetentionPlan

    async def make_partitions(self, now: datetime) -> int:
        return await make_partitions(self.app_pool, now.astimezone(UTC).date(), _DAYS_AHEAD + 1)

    async def drop_partitions(self, now: datetime) -> int:
        before = now.astimezone(UTC).date() - timedelta(days=self.plan.raw_log_days)
        return await drop_partitions(self.app_pool, before)

    async def prune_raw_logs(self, now: datetime) -> int:
        return await self._each(lambda tenant: prune_raw_logs(self.app_pool, tenant, self.plan.raw_log_days, now))

    async def prune_journal(self, now: datetime) -> int:
        return await self._each(lambda tenant: prune_journal(self.app_pool, tenant, self.plan.journal, now))

    async def prune_rollups(self, now: datetime) -> int:
        plan, pool = self.plan, self.app_pool
        return (
            await self._each(lambda tenant: prune_rollups(pool, tenant, "1m", plan.rollups_1m, now))
            + await self._each(lambda tenant: prune_rollups(pool, tenant, "5m", plan.rollups_5m, now))
            + await self._each(lambda tenant: prune_rollups(pool, tenant, "1h", plan.rollups_1h, now))
        )

    async def _each(self, prune: Callable[[TenantId], Awaitable[int]]) -> int:
        async with system_transaction(self.writer_pool) as tx:
            tenants = await list_tenants(tx)
        changed = 0
        for tenant in tenants:
            changed += await prune(tenant.id)
        return changed
