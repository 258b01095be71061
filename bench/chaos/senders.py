"""Senders that keep books: every batch is repeated with the same key until it is acknowledged, as an agent does.

An answer that would make a stock collector drop data (anything but 200, 429, 502, 503 and 504) is a broken promise
and is kept as such.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

Batch = tuple[str, list[tuple[int, str]]]
"""A key and (time in ns, line) pairs."""

_PATIENCE_S = 240.0
_RETRYABLE = {429, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the server said of one batch, and what was sent."""

    key: str
    seq: int
    digest: bytes
    records: int
    duplicate: bool


@dataclass(slots=True)
class Books:
    """What a sender knows at the end."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    broken_promises: list[str] = field(default_factory=list)
    attempts: int = 0


def request_of(lines: list[tuple[int, str]]) -> bytes:
    """A gzipped OTLP request of (time in ns, line) pairs."""
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    for at, line in lines:
        record = records.add()
        record.time_unix_nano = at
        record.body.string_value = line
    # A fixed time in the gzip header: equal batches have equal bytes, whatever the clock says.
    return gzip.compress(message.SerializeToString(), mtime=0)


def attack(number: int, began_ns: int) -> list[tuple[int, str]]:
    """Ten failed passwords by one of five addresses, a minute after the burst before, and a login now and then."""
    lines = []
    for second in range(10):
        at = began_ns + (number * 60 + second) * 10**9
        stamp = f"Mar  1 {10 + number // 60 % 12:02d}:{number % 60:02d}:{second:02d}"
        address = f"203.0.113.{number % 5 + 1}"
        what = "Accepted" if second == 9 and number % 7 == 3 else "Failed"
        lines.append((at, f"{stamp} web-1 sshd[{4000 + second}]: {what} password for root from {address} port 4 ssh2"))
    return lines


def send_until_acknowledged(client: httpx.Client, key: str, body: bytes, records: int, books: Books) -> bool:
    """Repeats the batch until it is acknowledged; False when it was refused for good or the patience is over."""
    headers = {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "gzip",
        "X-Idempotency-Key": key,
    }
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        books.attempts += 1
        try:
            answer = client.post("/v1/logs", content=body, headers=headers)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        if answer.status_code == 200:
            duplicate = answer.headers["X-Batch-Duplicate"] == "true"
            seq = int(answer.headers["X-Batch-Seq"])
            books.acknowledged.append(
                Acknowledged(key, seq, sha256(gzip.decompress(body)).digest(), records, duplicate)
            )
            return True
        if answer.status_code not in _RETRYABLE:
            books.broken_promises.append(f"{answer.status_code} for {key}: {answer.text[:200]}")
            return False
        # An agent honours Retry-After; here more attempts under fire are wanted.
        time.sleep(min(0.3, float(answer.headers.get("Retry-After", "1"))))
    books.broken_promises.append(f"no acknowledgement of {key} in {_PATIENCE_S:.0f} s")
    return False


class Sender(threading.Thread):
    """Sends batches one after the other; `stop` ends it after the batch at hand, which is still acknowledged."""

    def __init__(self, base_url: str, key: str, batches: Iterator[Batch], pause_s: float) -> None:
        super().__init__(daemon=True)
        self.books = Books()
        self._base_url = base_url
        self._key = key
        self._batches = batches
        self._pause_s = pause_s
        self._stopping = threading.Event()

    def __repr__(self) -> str:
        return f"Sender({len(self.books.acknowledged)} acknowledged, {self.books.broken_promises})"

    def stop(self) -> None:
        """No new batch after the one at hand."""
        self._stopping.set()

    def run(self) -> None:
        """The thread."""
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._base_url, headers=headers, timeout=20) as client:
            for key, lines in self._batches:
                if self._stopping.is_set():
                    return
                if not send_until_acknowledged(client, key, request_of(lines), len(lines), self.books):
                    return
                self._stopping.wait(self._pause_s)
