"""From a request's body to a batch on disk: checked beside the event loop, then fsynced with whoever waits as well."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from agent.forwarder.answers import Refusal
from agent.forwarder.batch import PREFIX_BYTES, Batch, BodyEncoding, BodyKind, identity_of_prefix
from agent.forwarder.inflate import BrokenBody, OversizedBody, inflate
from agent.forwarder.meter import Meter
from agent.forwarder.otlp_check import TooMuch, Undecodable, count_records
from agent.forwarder.poison import NotPoisoned, UnfitToSend, read_poisoned
from agent.spool import Spool, SpoolFull

logger = logging.getLogger("agent.forwarder.intake")

Transform: TypeAlias = Callable[[bytes, BodyKind], bytes]
"""What masks a request before it is written to disk: the decompressed body in, a body of the same kind out. Whatever it
raises keeps the request from being stored: Undecodable is 400, anything else tells the sender to come back (503)."""

REMEMBERED: Final = 20_000
"""Batches whose repetition is recognised."""

_MOST_IN_A_GROUP = 64
_FULL_RETRY_S = 10


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as it came."""

    kind: BodyKind
    encoding: BodyEncoding
    content: bytes


@dataclass(slots=True)
class _Waiting:
    """A checked batch whose sender waits for the disk."""

    payload: bytes
    records: int
    done: asyncio.Future[None]


