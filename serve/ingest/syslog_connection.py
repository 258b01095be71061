"""One syslog connection: messages are gathered into batches, and nothing more is read while a batch is not durable.

Syslog knows no acknowledgement, so TCP's own flow control is the answer to trouble: the sender's buffers fill, and it
waits or spools. A batch has one idempotency key for all its attempts, so an attempt whose outcome nobody knows can be
repeated. What was read and is not durable yet (at most one batch, one message and the receive buffers) is lost if this
process is killed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import structlog

from actors.metrics import Metrics
from detect.record import Nanoseconds
from detect.syslog_framing import SyslogFrame, SyslogFramer
from serve.errors import WireError
from serve.ingest.body import digest_of
from serve.ingest.intake import Intake, Sender, Submission, errors_on_the_wire
from serve.ingest.otlp_conversion import compressed, otlp_request
from serve.ingest.syslog_records import syslog_record
from store.journal import Encoding

logger = structlog.get_logger("syslog")

_DOOR: Final = "syslog"
_CHUNK: Final = 64 * 1024
_OFF_THE_LOOP: Final = 100  # messages; converting more takes longer than other connections should wait
_PEER_ADDRESS: Final = "network.peer.address"


@dataclass(frozen=True, slots=True)
class SyslogLimits:
    """Sizes in bytes, times in seconds. A batch ends at the first of its three limits.

    `stop_s` is how long a connection may take at a shutdown to store what it has read; `look_again_s` how soon a port
    that was taken, or a certificate that was changed, is looked at again.
    """

    message_bytes: int = 64 * 1024
    batch_messages: int = 1000
    batch_bytes: int = 256 * 1024
    batch_s: float = 0.2
    connections: int = 256
    first_retry_s: float = 0.1
    longest_retry_s: float = 10.0
    look_again_s: float = 2.0
    stop_s: float = 5.0


class ConnectionRefused(Exception):
    """What this sender sends cannot be taken, now or later; the connection has to end."""


@dataclass(frozen=True, slots=True)
class SyslogParts:
    """What all connections share. Setting `stopping` ends them, each after it has stored what it had read."""

    intake: Intake
    metrics: Metrics
    limits: SyslogLimits
    wall_clock: Callable[[], Nanoseconds]
    stopping: asyncio.Event


class SyslogConnection:
    """Reads one stream to its end, or until `parts.stopping` is set. `sender` says whose it is, or raises WireError."""

    def __init__(
        self,
        parts: SyslogParts,
        reader: asyncio.StreamReader,
        peer: str,
        sender: Callable[[], Awaitable[Sender]],
    ) -> None:
        self._parts = parts
        self._reader = reader
        self._peer = peer
        self._sender = sender
        self._framer = SyslogFramer(parts.limits.message_bytes)
        self._frames: list[SyslogFrame] = []
        self._bytes = 0
        self._deadline = 0.0
        self._keys = (f"syslog:{uuid4()}:{number}" for number in itertools.count(1))
        self._stop_at: float | None = None

    async def run(self) -> None:
        """Returns when the stream has ended and all of it is durable, or has been given up and counted.

        Raises ConnectionRefused.
        """
        stopped = asyncio.create_task(self._parts.stopping.wait())
        reading: asyncio.Task[bytes] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(self._reader.read(_CHUNK))
                await self._await(reading, stopped)
                if reading.done():
                    chunk, reading = reading.result(), None
                    if not chunk:
                        break
                    await self._take(self._framer.feed(chunk))
                elif stopped.done():
                    break
                if self._frames and self._now() >= self._deadline:
                    await self._flush()
        except OSError as error:
            # The sender has gone; what it sent before is stored like at any other end.
            logger.info("a syslog connection broke", peer=self._peer, reason=str(error))
        finally:
            stopped.cancel()
            if reading is not None:
                reading.cancel()
        await self._take(self._framer.finish())
        await self._flush()

    async def _await(self, reading: asyncio.Task[bytes], stopped: asyncio.Task[bool]) -> None:
        if stopped.done():
            # What the sender has sent before we stop is taken, but nobody waits for more.
            await asyncio.wait({reading}, timeout=0.05 if self._seconds_to_stop() > 0 else 0)
            return
        timeout = max(0.0, self._deadline - self._now()) if self._frames else None
        await asyncio.wait({reading, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _take(self, frames: list[SyslogFrame]) -> None:
        limits = self._parts.limits
        for taken, frame in enumerate(frames, start=1):
            if not self._frames:
                self._deadline = self._now() + limits.batch_s
            self._frames.append(frame)
            self._bytes += len(frame.text)
            if len(self._frames) < limits.batch_messages and self._bytes < limits.batch_bytes:
                continue
            try:
                await self._flush()
            except ConnectionRefused:
                if left := len(frames) - taken:
                    self._count_refused(left, "refused_before")
                raise

    async def _flush(self) -> None:
        frames, self._frames, self._bytes = self._frames, [], 0
        if not frames:
            return
        received_ns = self._parts.wall_clock()
        if len(frames) > _OFF_THE_LOOP:
            payload, encoding = await asyncio.to_thread(_converted, frames, self._peer, received_ns)
        else:
            payload, encoding = _converted(frames, self._peer, received_ns)
        await self._store(payload, encoding, len(frames))
        if cut := sum(frame.cut for frame in frames):
            self._parts.metrics.count("syslog_cut_messages", cut)

    async def _store(self, payload: bytes, encoding: Encoding, records: int) -> None:
        """Tries until the batch is durable; gives up only when its sender is refused, or when we have to stop."""
        key, digest, wait_s = next(self._keys), digest_of(payload), self._parts.limits.first_retry_s
        metrics = self._parts.metrics
        while True:
            try:
                with errors_on_the_wire():
                    sender = await self._sender()
                    submission = Submission(
                        sender, "otlp_protobuf", encoding, payload, records, digest, key, door=_DOOR
                    )
                    async with self._parts.intake.request(sender, len(payload)) as ticket:
                        await self._parts.intake.store(submission, ticket)
                return
            except WireError as error:
                if not error.retryable:
                    self._count_refused(records, error.reason)
                    logger.error("syslog messages refused", peer=self._peer, records=records, reason=error.detail)
                    raise ConnectionRefused(error.detail) from error
                metrics.count("syslog_retries")
                logger.warning("the journal does not take syslog now", peer=self._peer, reason=error.detail)
                if self._parts.stopping.is_set() and self._seconds_to_stop() <= 0:
                    metrics.count("syslog_lost_records", records)
                    logger.error("syslog messages given up at the shutdown", peer=self._peer, records=records)
                    return
                await self._pause(max(wait_s, error.retry_after_s or 0))
                wait_s = min(2 * wait_s, self._parts.limits.longest_retry_s)

    def _count_refused(self, records: int, reason: str) -> None:
        self._parts.metrics.count("ingest_door_rejected_records", records, door=_DOOR, reason=reason)

    async def _pause(self, seconds: float) -> None:
        seconds = min(seconds, self._parts.limits.longest_retry_s)
        if self._parts.stopping.is_set():
            await asyncio.sleep(min(seconds, max(0.0, self._seconds_to_stop())))
            return
        waiting = asyncio.create_task(self._parts.stopping.wait())
        await asyncio.wait({waiting}, timeout=seconds)
        waiting.cancel()

    def _seconds_to_stop(self) -> float:
        """What is left of the time for a shutdown, which begins when this connection notices it."""
        if self._stop_at is None:
            self._stop_at = self._now() + self._parts.limits.stop_s
        return self._stop_at - self._now()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _converted(frames: list[SyslogFrame], peer: str, received_ns: Nanoseconds) -> tuple[bytes, Encoding]:
    records = (syslog_record(frame, peer, received_ns) for frame in frames)
    return compressed(otlp_request(records, _DOOR, {_PEER_ADDRESS: peer}))
