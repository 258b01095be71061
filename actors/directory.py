"""Where the detector actors are: their names, making them when they are missing, waking them, asking how they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import ray
from ray.exceptions import RayError

from actors.detector import DetectorShard, ShardPlan
from store.shards import actor_of, shard_of

NAMESPACE = "trustsoc"
_LINGER_S = 0.02


def actor_names(count: int) -> tuple[str, ...]:
    """The fixed names of the shard actors."""
    return tuple(f"detector-{number}" for number in range(count))


def ensure_detectors(plans: tuple[ShardPlan, ...]) -> dict[str, Any]:
    """Handles of the shard actors by name; makes the missing ones. Safe to call from several processes at once."""
    actor = ray.remote(DetectorShard)
    return {
        plan.name: actor.options(
            name=plan.name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=4,
            num_cpus=0,
        ).remote(plan)
        for plan in plans
    }


class DetectorDirectory:
    """Routes hints to the shard actor of a tenant. Hints of a few milliseconds are folded into one call per actor."""

    def __init__(self, handles: dict[str, Any], virtual_shards: int, lost: Callable[[], None]) -> None:
        self._handles = handles
        self._names = tuple(handles)
        self._virtual_shards = virtual_shards
        self._lost = lost
        self._pending: set[str] = set()
        self._flush: asyncio.Task[None] | None = None

    def hint(self, tenant: UUID) -> None:
        """Soon wakes the tenant's detector; fire and forget, because the journal is the truth."""
        self._pending.add(actor_of(shard_of(tenant, self._virtual_shards), self._names))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        await asyncio.sleep(_LINGER_S)
        names, self._pending = self._pending, set()
        for name in names:
            try:
                self._handles[name].wake.remote()
            except RayError:
                self._lost()

    async def reports(self, timeout_s: float = 2.0) -> list[dict[str, Any]]:
        """What every actor says of itself; one that does not answer in time is reported as such."""
        return list(await asyncio.gather(*(self._report(name, timeout_s) for name in self._names)))

    async def _report(self, name: str, timeout_s: float) -> dict[str, Any]:
        with contextlib.suppress(RayError, TimeoutError, asyncio.TimeoutError):
            report: dict[str, Any] = await asyncio.wait_for(self._handles[name].report_now.remote(), timeout_s)
            return report
        return {"actor": name, "state": "not answering"}