class Intake:
    """Takes bodies from the event loop. `most_inflated` bounds a body after decompression, in bytes."""

    def __init__(self, spool: Spool, meter: Meter, most_inflated: int, transform: Transform | None = None) -> None:
        self._spool = spool
        self._meter = meter
        self._most_inflated = most_inflated
        self._transform = transform
        # One at a time: what inflates and parses is bound by the processor, and so is the memory that it takes.
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="check")
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="spool-writer")
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[None]] = {}
        for prefix in spool.newest(REMEMBERED, PREFIX_BYTES):
            if len(prefix) == PREFIX_BYTES:
                self._remember(identity_of_prefix(prefix))

    def start(self) -> None:
        """Begins to write."""
        self._writer.start()

    def stop(self) -> None:
        """Returns when all that was taken is on disk or refused."""
        self._queue.put(None)
        self._writer.join()
        self._checker.shutdown()

    async def store(self, body: Body) -> None:
        """Returns when the body is on disk; raises Refusal.

        A body that is in the spool already is not stored again: that is a sender who did not get the answer, and with
        a number of its own the repetition would be another batch for the server.
        """
        loop = asyncio.get_running_loop()
        records, batch = await loop.run_in_executor(self._checker, self._check, body)
        if records and await self._keep(records, batch):
            self._meter.count("received_records_total", records)
            self._meter.count("received_bytes_total", len(body.content))

    async def store_again(self, name: str) -> None:
        """Returns when a batch of poison/ is on disk to be sent as a new one, and has left poison/; raises Refusal.

        Whoever asks again after a crash in between sends it no second time.
        """
        loop = asyncio.get_running_loop()
        records, batch = await loop.run_in_executor(self._checker, self._check_again, name)
        await self._keep(records, batch)
        try:
            await loop.run_in_executor(self._checker, self._spool.poison.remove, name)
        except OSError as error:
            detail = f"the batch will be sent, and cannot be removed from poison/: {error}"
            raise Refusal(503, "poison", detail, _FULL_RETRY_S) from error

    async def _keep(self, records: int, batch: Batch) -> bool:
        """Returns when the batch is on disk; whether it was not there before."""
        loop = asyncio.get_running_loop()
        digest = batch.identity
        if digest in self._known:
            self._meter.count("repeated_requests_total")
            return False
        under_way = self._under_way.get(digest)
        if under_way is not None:
            self._meter.count("repeated_requests_total")
            await asyncio.shield(under_way)
            return False
        done: asyncio.Future[None] = loop.create_future()
        self._under_way[digest] = done
        self._queue.put(_Waiting(batch.pack(), records, done))
        try:
            # Whoever hangs up must not undo what may be on disk by then.
            await asyncio.shield(done)
        finally:
            if done.done():
                self._finished(digest, done)
            else:
                done.add_done_callback(lambda future: self._finished(digest, future))
        return True

    def _finished(self, digest: bytes, done: asyncio.Future[None]) -> None:
        self._under_way.pop(digest, None)
        if not done.cancelled() and done.exception() is None:
            self._remember(digest)

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = None
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _check_again(self, name: str) -> tuple[int, Batch]:
        """Records, and the batch of poison/ in its next life."""
        try:
            poisoned = read_poisoned(self._spool.poison, name)
        except NotPoisoned as error:
            raise Refusal(404, "not_found", str(error)) from error
        except UnfitToSend as error:
            raise Refusal(422, "unfit", str(error)) from error
        records, checked = self._check(Body(poisoned.kind, poisoned.encoding, poisoned.body), poisoned.masked)
        return records, replace(checked, arrived_ms=poisoned.arrived_ms, life=poisoned.life)

    def _check(self, body: Body, masked: bool = False) -> tuple[int, Batch]:
        """Records, and the batch to store, with the digest of what its sender meant. What is masked stays as it is."""
        try:
            plain = inflate(body.content, body.encoding, self._most_inflated)
        except OversizedBody as error:
            detail = f"the decompressed body is larger than {self._most_inflated} bytes: send smaller batches"
            raise Refusal(413, "too_large", detail) from error
        except BrokenBody as error:
            raise Refusal(400, "malformed", f"{error}: send the whole body, compressed once") from error
        try:
            records = count_records(body.kind, plain)
        except TooMuch as error:
            raise Refusal(413, "too_large", str(error)) from error
        except Undecodable as error:
            raise Refusal(400, "malformed", str(error)) from error
        arrived_ms = time.time_ns() // 1_000_000
        if self._transform is not None and records and not masked:
            body, plain = self._masked(body.kind, plain, self._transform)
            masked = True
        digest = hashlib.sha256(plain).digest()
        return records, Batch(body.kind, body.encoding, digest, arrived_ms, body.content, masked)

    def _masked(self, kind: BodyKind, plain: bytes, transform: Transform) -> tuple[Body, bytes]:
        import zstandard

        try:
            masked = transform(plain, kind)
        except Undecodable as error:
            raise Refusal(400, "malformed", str(error)) from error
        except Exception as error:
            # Neither its text nor a traceback: both can hold what was to be masked.
            logger.error("a request could not be masked and is not stored: %s", type(error).__name__)
            self._meter.trouble("masking", "failing", "a request could not be masked: see the log")
            raise Refusal(503, "unmasked", "the request could not be masked: retry later", _FULL_RETRY_S) from error
        self._meter.well("masking")
        return Body(kind, "zstd", zstandard.ZstdCompressor(level=1).compress(masked)), masked

    def _write(self) -> None:
        """One fsync for all who wait."""
        while (first := self._queue.get()) is not None:
            group: list[_Waiting] = [first]
            ended = False
            while len(group) < _MOST_IN_A_GROUP and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    ended = True
                    break
                group.append(following)
            self._store(group)
            if ended:
                return

    def _store(self, group: list[_Waiting]) -> None:
        refusal: Refusal | None = None
        stored = 0
        try:
            stored = len(self._spool.append([(waiting.payload, waiting.records) for waiting in group]))
        except SpoolFull as full:
            refusal = Refusal(503, full.reason, str(full), _FULL_RETRY_S)
        except Exception:
            # A defect must not end the thread: nobody would be answered any more.
            logger.exception("unexpected error while writing the spool")
            refusal = Refusal(503, "internal", "an unexpected error, which is logged: retry later", _FULL_RETRY_S)
        if stored < len(group) and refusal is None:
            refusal = Refusal(503, "spool_full", "the spool is full: the server must take some first", _FULL_RETRY_S)
        if refusal is None:
            self._meter.well("spool")
        else:
            self._meter.trouble("spool", "failing", str(refusal))
        group[0].done.get_loop().call_soon_threadsafe(_answer, group, stored, refusal)


def _answer(group: list[_Waiting], stored: int, refusal: Refusal | None) -> None:
    for place, waiting in enumerate(group):
        if waiting.done.done():
            continue
        if place < stored or refusal is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(Refusal(refusal.status, refusal.reason, str(refusal), refusal.retry_after_s))
            waiting.done.exception()  # seen, also when its sender has hung up
