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
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.forwarder.answers import Refusal
from agent.forwarder.batch import PREFIX_BYTES, Batch, BodyEncoding, BodyKind, digest_of_prefix
from agent.forwarder.inflate import BrokenBody, OversizedBody, inflate
from agent.forwarder.meter import Meter
from agent.forwarder.otlp_check import Undecodable, count_records
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
            self._remember(digest_of_prefix(prefix))

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
        records, digest, batch = await loop.run_in_executor(self._checker, self._check, body)
        if records == 0:
            return
        if digest in self._known:
            self._meter.count("repeated_requests_total")
            return
        under_way = self._under_way.get(digest)
        if under_way is not None:
            self._meter.count("repeated_requests_total")
            await asyncio.shield(under_way)
            return
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
        self._meter.count("received_records_total", records)
        self._meter.count("received_bytes_total", len(body.content))

    def _finished(self, digest: bytes, done: asyncio.Future[None]) -> None:
        self._under_way.pop(digest, None)
        if not done.cancelled() and done.exception() is None:
            self._remember(digest)

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = None
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _check(self, body: Body) -> tuple[int, bytes, Batch]:
        """Records, the digest of the body as its sender meant it, and the batch to store."""
        try:
            plain = inflate(body.content, body.encoding, self._most_inflated)
        except OversizedBody as error:
            detail = f"the decompressed body is larger than {self._most_inflated} bytes: send smaller batches"
            raise Refusal(413, "too_large", detail) from error
        except BrokenBody as error:
            raise Refusal(400, "malformed", f"{error}: send the whole body, compressed once") from error
        try:
            records = count_records(body.kind, plain)
        except Undecodable as error:
            raise Refusal(400, "malformed", str(error)) from error
        arrived_ms = time.time_ns() // 1_000_000
        if self._transform is not None and records:
            body, plain = self._masked(body.kind, plain, self._transform)
        digest = hashlib.sha256(plain).digest()
        return records, digest, Batch(body.kind, body.encoding, digest, arrived_ms, body.content)

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
