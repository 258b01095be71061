"""What the forwarder counts and how it is: shared by its threads, shown by `status` and `/metrics`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal, get_args

State = Literal["ok", "degraded", "failing"]

CounterName = Literal[
    "requests_total",
    "received_records_total",
    "received_bytes_total",
    "repeated_requests_total",
    "wrong_tokens_total",
    "attempts_total",
    "sent_bytes_total",
    "retries_total",
    "poison_batches_total",
    "receipts_total",
    "receipts_disagreeing_total",
    "statements_total",
    "clock_corrections_total",
]
"""Counters, by their names in Prometheus without the prefix."""

LABELS: Final[dict[CounterName, str]] = {
    "requests_total": "status",
    "attempts_total": "answer",
    "retries_total": "reason",
    "statements_total": "verdict",
}
HELP: Final[dict[CounterName, str]] = {
    "requests_total": "Requests of local senders by the status that they were answered with.",
    "received_records_total": "Records that were acknowledged to local senders.",
    "received_bytes_total": "Bytes of bodies that were acknowledged to local senders, as they came.",
    "repeated_requests_total": "Requests that repeated what is in the spool already.",
    "wrong_tokens_total": "Requests of local senders with another token, which were asked to come back.",
    "attempts_total": "Attempts to send a batch by the status of the answer, or why there was none.",
    "sent_bytes_total": "Bytes of bodies sent, repetitions included.",
    "retries_total": "Attempts that will be repeated, by reason.",
    "poison_batches_total": "Batches that the server refused for ever and that lie in poison/.",
    "receipts_total": "Receipts kept.",
    "receipts_disagreeing_total": "Receipts whose digest or count is not that of the batch.",
    "statements_total": "Ledger statements by the server's verdict.",
    "clock_corrections_total": "Times that the clock was corrected by the server's.",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong: since when (seconds since the epoch) and what to do."""

    state: State
    detail: str
    since: float


class Meter:
    """Counters and the troubles of now. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[CounterName, str]] = Counter()
        self._troubles: dict[str, Trouble] = {}
        self._sending: dict[int, int] = {}
        self.started = time.time()
        self.last_acknowledged = 0.0

    def count(self, name: CounterName, amount: int = 1, label: str = "") -> None:
        """Adds to a counter; the label is the value of the one label that LABELS names."""
        with self._lock:
            self._counts[name, label] += amount

    def counts(self) -> dict[tuple[CounterName, str], int]:
        """All counters of now, those without labels also while they are 0."""
        with self._lock:
            zeros: dict[tuple[CounterName, str], int] = {
                (name, ""): 0 for name in get_args(CounterName) if name not in LABELS
            }
            return zeros | dict(self._counts)

    def trouble(self, what: str, state: State, detail: str) -> bool:
        """Notes that something is wrong, until `well`; whether that is news."""
        with self._lock:
            known = self._troubles.get(what)
            since = known.since if known is not None else time.time()
            self._troubles[what] = Trouble(state, detail, since)
            return known is None or known.detail != detail

    def well(self, what: str) -> None:
        """Takes a trouble back."""
        with self._lock:
            self._troubles.pop(what, None)

    def troubles(self) -> dict[str, Trouble]:
        """What is wrong now, by subject."""
        with self._lock:
            return dict(self._troubles)

    @property
    def state(self) -> State:
        """The worst of the troubles."""
        states = {trouble.state for trouble in self.troubles().values()}
        return "failing" if "failing" in states else "degraded" if states else "ok"

    def sending(self, lane: int, arrived_ms: int | None) -> None:
        """Which batch a lane has in its hands, by its arrival; None: none."""
        with self._lock:
            if arrived_ms is None:
                self._sending.pop(lane, None)
            else:
                self._sending[lane] = arrived_ms

    def lag_s(self, now: float) -> float:
        """The age of the oldest batch that is being sent; whatever waits behind it is younger."""
        with self._lock:
            return max(0.0, now - min(self._sending.values()) / 1000) if self._sending else 0.0
