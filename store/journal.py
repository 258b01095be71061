"""The journal: one row a batch, durable before its sender is answered, numbered without gaps in commit order.

JournalWriter gathers whatever waits while a commit is under way into the next one (group commit), so that a disk's
fsync is shared by all senders and a lone sender waits for nobody.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from detect.batch import Batch, BatchKind
from detect.inflate import BodyEncoding, inflate
from detect.record import Nanoseconds, TenantId
from store.fair_queue import FairQueue
from store.fair_share import FairShare
from store.postgres import Pool, StorageUnavailable, SystemTransaction, TenantTransaction, storage_errors
from store.queries import sql
from store.values import nanoseconds

Encoding = BodyEncoding  # what the column holds

# Control rows are ours: no sender may have this name, so no sender's key can meet one of theirs.
CONTROL_AGENT = ""
_AGENT_BYTES = 256
_KEY_BYTES = 128


class Overloaded(Exception):
    """Too much waits to be stored already. `retry_after_s` is a good time to wait, in seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many batches wait to be stored; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class IdempotencyConflict(Exception):
    """The idempotency key was used before for a batch with another digest."""


class UnknownTenant(Exception):
    """There is no such tenant, so nothing can be stored for it."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One batch to store. `received` has microseconds and a time zone; `payload` is the body as it was received.

    `agent` names the sender (1 to 256 bytes; empty for control rows only), `digest` is what tells a repeat from a
    conflict, `run` is the life of the sender's spool (empty: it keeps no books). Raises ValueError for a value that the
    journal cannot hold.
    """

    tenant: TenantId
    agent: str
    idempotency_key: bytes
    digest: bytes
    kind: BatchKind
    encoding: Encoding
    records: int
    payload: bytes
    received: datetime
    run: str = ""

    def __post_init__(self) -> None:
        try:
            agent_bytes = len(self.agent.encode())
        except UnicodeEncodeError:
            raise ValueError("the name of an agent must be valid Unicode text") from None
        if (
            agent_bytes > _AGENT_BYTES
            or "\0" in self.agent
            or (self.agent == CONTROL_AGENT) != (self.kind == "control")
        ):
            raise ValueError(f"the name of an agent must have 1 to {_AGENT_BYTES} bytes without NUL")
        if not 1 <= len(self.idempotency_key) <= _KEY_BYTES:
            raise ValueError(f"an idempotency key must have 1 to {_KEY_BYTES} bytes")
        if self.received.tzinfo is None:
            raise ValueError("the time of receipt needs a time zone")


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a batch is stored; a duplicate is stored where its original is.

    `stored_records` is what the stored batch holds (None: what was handed over), `elsewhere` whether a duplicate's
    original came in another run of its sender.
    """

    seq: int
    duplicate: bool
    stored_records: int | None = field(default=None, compare=False)
    elsewhere: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """What may wait (rows, bytes of payload), what one commit takes at most, and how many commits run at once.

    A tenant may have no more waiting than is still free, so that one alone fills no more than half of the room.
    `retry_after_s` is the least that is asked of a refused sender, when the journal drains well or was not seen to.
    """

    waiting_rows: int = 4096
    waiting_bytes: int = 256 * 2**20
    group_rows: int = 256
    group_bytes: int = 4 * 2**20
    lanes: int = 2
    retry_after_s: float = 1.0


_Waiter = tuple[JournalEntry, "asyncio.Future[Appended]"]
# What a row costs besides its bytes, in bytes that take as long to store: small batches must not come for free.
_ROW_COST = 8 * 1024
_LONGEST_WAIT_S = 60.0
_SMOOTHING = 0.2


class JournalWriter:
    """Appends batches through a pool of the writer role. Safe for concurrent calls on one event loop.

    Groups are taken in fair order of the tenants by weight. A tenant is in one commit at a time, so its batches keep
    their order; a second lane lets the others go on while a large group is being stored.
    """

    def __init__(self, pool: Pool, limits: JournalLimits | None = None) -> None:
        self._pool = pool
        self._limits = limits = limits or JournalLimits()
        self._queue: FairQueue[TenantId, _Waiter] = FairQueue()
        self._rows: FairShare[TenantId] = FairShare(limits.waiting_rows)
        self._bytes: FairShare[TenantId] = FairShare(limits.waiting_bytes)
        self._weights: Mapping[TenantId, float] = {}
        self._lane_rate = 0.0
        self._lanes: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many batches wait for a commit that has not begun."""
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """The payload of the batches that wait."""
        return self._bytes.used

    def full_for(self, tenant: TenantId, size: int) -> float:
        """How many seconds a batch of so many bytes should stay away because too much waits; 0 when it may come."""
        if self._rows.refusal(tenant, 1) is None and self._bytes.refusal(tenant, size) is None:
            return 0.0
        waiting = self._bytes.used + self._rows.used * _ROW_COST
        wait = waiting / (self._lane_rate * self._limits.lanes) if self._lane_rate else 0.0
        return min(_LONGEST_WAIT_S, max(self._limits.retry_after_s, wait))

    def weigh(self, weights: Mapping[TenantId, float]) -> None:
        """Sets the tenants' weights (above 0) for what comes from now on; 1 for those not named."""
        self._weights = weights

    async def append(self, entry: JournalEntry) -> Appended:
        """Stores one batch; returns after its commit is on disk.

        Raises Overloaded, IdempotencyConflict, UnknownTenant or StorageUnavailable. After StorageUnavailable the batch
        may or may not be stored: repeating it with the same idempotency key settles that.
        """
        tenant, size = entry.tenant, len(entry.payload)
        if wait := self.full_for(tenant, size):
            raise Overloaded(wait)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._rows.take(tenant, 1)
        self._bytes.take(tenant, size)
        # Control rows are rare, small and ours: they stand in their tenant's line like everything else.
        self._queue.put(tenant, (entry, future), size + _ROW_COST, self._weights.get(tenant, 1.0))
        self._open_lane()
        return await future

    async def close(self) -> None:
        """Returns when everything that waited is stored or has failed."""
        while self._lanes:
            await asyncio.wait(self._lanes)

    def _open_lane(self) -> None:
        if len(self._lanes) < self._limits.lanes and self._queue.takeable:
            lane = asyncio.create_task(self._drain(), name="journal-group-commit")
            self._lanes.add(lane)
            lane.add_done_callback(self._lane_ended)

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if not lane.cancelled():
            self._open_lane()

    async def _drain(self) -> None:
        while taken := self._queue.take(self._limits.group_rows, self._limits.group_bytes):
            for tenant, (entry, _) in taken:
                self._rows.give(tenant, 1)
                self._bytes.give(tenant, len(entry.payload))
            self._open_lane()
            # A sender may have gone away while its batch waited.
            group = [waiter for _, waiter in taken if not waiter[1].done()]
            began = asyncio.get_running_loop().time()
            try:
                if group:
                    await self._store(group)
            finally:
                # Reached with unanswered senders only when this task is cancelled at shutdown.
                for _, future in group:
                    if not future.done():
                        future.set_exception(StorageUnavailable("the journal is shutting down", 2.0))
                self._queue.release(tenant for tenant, _ in taken)
            self._measure(sum(map(_cost, group)), asyncio.get_running_loop().time() - began)

    def _measure(self, cost: int, seconds: float) -> None:
        """Keeps a moving average of what one lane stores a second."""
        if cost and seconds > 0:
            rate = cost / seconds
            self._lane_rate = rate if not self._lane_rate else self._lane_rate + _SMOOTHING * (rate - self._lane_rate)

    async def _store(self, group: Sequence[_Waiter]) -> None:
        try:
            outcomes = await self._commit([entry for entry, _ in group])
        except (StorageUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if isinstance(error, StorageUnavailable) or len(group) == 1:
                for _, future in group:
                    _answer(future, error)
                return
            # One entry's fault: find it by storing each alone, so that the others do not suffer.
            for member in group:
                await self._store([member])
            return
        for (_, future), outcome in zip(group, outcomes, strict=True):
            _answer(future, outcome)

    async def _commit(self, entries: Sequence[JournalEntry]) -> list[Appended | Exception]:
        with storage_errors():
            rows = await self._pool.fetch(
                sql("journal_append"),
                [entry.tenant for entry in entries],
                [entry.agent for entry in entries],
                [entry.idempotency_key for entry in entries],
                [entry.digest for entry in entries],
                [entry.kind for entry in entries],
                [entry.encoding for entry in entries],
                [entry.records for entry in entries],
                [entry.payload for entry in entries],
                [entry.received for entry in entries],
                [entry.run for entry in entries],
            )
        return [_outcome(entry, row) for entry, row in zip(entries, rows, strict=True)]


def _outcome(entry: JournalEntry, row: Any) -> Appended | Exception:
    seq: int = row["appended_seq"]
    match verdict := row["verdict"]:
        case "appended":
            return Appended(seq, duplicate=False)
        case "duplicate":
            return Appended(seq, True, row["stored_records"], row["elsewhere"])
        case "conflict":
            return IdempotencyConflict(f"the idempotency key belongs to batch {seq}, whose content differs")
        case "unknown_tenant":
            return UnknownTenant(f"there is no tenant {entry.tenant}")
        case _:
            return AssertionError(f"journal_append gave the verdict {verdict!r}")


def _cost(waiter: _Waiter) -> int:
    return len(waiter[0].payload) + _ROW_COST


def _answer(future: asyncio.Future[Appended], outcome: Appended | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Appended):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


async def append_control(
    writer: JournalWriter, tenant: TenantId, body: bytes, *, idempotency_key: bytes, digest: bytes, received: datetime
) -> Appended:
    """Appends a control row: a change of what judgement depends on, in force from its own seq on. `body` is JSON."""
    entry = JournalEntry(tenant, CONTROL_AGENT, idempotency_key, digest, "control", "identity", 0, body, received)
    return await writer.append(entry)


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One stored batch; `payload` is in `encoding`, as received."""

    seq: int
    received: datetime
    agent: str
    idempotency_key: bytes
    digest: bytes
    kind: BatchKind
    encoding: Encoding
    records: int
    payload: bytes

    @property
    def received_ns(self) -> Nanoseconds:
        return nanoseconds(self.received)

    def batch(self) -> Batch:
        """What a detector reads. The decompressed size was bounded when the batch was accepted."""
        return Batch(self.seq, self.received_ns, self.kind, inflate(self.payload, self.encoding, sys.maxsize))


async def read_journal(tx: TenantTransaction, after_seq: int, max_rows: int, max_bytes: int) -> list[JournalRow]:
    """The batches after `after_seq` in order: at most `max_rows`, about `max_bytes` of payload, at least one if any."""
    rows = await tx.connection.fetch(sql("journal_read"), after_seq, max_rows, max_bytes)
    return [_journal_row(row) for row in rows]


def _journal_row(row: Any) -> JournalRow:
    return JournalRow(**{**row, "received": row["received"].astimezone(UTC)})


async def heads(tx: SystemTransaction) -> dict[TenantId, int]:
    """The last seq of every tenant."""
    return {_tenant(row["tenant_id"]): row["last_seq"] for row in await tx.connection.fetch(sql("journal_heads"))}


async def behind(tx: SystemTransaction) -> dict[TenantId, tuple[int, int]]:
    """The tenants with batches that are not judged yet: (mark, last seq)."""
    rows = await tx.connection.fetch(sql("journal_behind"))
    return {_tenant(row["tenant_id"]): (row["mark"], row["last_seq"]) for row in rows}


def _tenant(value: UUID) -> TenantId:
    # The driver has a UUID class of its own; equal, but not what callers annotate or pickle.
    return TenantId(UUID(int=value.int))
