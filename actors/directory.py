"""Where the detector actors are: making those the plan asks for, ending those it has removed, waking them, asking.

The plan is data in the store and changes while the system runs; every replica of the edge follows it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import ray
import structlog
from ray.exceptions import RayError

from actors.detector import DetectorShard, ShardPlan
from detect.record import TenantId
from store.postgres import StorageUnavailable
from store.shards import ShardSet, actor_names

logger = structlog.get_logger("directory")

NAMESPACE = "trustsoc"
_LINGER_S = 0.02
_FOLLOW_S = 2.0
# States in which a worker has ended by itself; in the plan again, its actor is started anew.
_ENDED = frozenset({"removed"})


def ensure_detector(plan: ShardPlan) -> Any:
    """The handle of a shard actor, which is made when it is missing. Safe to call from several processes at once."""
    return (
        ray.remote(DetectorShard)
        .options(
            name=plan.name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=4,
            num_cpus=0,
            # Asking for no core, all would otherwise be put where the first one is, and be lost with that node.
            scheduling_strategy="SPREAD",
        )
        .remote(plan)
    )


class DetectorDirectory:
    """Routes hints to the shard actor of a tenant. Hints of a few milliseconds are folded into one call per actor.

    `read_plan` says who shares the shards now; `plan_of` how the actor of a name works.
    """

    def __init__(
        self,
        plan_of: Callable[[str], ShardPlan],
        read_plan: Callable[[], Awaitable[ShardSet]],
        virtual_shards: int,
        lost: Callable[[], None],
    ) -> None:
        self._plan_of = plan_of
        self._read_plan = read_plan
        self._virtual_shards = virtual_shards
        self._lost = lost
        self._shards = ShardSet(())
        self._handles: dict[str, Any] = {}
        self._pending: set[str] = set()
        self._flush: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Makes the actors of the plan and follows it from now on. Raises StorageUnavailable."""
        await self.reconcile()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Stops following the plan; the actors go on."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    async def reconcile(self) -> None:
        """Makes what the plan asks for, and ends the actors that it has removed once they have finished."""
        self._shards = await self._read_plan()
        wanted = self._shards.names
        for name in wanted:
            if name not in self._handles:
                # Naming an actor asks Ray's control service, which must not hold up the requests of this replica.
                self._handles[name] = await asyncio.to_thread(ensure_detector, self._plan_of(name))
        if removed := self._handles.keys() - set(wanted):
            await self._end_finished(removed)
        await self._restart_ended(wanted)

    def hint(self, tenant: UUID) -> None:
        """Soon wakes the tenant's detector; fire and forget, because the journal is the truth."""
        if not self._shards.names:
            return
        shard = self._shards.shard_of(TenantId(tenant), self._virtual_shards)
        self._pending.add(self._shards.holder_of(shard))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.get_running_loop().create_task(self._send())

    async def reports(self, timeout_s: float = 2.0) -> list[dict[str, Any]]:
        """What every actor of the plan says of itself; one that does not answer in time is reported as such."""
        return list(await asyncio.gather(*(self._report(name, timeout_s) for name in self._shards.names)))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await self.reconcile()
            except (StorageUnavailable, RayError) as error:
                logger.warning("the plan of shards could not be followed", error=str(error))
            except Exception:  # whatever it is, the next change of the plan must still be seen
                logger.exception("following the plan of shards failed")

    async def _end_finished(self, removed: set[str]) -> None:
        for name in removed:
            report = await self._report(name, _FOLLOW_S)
            if report["state"] in _ENDED or report["state"] == "gone":
                with contextlib.suppress(RayError):
                    await asyncio.to_thread(ray.kill, self._handles[name], no_restart=True)
                del self._handles[name]
                logger.info("detector removed", actor=name)

    async def _restart_ended(self, wanted: tuple[str, ...]) -> None:
        for name in wanted:
            report = await self._report(name, _FOLLOW_S)
            if report["state"] == "gone":  # another replica ended it before it was wanted again
                del self._handles[name]
            elif report["state"] in _ENDED:
                with contextlib.suppress(RayError):
                    await asyncio.to_thread(ray.kill, self._handles[name], no_restart=False)

    async def _send(self) -> None:
        await asyncio.sleep(_LINGER_S)
        names, self._pending = self._pending, set()
        for name in names:
            try:
                self._handles[name].wake.remote()
            except (RayError, KeyError):  # not made yet: it will look by itself
                self._lost()

    async def _report(self, name: str, timeout_s: float) -> dict[str, Any]:
        handle = self._handles.get(name)
        if handle is None:
            return {"actor": name, "state": "not made yet"}
        try:
            report: dict[str, Any] = await asyncio.wait_for(handle.report_now.remote(), timeout_s)
        except ray.exceptions.ActorDiedError:
            return {"actor": name, "state": "gone"}
        except (RayError, TimeoutError):
            return {"actor": name, "state": "not answering"}
        return report


__all__ = ["NAMESPACE", "DetectorDirectory", "actor_names", "ensure_detector"]
