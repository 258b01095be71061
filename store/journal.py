"""The journal: one row a batch, durable before its sender is answered, numbered without gaps in commit order.

JournalWriter gathers whatever waits while a commit is under way into the next one (group commit), so that a disk's
fsync is shared by all senders and a lone sender waits for nobody.
"""

from __future__ import annotations

import asyncio
import gzip
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from detect.batch import Batch, BatchKind
from detect.record import Nanoseconds, TenantId
from store.postgres import Pool, StorageUnavailable, SystemTransaction, TenantTransaction, storage_errors
from store.queries import sql
from store.values import nanoseconds

Encoding = Literal["identity", "gzip"]

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
    conflict. Raises ValueError for a value that the journal cannot hold.
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
    """Where a batch is stored; a duplicate is stored where its original is."""

    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """What may wait (rows, bytes of payload) and what one commit takes at most."""

    waiting_rows: int = 4096
    waiting_bytes: int = 256 * 2**20
    group_rows: int = 256
    group_bytes: int = 16 * 2**20
    retry_after_s: float = 1.0


class JournalWriter:
    """Appends batches through a pool of the writer role. Safe for concurrent calls on one event loop."""

    def __init__(self, pool: Pool, limits: JournalLimits | None = None) -> None:
        self._pool = pool
        self._limits = limits or JournalLimits()
        self._waiting: deque[tuple[JournalEntry, asyncio.Future[Appended]]] = deque()
        self._waiting_bytes = 0
        self._drain_task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many batches wait for a commit that has not begun."""
        return len(self._waiting)

    async def append(self, entry: JournalEntry) -> Appended:
        """Stores one batch; returns after its commit is on disk.

        Raises Overloaded, IdempotencyConflict, UnknownTenant or StorageUnavailable. After StorageUnavailable the batch
        may or may not be stored: repeating it with the same idempotency key settles that.
        """
        size = len(entry.payload)
        limits = self._limits
        if len(self._waiting) >= limits.waiting_rows or (
            self._waiting and self._waiting_bytes + size > limits.waiting_bytes
        ):
            raise Overloaded(limits.retry_after_s)
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        self._waiting_bytes += size
        if self._drain_task is None or self._drain_task.done():
            self._drain_task = asyncio.create_task(self._drain(), name="journal-group-commit")
        return await future

    async def close(self) -> None:
        """Returns when everything that waited is stored or has failed."""
        if self._drain_task is not None:
            await self._drain_task

    async def _drain(self) -> None:
        while self._waiting:
            group = self._take_group()
            if not group:
                continue
            try:
                await self._store(group)
            finally:
                # Reached with unanswered senders only when this task is cancelled at shutdown.
                for _, future in group:
                    if not future.done():
                        future.set_exception(StorageUnavailable("the journal is shutting down", 2.0))

    def _take_group(self) -> list[tuple[JournalEntry, asyncio.Future[Appended]]]:
        group: list[tuple[JournalEntry, asyncio.Future[Appended]]] = []
        size = 0
        while self._waiting and len(group) < self._limits.group_rows:
            entry, future = self._waiting[0]
            if group and size + len(entry.payload) > self._limits.group_bytes:
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(entry.payload)
            if not future.done():  # the sender went away while it waited
                group.append((entry, future))
                size += len(entry.payload)
        return group

    async def _store(self, group: Sequence[tuple[JournalEntry, asyncio.Future[Appended]]]) -> None:
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
            )
        return [_outcome(entry, row["verdict"], row["appended_seq"]) for entry, row in zip(entries, rows, strict=True)]


def _outcome(entry: JournalEntry, verdict: str, seq: int) -> Appended | Exception:
    match verdict:
        case "appended":
            return Appended(seq, duplicate=False)
        case "duplicate":
            return Appended(seq, duplicate=True)
        case "conflict":
            return IdempotencyConflict(f"the idempotency key belongs to batch {seq}, whose content differs")
        case "unknown_tenant":
            return UnknownTenant(f"there is no tenant {entry.tenant}")
        case _:
            return AssertionError(f"journal_append gave the verdict {verdict!r}")


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
        payload = gzip.decompress(self.payload) if self.encoding == "gzip" else self.payload
        return Batch(self.seq, self.received_ns, self.kind, payload)


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
