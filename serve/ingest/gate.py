"""What decides about admission on one replica, put together from the settings and kept up to date while it runs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from actors.metrics import Metrics
from serve.ingest.admission import Admission, AdmissionLimits
from serve.ingest.head_room import HeadRoom, HeadRoomLimits, HeadRoomPoll
from serve.settings import MIB, Settings
from store.journal import JournalWriter
from store.postgres import Pool
from store.quotas import Quota


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate of a replica: what judges, what it knows, and what measures."""

    admission: Admission
    room: HeadRoom
    poll: HeadRoomPoll
    replicas: int


@asynccontextmanager
async def open_gate(
    settings: Settings, replicas: int, writer_pool: Pool, journal: JournalWriter, metrics: Metrics
) -> AsyncIterator[Gate]:
    """A gate whose figures have been measured once and go on being measured while the block runs."""
    limits = HeadRoomLimits(settings.max_backlog_bytes, settings.disk_watch_dir, settings.disk_reserve_bytes)
    room = HeadRoom(limits, default_quota(settings))
    at_once = AdmissionLimits(
        settings.max_requests_at_once,
        settings.max_request_bytes_at_once,
        min(4 * MIB, settings.max_compressed_bytes),
        replicas,
    )
    admission = Admission(at_once, room, metrics, time.monotonic, journal.full_for)

    def measured() -> None:
        admission.measure()
        journal.weigh(room.weights())
        metrics.set("journal_waiting_batches", journal.waiting)
        metrics.set("journal_waiting_bytes", journal.waiting_bytes)

    poll = HeadRoomPoll(
        room, writer_pool, limits, every_s=settings.head_room_every_s, changed=measured, metrics=metrics
    )
    await poll.start()
    try:
        yield Gate(admission, room, poll, replicas)
    finally:
        await poll.stop()


def default_quota(settings: Settings) -> Quota:
    """The installation's quota, for tenants without one of their own."""
    return Quota(
        records_per_s=settings.quota_records_per_s,
        bytes_per_s=settings.quota_bytes_per_s,
        burst_s=settings.quota_burst_s,
        agent_records_per_s=settings.quota_agent_records_per_s,
        agent_bytes_per_s=settings.quota_agent_bytes_per_s,
        max_backlog=settings.quota_max_backlog,
    )
