"""The detectors of this installation, as the edge sees them: how each works, and who shares the shards now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from actors.detector import ShardPlan
from actors.directory import DetectorDirectory
from actors.metrics import Metrics
from serve.settings import Settings
from store.postgres import Pool, system_transaction
from store.shards import ShardSet, actor_names, configure, shard_set


@asynccontextmanager
async def open_directory(
    settings: Settings, detector_actors: int, writer_pool: Pool, metrics: Metrics
) -> AsyncIterator[DetectorDirectory]:
    """Makes the actors of the plan and follows it until the block ends. Raises StorageUnavailable."""
    names = actor_names(detector_actors)

    async def read_plan() -> ShardSet:
        async with system_transaction(writer_pool) as transaction:
            return await shard_set(transaction, names)

    async with system_transaction(writer_pool) as transaction:
        await configure(transaction, detector_actors)
    directory = DetectorDirectory(
        lambda name: shard_plan(settings, name, names),
        read_plan,
        settings.virtual_shards,
        lambda: metrics.count("hints_lost"),
    )
    await directory.start()
    try:
        yield directory
    finally:
        await directory.stop()


def shard_plan(settings: Settings, name: str, otherwise: tuple[str, ...]) -> ShardPlan:
    """How the actor of a name works."""
    return ShardPlan(
        name=name,
        actors=otherwise,
        virtual_shards=settings.virtual_shards,
        poll_interval_s=settings.poll_interval_s,
        snapshot_every_batches=settings.snapshot_every_batches,
        snapshot_every_s=settings.snapshot_every_s,
        tick_after_idle_s=settings.tick_after_idle_s,
        max_tenants=settings.max_tenants_in_memory,
        replay_horizon=timedelta(hours=settings.journal_retention_hours),
        rule_cache=str(settings.rule_cache or ""),
    )
