"""What the forwarder says of itself on loopback: `/status` as JSON, `/metrics` as Prometheus text, `/healthz`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from agent.forwarder.bookkeeper import Bookkeeper
from agent.forwarder.identity import Identity
from agent.forwarder.listener import Page
from agent.forwarder.meter import HELP, LABELS, Meter
from agent.forwarder.receipts import Receipts
from agent.spool import Spool

if TYPE_CHECKING:
    from agent.forwarder.masking import MaskingStage

PREFIX: Final = "trustsoc_forwarder_"
VERSION: Final = "0.1.0"

_GAUGES: Final = {
    "spool_bytes": "Bytes of the spool's segments.",
    "spool_limit_bytes": "The most that they may be.",
    "in_flight_records": "Records in the spool that are not settled.",
    "in_flight_batches": "Batches in the spool that are not settled.",
    "accepted_records": "Records that entered the spool in this run.",
    "stored_records": "Records that the server has stored anew.",
    "duplicate_records": "Records that the server had already.",
    "unaccounted_records": "Records in none of the counts: a defect.",
    "damaged_entries": "Batches that the disk has lost, in this run of the books.",
    "torn_bytes": "Bytes after the last whole entry that were cut at a start.",
    "poison_files": "Batches that lie in poison/.",
    "oldest_seconds": "Age of the oldest batch that is being sent.",
    "last_acknowledged_timestamp_seconds": "When the server last took a batch; 0: not since the start.",
    "clock_offset_seconds": "How far the server's clock is ahead, where it is far.",
    "start_timestamp_seconds": "When this process began.",
    "healthy": "1 while nothing is wrong.",
}


class StatusPages:
    """Makes the pages from what the parts of the forwarder know."""

    def __init__(
        self,
        spool: Spool,
        meter: Meter,
        identity: Identity,
        bookkeeper: Bookkeeper,
        receipts: Receipts,
        masking: MaskingStage | None = None,
    ) -> None:
        self._masking = masking
        self._spool = spool
        self._meter = meter
        self._identity = identity
        self._bookkeeper = bookkeeper
        self._receipts = receipts

    def pages(self) -> Mapping[str, Page]:
        """By path, for the listener."""
        return {"/status": self._status_page, "/metrics": self._metrics_page, "/healthz": self._health_page}

    def status(self) -> dict[str, Any]:
        """Everything, as the controller passes it on and `status` shows it."""
        books, now = self._spool.books(), time.time()
        troubles = {
            what: {"state": trouble.state, "detail": trouble.detail, "since": round(trouble.since, 3)}
            for what, trouble in self._meter.troubles().items()
        }
        return {
            # The whole numbers at this level are what the controller passes on with its health.
            "accepted": books.accepted,
            "stored": books.stored,
            "duplicate": books.duplicate,
            "rejected": sum(books.rejected.values()),
            "in_flight": books.in_flight,
            "unaccounted": books.unaccounted,
            "spool_bytes": self._spool.used(),
            "spool_limit_bytes": self._spool.most,
            "poison": self._spool.poison.count(),
            "damaged_entries": books.damaged_entries,
            "version": VERSION,
            "state": self._meter.state,
            "troubles": troubles,
            "started_at": round(self._meter.started, 3),
            "last_acknowledged_at": round(self._meter.last_acknowledged, 3),
            "lag_s": round(self._meter.lag_s(now), 3),
            "clock_offset_s": self._identity.offset_s,
            "key_id": self._identity.credentials.signing_key.key_id,
            "spool": {
                "folder": str(self._spool.folder),
                "damaged_bytes": books.damaged_bytes,
                "torn_bytes": books.torn_bytes,
            },
            "books": books.statement(),
            "masked": self._masking.counts() if self._masking is not None else None,
            "masking": self._masking.names() if self._masking is not None else None,
            "batches": {
                "accepted": books.accepted_batches,
                "stored": books.stored_batches,
                "duplicate": books.duplicate_batches,
                "rejected": books.rejected_batches,
                "in_flight": books.in_flight_batches,
            },
            "counters": {
                f"{name}{{{label}}}" if label else name: count
                for (name, label), count in sorted(self._meter.counts().items())
            },
            "ledger": self._bookkeeper.last_verdict,
            "newest_receipt": self._receipts.newest(),
        }

    def metrics(self) -> str:
        """The Prometheus text format, version 0.0.4."""
        lines: list[str] = []
        values = self._gauges()
        for gauge, meaning in _GAUGES.items():
            lines += [f"# HELP {PREFIX}{gauge} {meaning}", f"# TYPE {PREFIX}{gauge} gauge"]
            lines.append(f"{PREFIX}{gauge} {values[gauge]:.15g}")
        lines += self._rejections()
        if self._masking is not None:
            lines += self._masked(self._masking)
        counts = self._meter.counts()
        for name, meaning in HELP.items():
            lines += [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} counter"]
            for (counted, label), count in sorted(counts.items()):
                if counted == name:
                    labels = f'{{{LABELS[name]}="{_escaped(label)}"}}' if name in LABELS else ""
                    lines.append(f"{PREFIX}{name}{labels} {count}")
        return "\n".join(lines) + "\n"

    def _gauges(self) -> dict[str, float]:
        books = self._spool.books()
        return {
            "spool_bytes": self._spool.used(),
            "spool_limit_bytes": self._spool.most,
            "in_flight_records": books.in_flight,
            "in_flight_batches": books.in_flight_batches,
            "accepted_records": books.accepted,
            "stored_records": books.stored,
            "duplicate_records": books.duplicate,
            "unaccounted_records": books.unaccounted,
            "damaged_entries": books.damaged_entries,
            "torn_bytes": books.torn_bytes,
            "poison_files": self._spool.poison.count(),
            "oldest_seconds": self._meter.lag_s(time.time()),
            "last_acknowledged_timestamp_seconds": self._meter.last_acknowledged,
            "clock_offset_seconds": self._identity.offset_s,
            "start_timestamp_seconds": self._meter.started,
            "healthy": float(self._meter.state == "ok"),
        }

    def _rejections(self) -> list[str]:
        name = f"{PREFIX}rejected_records"
        lines = [f"# HELP {name} Records that will never be stored, by reason.", f"# TYPE {name} gauge"]
        rejected = sorted(self._spool.books().rejected.items())
        return lines + [f'{name}{{reason="{_escaped(reason)}"}} {count}' for reason, count in rejected]

    def _masked(self, masking: MaskingStage) -> list[str]:
        name = f"{PREFIX}masked_total"
        lines = [f"# HELP {name} Records that were masked, and values by rule.", f"# TYPE {name} counter"]
        return lines + [f'{name}{{what="{_escaped(what)}"}} {count}' for what, count in masking.counts().items()]

    def _status_page(self) -> tuple[str, bytes]:
        return "application/json", json.dumps(self.status(), indent=1).encode()

    def _metrics_page(self) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4; charset=utf-8", self.metrics().encode()

    def _health_page(self) -> tuple[str, bytes]:
        return "application/json", json.dumps({"state": self._meter.state}).encode()


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
