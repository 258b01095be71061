"""Sends what is in the spool until the server's own answer says what became of it; until then nothing is forgotten.

Lanes (threads with a connection each) take batches in the order of the spool, so that up to `in_flight` are on their
way at once. Every attempt of a batch has the same idempotency key and body, and a nonce and time of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from agent.contract import EnvelopeError
from agent.forwarder.batch import MEDIA_TYPES, Batch, UnreadableBatch
from agent.forwarder.config import Config
from agent.forwarder.identity import Identity
from agent.forwarder.link import Answer, Link, LinkDown
from agent.forwarder.meter import Meter
from agent.forwarder.pace import Backoff, Bandwidth, Gate, chance
from agent.forwarder.receipts import Receipts, agrees
from agent.forwarder.verdict import Denied, Later, Poison, SignAgain, Stored, Verdict, judge, server_time
from agent.spool import Spool
from agent.spool_books import Outcome
from agent.spool_reader import Entry

logger = logging.getLogger("agent.forwarder.shipper")

INGEST_PATH = "/ingest/logs"
RUN_HEADER = "X-Agent-Run"

_IDLE_S = 1.0
_LAST_S = 3.0
_POISON_IN_A_ROW = 16


@dataclass(slots=True)
class _Way:
    """How a batch has fared so far. `unanswered`: an attempt may have been stored and was not answered."""

    unanswered: bool
    failures: int = 0
    corrections: int = 0
    run: str = ""
    version: int = 0  # of the credentials of the last attempt
    # What was counted against the batch is the server's only when it said so itself.
    last: Answer | None = None


class Shipper:
    """Runs its lanes from `start` to `stop`."""

    def __init__(self, spool: Spool, identity: Identity, config: Config, meter: Meter, receipts: Receipts) -> None:
        self.gate = Gate()
        self._spool = spool
        self._identity = identity
        self._ship = config.ship
        self._meter = meter
        self._receipts = receipts
        self._backoff = Backoff(config.ship.first_retry_s, config.ship.longest_retry_s)
        self._bandwidth = Bandwidth(config.ship.bytes_per_second, self.gate)
        self._poison_in_a_row = 0
        server = config.server
        self._links = [
            Link(server.host, server.port, config.ship.answer_s, self._bandwidth.spend)
            for _ in range(config.ship.in_flight)
        ]
        self._lanes = [
            threading.Thread(target=self._run, args=(number,), name=f"lane-{number}", daemon=True)
            for number in range(config.ship.in_flight)
        ]

    def start(self) -> None:
        """Begins to send."""
        for lane in self._lanes:
            lane.start()

    def stop(self, drain_s: float) -> None:
        """Sends on for at most so long while there is something to send, then ends all lanes."""
        self._spool.wait_empty(drain_s)
        self.gate.stop()
        self._spool.wake()
        for link in self._links:
            link.abort()
        for lane in self._lanes:
            if lane.ident is not None:
                # One that is connecting cannot be woken; it holds nothing that is not on disk.
                lane.join(_LAST_S)
        for link in self._links:
            link.close()

    def _run(self, lane: int) -> None:
        link = self._links[lane]
        while not self.gate.stopped:
            try:
                entry = self._spool.take(_IDLE_S)
                if entry is not None:
                    self._deliver(entry, link, lane)
                    self._meter.well("lane")
            except OSError as error:
                logger.error("the spool cannot be read: %s", error)
                self._meter.trouble("lane", "failing", f"the spool cannot be read: {error}")
                self.gate.pause(self._ship.longest_retry_s)
            except Exception:
                # A lane that ends would hold its batch back until the next start, and nobody would know.
                logger.exception("unexpected error in a lane")
                self._meter.trouble("lane", "degraded", "an unexpected error while sending: see the log")
                self.gate.pause(self._ship.longest_retry_s)
            finally:
                self._meter.sending(lane, None)

    def _deliver(self, entry: Entry, link: Link, lane: int) -> None:
        """Returns when the entry is settled, or the gate is stopped."""
        try:
            batch = Batch.unpack(entry.payload)
        except UnreadableBatch as error:
            self._set_aside(entry, entry.payload, "unreadable", {"detail": str(error)}, unsettled=entry.inherited)
            return
        self._meter.sending(lane, batch.arrived_ms)
        way = _Way(unanswered=entry.inherited)
        self.gate.pause(0)
        while not self.gate.stopped:
            if self._settled(entry, batch, way, self._attempt(entry, batch, link, way)):
                return

    def _attempt(self, entry: Entry, batch: Batch, link: Link, way: _Way) -> Verdict:
        credentials = self._identity.credentials
        way.last = None
        way.run, way.version = self._spool.run, credentials.version
        headers = {
            "Content-Type": MEDIA_TYPES[batch.kind],
            RUN_HEADER: way.run,
            **({"Content-Encoding": batch.encoding} if batch.encoding != "identity" else {}),
        }
        for second_try in (False, True):
            try:
                signed = self._identity.headers(credentials, INGEST_PATH, batch.body, entry.key)
                self._meter.count("sent_bytes_total", len(batch.body))
                answer = link.post(INGEST_PATH, batch.body, headers | signed, credentials)
                break
            except LinkDown as down:
                way.unanswered = way.unanswered or down.sent
                self._meter.count("attempts_total", label="none")
                if down.stale and not second_try:
                    continue
                return Later(f"no_answer: {down}", None, ours=False)
            except EnvelopeError as error:
                return Later(f"cannot_sign: {error}", None, ours=False)
        self._meter.count("attempts_total", label=str(answer.status))
        way.last = answer
        moment = server_time(answer.headers)
        if moment is not None and self._identity.learn_time(moment):
            self._meter.count("clock_corrections_total")
            way.corrections += 1
            if answer.status != 200 and way.corrections <= 2:
                return SignAgain()
        return judge(answer.status, answer.headers, time.time())

    def _settled(self, entry: Entry, batch: Batch, way: _Way, verdict: Verdict) -> bool:
        """Acts on a verdict; whether the batch has left the spool."""
        match verdict:
            case Stored():
                self._stored(entry, batch, way, verdict)
                return True
            case Poison():
                return self._poisoned(entry, batch, way, verdict)
            case SignAgain():
                way.failures += 1
                self._meter.count("retries_total", label="sign_again")
                # Twice by chance happens; again and again means that something repeats our requests.
                self.gate.pause(0.0 if way.failures <= 2 else self._backoff.wait_s(way.failures, chance()))
            case Denied():
                self._denied(way, verdict)
            case Later():
                self._later(way, verdict)
        return False

    def _stored(self, entry: Entry, batch: Batch, way: _Way, verdict: Stored) -> None:
        if verdict.receipt:
            self._receipts.keep(entry.key, verdict.seq, verdict.receipt)
            self._meter.count("receipts_total")
            if not agrees(verdict.receipt, batch.digest, entry.records):
                self._meter.count("receipts_disagreeing_total")
                logger.error("the receipt of batch %s is not about what was sent", entry.key)
                self._meter.trouble("receipts", "degraded", f"the receipt of {entry.key} is not about what was sent")
        outcome = Outcome("duplicate" if verdict.duplicate else "stored", verdict.seq, elsewhere=verdict.elsewhere)
        self._spool.settle(entry, outcome, run=way.run)
        self._meter.last_acknowledged = time.time()
        self._poison_in_a_row = 0
        self._reached()
        self._meter.well("refusals")

    def _poisoned(self, entry: Entry, batch: Batch, way: _Way, verdict: Poison) -> bool:
        self._reached()
        answer = way.last.body[:4096].decode("utf-8", "replace") if way.last is not None else ""
        note = {
            "status": verdict.status,
            "answer": answer,
            "kind": batch.kind,
            "encoding": batch.encoding,
            "records": entry.records,
            "arrived_ms": batch.arrived_ms,
            "masked": batch.masked,
            "life": batch.life,
        }
        reason = f"http_{verdict.status}"
        if not self._set_aside(entry, batch.body, reason, note, unsettled=way.unanswered):
            self.gate.pause(self._ship.longest_retry_s)
            return False
        self._poison_in_a_row += 1
        if self._poison_in_a_row > _POISON_IN_A_ROW:
            # So many in a row say more about the server, or somebody in between, than about the batches.
            self._meter.trouble("refusals", "failing", "the server refuses batch after batch for ever: see poison/")
            self.gate.hold(self._ship.longest_retry_s)
        return True

    def _set_aside(
        self, entry: Entry, content: bytes, reason: str, note: dict[str, object], *, unsettled: bool
    ) -> bool:
        """Keeps a batch that will never be taken, then lets it leave the spool. False: it could not be kept."""
        try:
            known = {"batch": entry.key, "reason": reason, "unsettled": unsettled}
            self._spool.poison.put(entry.key, content, known | note)
        except OSError as error:
            logger.error("a refused batch cannot be set aside and stays in the spool: %s", error)
            self._meter.trouble("poison", "failing", f"a refused batch cannot be set aside: {error}")
            return False
        self._meter.well("poison")
        self._meter.count("poison_batches_total")
        logger.error("batch %s is refused for ever (%s) and lies in poison/", entry.key, reason)
        self._spool.settle(entry, Outcome("rejected", reason=reason, unsettled=unsettled))
        return True

    def _denied(self, way: _Way, verdict: Denied) -> None:
        self._meter.count("retries_total", label=f"denied_{verdict.status}")
        self._meter.well("server")
        detail = f"the server answers {verdict.status}: renew the credentials; nothing is lost meanwhile"
        if self._meter.trouble("credentials", "failing", detail):
            logger.error("%s", detail)
        # Another lane may have taken over new ones while this one was refused with the old.
        if not self._identity.reload() and self._identity.credentials.version == way.version:
            self.gate.hold(self._ship.refused_retry_s * (0.5 + 0.5 * chance()))
        self.gate.pause(0.0)

    def _later(self, way: _Way, verdict: Later) -> None:
        way.failures += 1
        reason = verdict.reason.partition(":")[0]
        if not verdict.ours and way.last is not None and reason.startswith("foreign"):
            way.unanswered = True  # somebody answered in the server's place: it may have the batch
        if way.last is not None and way.last.status >= 500:
            way.unanswered = True
        if way.last is None:
            # A certificate that has ended is refused by the handshake, and nobody may have sent a signal.
            self._identity.reload()
        self._meter.count("retries_total", label=reason)
        if self._meter.trouble("server", "degraded", f"batches are not taken now: {verdict.reason}"):
            logger.warning("batches are not taken now: %s", verdict.reason)
        wait_s = self._backoff.wait_s(way.failures, chance())
        if verdict.after_s is not None:
            if verdict.ours:
                self.gate.hold(verdict.after_s)
            # All who were told the same moment would come in the same moment. A stranger silences nobody for an hour.
            wait_s += verdict.after_s if verdict.ours else min(verdict.after_s, self._ship.longest_retry_s)
        self.gate.pause(wait_s)

    def _reached(self) -> None:
        self._meter.well("server")
        self._meter.well("credentials")
