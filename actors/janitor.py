"""The janitor: small named chores that keep the store in order, each on its own rhythm, none able to stop the others.

Whoever owns a table that grows gives the janitor a `Chore` for it; `actors/housekeeping.py` has those of the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from actors.metrics import Metrics
from store.postgres import StorageUnavailable

logger = structlog.get_logger("janitor")

_LONGEST_S = 900.0
_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Chore:
    """One piece of housekeeping. `run` takes the time of now (UTC) and returns how many rows or tables it changed.

    Several replicas run the same chores, so a chore must be idempotent; it should work in bounded steps, because the
    janitor gives up on it after a quarter of an hour. `every_s` is the wait between two runs, in seconds.
    """

    name: str
    every_s: float
    run: Callable[[datetime], Awaitable[int]]


class Janitor:
    """Runs chores one after the other when they are due. Several janitors may work at once."""

    def __init__(self, chores: Sequence[Chore], metrics: Metrics) -> None:
        self._chores = tuple(chores)
        self._metrics = metrics
        self._due: dict[str, float] = {chore.name: 0.0 for chore in self._chores}
        self._task: asyncio.Task[None] | None = None
        if len(self._due) != len(self._chores):
            raise ValueError("two chores have the same name")

    async def sweep(self) -> dict[str, bool]:
        """Runs every chore that is due; says of each whether it succeeded. Raises nothing for a chore that fails."""
        done: dict[str, bool] = {}
        for chore in self._chores:
            if time.monotonic() >= self._due[chore.name]:
                done[chore.name] = await self._run_one(chore)
                wait = chore.every_s if done[chore.name] else min(_RETRY_S, chore.every_s)
                self._due[chore.name] = time.monotonic() + wait
        return done

    def start(self) -> None:
        """Begins: every chore at once, then each at its own pace."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="janitor")

    async def stop(self) -> None:
        """Ends; a chore under way is cancelled, which rolls its step back."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(max(1.0, min(self._due.values(), default=3600.0) - time.monotonic()))

    async def _run_one(self, chore: Chore) -> bool:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_LONGEST_S):
                changed = await chore.run(datetime.now(UTC))
        except StorageUnavailable as error:
            logger.warning("chore postponed", chore=chore.name, error=str(error))
        except Exception:
            # Whatever is wrong with one chore must not keep the others from being done; the metric tells of it.
            logger.exception("chore failed", chore=chore.name)
        else:
            self._metrics.set("janitor_last_success_seconds", time.time(), chore=chore.name)
            self._metrics.set("janitor_duration_seconds", time.monotonic() - began, chore=chore.name)
            self._metrics.count("janitor_rows", changed, chore=chore.name)
            if changed:
                logger.info("chore done", chore=chore.name, changed=changed)
            return True
        self._metrics.count("janitor_failures", chore=chore.name)
        return False
