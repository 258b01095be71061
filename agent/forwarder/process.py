"""The forwarder as a process: what is opened in which order, and what the signals do.

SIGTERM and SIGINT drain: no new requests, those under way are answered, the spool is sent for a few seconds more, then
everything is flushed and closed. SIGHUP reads token, keys, certificates and the masking policy anew.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from agent.forwarder.bookkeeper import Bookkeeper
from agent.forwarder.config import Config, ConfigError, MaskingConfig, read_token
from agent.forwarder.identity import Identity
from agent.forwarder.intake import Intake, Transform
from agent.forwarder.listener import Listener, ListenerLimits
from agent.forwarder.meter import Meter
from agent.forwarder.receipts import Receipts
from agent.forwarder.serving import LocalServer
from agent.forwarder.shipper import Shipper
from agent.forwarder.status import StatusPages
from agent.spool import Spool, SpoolLimits

if TYPE_CHECKING:
    from agent.forwarder.masking import MaskingStage

logger = logging.getLogger("agent.forwarder")


class Forwarder:
    """All parts of one forwarder. `start` and `stop` run on its event loop."""

    def __init__(self, config: Config, transform: Transform | None = None) -> None:
        """Reads every file that is needed and opens the spool. Raises ConfigError, SpoolError."""
        self._config = config
        listen = config.listen
        token = read_token(listen.token)
        self.meter = Meter()
        self._masking = _masking(config.masking)
        self._identity = Identity(config.server)
        self.spool = Spool(config.spool.folder, _limits(config))
        receipts = Receipts(config.spool.folder / "receipts.jsonl", config.ship.receipts)
        self._intake = Intake(self.spool, self.meter, listen.most_inflated_bytes, transform or self._masking)
        self._shipper = Shipper(self.spool, self._identity, config, self.meter, receipts)
        self.bookkeeper = Bookkeeper(self.spool, self._identity, config, self.meter)
        self.status = StatusPages(self.spool, self.meter, self._identity, self.bookkeeper, receipts, self._masking)
        limits = ListenerLimits(listen.most_body_bytes, listen.most_held_bytes)
        self._listener = Listener(self._intake, self.meter, token, limits, self.status.pages())
        self._server = LocalServer(self._listener, listen.address, listen.port, listen.most_body_bytes)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    async def start(self) -> None:
        """Listens and sends. Raises OSError when the address is taken."""
        await self._server.start()
        self._intake.start()
        self._shipper.start()
        self.bookkeeper.start()

    async def stop(self) -> None:
        """Drains and closes."""
        self._listener.draining = True
        await self._server.stop()
        await asyncio.to_thread(self._close)

    def reload(self) -> None:
        """Takes over changed token, masking policy and credentials; keeps the old where the new cannot be used."""
        try:
            self._listener.token = read_token(self._config.listen.token)
            self.meter.well("token")
            self.meter.well("sender")
        except ConfigError as error:
            logger.error("the old token stays: %s", error)
            self.meter.trouble("token", "degraded", str(error))
        if self._masking is not None:
            try:
                self._masking.reload()
                self.meter.well("masking policy")
            except ConfigError as error:
                logger.error("the old masking policy stays: %s", error)
                self.meter.trouble("masking policy", "degraded", str(error))
        self._identity.reload(force=True)
        self._shipper.gate.open()

    def _close(self) -> None:
        self._intake.stop()
        self._shipper.stop(self._config.ship.drain_s)
        self.bookkeeper.stop()
        self.spool.close()


async def serve(config: Config, transform: Transform | None = None, ready: Path | None = None) -> None:
    """Runs until SIGTERM or SIGINT. `ready` is a file that gets the port once it listens.

    Raises ConfigError, SpoolError, OSError.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    # Before the files are read: who changes one and says so meanwhile must be heard, which the loop does afterwards.
    def reload() -> None:
        forwarder.reload()

    loop.add_signal_handler(signal.SIGHUP, reload)
    forwarder: Forwarder = Forwarder(config, transform)
    await forwarder.start()
    logger.info("listening on %s:%d, sending to %s", config.listen.address, forwarder.port, config.server.url)
    if ready is not None:
        ready.write_text(str(forwarder.port), encoding="ascii")
    await stopping.wait()
    logger.info("stopping")
    await forwarder.stop()


def _masking(config: MaskingConfig | None) -> MaskingStage | None:
    if config is None:
        return None
    from agent.forwarder.masking import MaskingStage

    return MaskingStage(config)


def _limits(config: Config) -> SpoolLimits:
    spool = config.spool
    return SpoolLimits(spool.most_bytes, spool.segment_bytes, spool.least_free_bytes, spool.aside_bytes)
