"""Keeps the books durable and states them to the server, which finds a lost record by them (docs/decisions/0011)."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any, Final

from agent.contract import EnvelopeError
from agent.forwarder.config import Config
from agent.forwarder.identity import Identity
from agent.forwarder.link import Link, LinkDown
from agent.forwarder.meter import Meter
from agent.forwarder.verdict import server_time
from agent.spool import Spool

logger = logging.getLogger("agent.forwarder.bookkeeper")

LEDGER_PATH: Final = "/ingest/ledger"
_FLUSH_S = 0.2
_REPLAYED = "urn:trustsoc:problem:replayed-nonce"


class Bookkeeper:
    """One thread: flushes several times a second, states the books every `statement_s` seconds and at the end."""

    def __init__(self, spool: Spool, identity: Identity, config: Config, meter: Meter) -> None:
        self._spool = spool
        self._identity = identity
        self._meter = meter
        self._every_s = config.ship.statement_s
        self._link = Link(config.server.host, config.server.port, config.ship.answer_s, lambda _: None)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bookkeeper", daemon=True)
        self.last_verdict: dict[str, Any] | None = None

    def start(self) -> None:
        """Begins to flush and to state."""
        self._thread.start()

    def stop(self) -> None:
        """States the books a last time; the server may be away, so this waits for little."""
        self._stopping.set()
        self._thread.join(1.0)
        if self._thread.is_alive():
            self._link.abort()
            self._thread.join(3.0)
        else:
            closing = threading.Thread(target=self.state, name="last-statement", daemon=True)
            closing.start()
            closing.join(3.0)
            self._link.abort()
        self._link.close()

    def state(self) -> bool:
        """Posts the books; whether the server knows them now.

        Only what is durable is stated: after a crash the books must not go back behind what the server was told.
        """
        statement = self._spool.flush().statement()
        body = json.dumps(statement).encode()
        try:
            credentials = self._identity.credentials
            headers = self._identity.headers(credentials, LEDGER_PATH, body) | {"Content-Type": "application/json"}
            answer = self._link.post(LEDGER_PATH, body, headers, credentials)
            found = json.loads(answer.body)
        except (LinkDown, EnvelopeError, ValueError) as problem:
            logger.info("the books could not be stated: %s", problem)
            self._meter.count("statements_total", label="no_answer")
            return False
        moment = server_time(answer.headers)
        if moment is None:
            logger.info("somebody else answered the statement in the server's place, with %d", answer.status)
            self._meter.count("statements_total", label="foreign")
            return False
        self._identity.learn_time(moment)
        return isinstance(found, dict) and self._heard(answer.status, found)

    def _heard(self, status: int, found: dict[str, Any]) -> bool:
        contradicts = status == 409 and found.get("type") not in {None, _REPLAYED}
        # Statements are made one after the other, so one that is older than what the server knows is a book gone back.
        if contradicts or (status == 200 and found.get("taken") is False):
            self._meter.count("statements_total", label="contradictory")
            logger.error("the server knows newer books of this run, as after a spool was restored: new books begin")
            self._spool.begin_run()
            return False
        head = found.get("head")
        if status != 200 or not isinstance(head, int) or not isinstance(found.get("balanced"), bool):
            self._meter.count("statements_total", label=f"answer_{status}")
            return False
        self.last_verdict = found
        self._spool.saw(head)
        self._meter.count("statements_total", label="balanced" if found["balanced"] else "unbalanced")
        if found["balanced"]:
            self._meter.well("ledger")
        elif self._meter.trouble("ledger", "failing", f"the server's books disagree: {found.get('detail')}"):
            logger.error("the server's books and ours disagree: %s", found.get("detail"))
        return True

    def _run(self) -> None:
        due = time.monotonic() + min(self._every_s, 5.0)
        while not self._stopping.wait(_FLUSH_S):
            try:
                self._spool.flush()
                self._meter.well("books")
                if time.monotonic() >= due:
                    due = time.monotonic() + self._every_s
                    self.state()
            except OSError as error:
                if self._meter.trouble("books", "degraded", f"the books cannot be written: {error}"):
                    logger.error("the books cannot be written: %s", error)
            except Exception:
                logger.exception("unexpected error of the bookkeeper")
