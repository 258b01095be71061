"""How much more this installation can take: figures that are polled every few seconds and asked at every request.

The backlog that detectors have not judged, the free bytes of the journal's disk, and the quotas in force. A request
costs a few comparisons, never a query; figures are at most one poll old. When the database cannot be asked, the last
figures stay: storing fails by itself then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from actors.metrics import Metrics
from detect.record import TenantId
from store.backlog import Backlog, backlogs
from store.postgres import Pool, StorageUnavailable, system_transaction
from store.quotas import Quota, QuotaOverride, all_overrides

logger = structlog.get_logger("head room")

Shortage = Literal["backlog", "disk_reserve"]

_SAMPLE_BATCHES = 100
_SMOOTHING = 0.3
_DISK_WAIT_S = 30.0
_UNKNOWN_WAIT_S = 5.0
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class HeadRoomLimits:
    """Bytes of payload that may wait for judgement in all (0: no limit), and bytes of the disk that stay free.

    `disk` is a folder on the file system of PostgreSQL; None when that is elsewhere and guards itself.
    """

    backlog_bytes: int = 0
    disk: Path | None = None
    disk_reserve_bytes: int = 0


class HeadRoom:
    """The figures and what follows from them. `observe_*` are given measurements; `shortage` judges a tenant's next."""

    def __init__(self, limits: HeadRoomLimits, defaults: Quota) -> None:
        self._limits = limits
        self._defaults = defaults
        self._overrides: dict[TenantId, QuotaOverride] = {}
        self._quotas: dict[TenantId, Quota] = {}
        self._backlogs: dict[TenantId, Backlog] = {}
        self._backlog_bytes = 0
        self._judged_per_s: dict[TenantId, float] = {}
        self._observed_at: float | None = None
        self._disk_free: int | None = None

    @property
    def defaults(self) -> Quota:
        """The installation's quota, for tenants without one of their own."""
        return self._defaults

    @property
    def backlog_records(self) -> int:
        """Records that wait for judgement, all tenants together."""
        return sum(backlog.records for backlog in self._backlogs.values())

    @property
    def disk_free(self) -> int | None:
        """Free bytes of the watched disk, None when none is watched."""
        return self._disk_free

    def quota(self, tenant: TenantId) -> Quota:
        """What is in force for the tenant on this replica."""
        return self._quotas.get(tenant, self._defaults)

    def weights(self) -> dict[TenantId, float]:
        """The weights of the tenants that have a quota of their own."""
        return {tenant: quota.weight for tenant, quota in self._quotas.items()}

    def backlog(self, tenant: TenantId) -> Backlog:
        """What of the tenant waits for judgement."""
        return self._backlogs.get(tenant, Backlog(0, 0, 0, 0))

    def observe_quotas(self, overrides: Mapping[TenantId, QuotaOverride]) -> None:
        """These are in force from now on. A quota that did not change stays the same object."""
        self._quotas = {
            tenant: self._quotas[tenant] if self._overrides.get(tenant) == override else self._defaults.under(override)
            for tenant, override in overrides.items()
        }
        self._overrides = dict(overrides)

    def observe_disk(self, free: int | None) -> None:
        """Free bytes of the watched disk."""
        self._disk_free = free

    def observe_backlogs(self, found: dict[TenantId, Backlog], now: float) -> None:
        """What waits for judgement; how far the marks moved since the last time is the rate of judgement."""
        elapsed = 0.0 if self._observed_at is None else now - self._observed_at
        rates: dict[TenantId, float] = {}
        for tenant, backlog in found.items():
            before, rate = self._backlogs.get(tenant), self._judged_per_s.get(tenant, 0.0)
            if before is not None and elapsed > 0:
                measured = (backlog.mark - before.mark) * before.records / max(1, before.batches) / elapsed
                rate = measured if rate == 0 else rate + _SMOOTHING * (measured - rate)
            rates[tenant] = rate
        self._judged_per_s = rates
        self._backlogs = found
        self._backlog_bytes = sum(backlog.bytes for backlog in found.values())
        self._observed_at = now

    def shortage(self, tenant: TenantId, max_backlog: int) -> tuple[Shortage, float] | None:
        """Why nothing more of the tenant should come in now, and for how many seconds; None when it may."""
        if self._disk_free is not None and self._disk_free < self._limits.disk_reserve_bytes:
            return "disk_reserve", _DISK_WAIT_S
        own = self._backlogs.get(tenant)
        if own is None:
            over = bool(self._limits.backlog_bytes) and self._backlog_bytes >= self._limits.backlog_bytes
            return ("backlog", _UNKNOWN_WAIT_S) if over else None
        if max_backlog and own.records > max_backlog:
            return "backlog", self._seconds_to_judge(tenant, own.records - max_backlog)
        # The same rule as store.fair_share: nobody may have more waiting than is still free for all.
        limit = self._limits.backlog_bytes
        free = limit - self._backlog_bytes
        if limit and own.bytes > free:
            excess = (own.bytes - max(0, free)) / max(1, own.bytes)
            return "backlog", self._seconds_to_judge(tenant, excess * own.records)
        return None

    def _seconds_to_judge(self, tenant: TenantId, records: float) -> float:
        rate = self._judged_per_s.get(tenant, 0.0)
        return min(_LONGEST_WAIT_S, max(1.0, records / rate)) if rate > 0 else _UNKNOWN_WAIT_S


class HeadRoomPoll:
    """Keeps a HeadRoom up to date through a pool of the writer role, and tells `changed` after every poll."""

    def __init__(
        self,
        room: HeadRoom,
        pool: Pool,
        limits: HeadRoomLimits,
        *,
        every_s: float,
        changed: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._room = room
        self._pool = pool
        self._disk = limits.disk
        self._every_s = every_s
        self._changed = changed
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Polls once, then in the background until stop()."""
        await self.poll()
        self._task = asyncio.create_task(self._run(), name="head-room")

    async def stop(self) -> None:
        """Ends the polls."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def poll(self) -> None:
        """Measures everything now. Never raises for a database or a disk that cannot be asked."""
        if self._disk is not None:
            self._room.observe_disk(_free_bytes(self._disk))
        try:
            async with system_transaction(self._pool) as transaction:
                overrides, unreadable = await all_overrides(transaction)
                found = await backlogs(transaction, _SAMPLE_BATCHES)
        except StorageUnavailable as error:
            logger.warning("the backlog and the quotas cannot be read: the last ones stay", error=str(error))
        else:
            for tenant in unreadable:
                logger.error("the stored quota is no quota: set it again; the defaults hold", tenant=str(tenant))
            self._room.observe_quotas(overrides)
            self._room.observe_backlogs(found, asyncio.get_running_loop().time())
        self._metrics.set("backlog_records", self._room.backlog_records)
        if self._room.disk_free is not None:
            self._metrics.set("disk_free_bytes", self._room.disk_free)
        self._changed()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.poll()
            except Exception:
                # Admission must outlive a defect of its measurements: the last figures stay.
                logger.exception("measuring the head-room failed")


def _free_bytes(folder: Path) -> int | None:
    """What an unprivileged process may still write; None when the folder cannot be asked."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        logger.warning("the free bytes of the disk cannot be read", folder=str(folder), error=str(error))
        return None
    return found.f_bavail * found.f_frsize
