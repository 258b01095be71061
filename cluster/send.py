"""`trustsoc send`: ships log files into the cluster as OTLP, in order, and accounts for every line.

A batch that gets a temporary answer is sent again with the same idempotency key, so nothing is lost or counted twice,
and the same file sent twice comes back as duplicates. Every acknowledgement's receipt is verified, and at the end the
books are stated to the server, which says whether its own agree.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from cluster.command_error import CommandError, NotRunningError
from cluster.log_batches import (
    BATCH_RECORDS,
    LineReader,
    LogOrigin,
    OutgoingRecord,
    ReadingCounts,
    TimestampParser,
    batches,
    export_request,
    idempotency_key,
)
from cluster.log_files import LogFile
from cluster.send_books import RUN_HEADER, ReceiptCheck, SendBooks

RETRYABLE = frozenset({429, 502, 503, 504})
PROTOBUF = "application/x-protobuf"

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 15.0
_FATAL = frozenset({401, 403, 404, 405})


@dataclass
class SendCounts:
    """What became of the records: sent = accepted + duplicate + what the server rejected, all from `books`.

    `rejected` counts by reason, those that never left this machine included; `retried` counts requests.
    """

    files: int = 0
    retried: int = 0
    bytes_sent: int = 0
    reading: ReadingCounts = field(default_factory=ReadingCounts)
    books: SendBooks = field(default_factory=SendBooks)

    @property
    def sent(self) -> int:
        return self.books.answered

    @property
    def accepted(self) -> int:
        return self.books.stored

    @property
    def duplicate(self) -> int:
        return self.books.duplicate

    @property
    def rejected(self) -> int:
        return sum(self.reading.rejected.values())

    def as_json(self) -> dict[str, Any]:
        """The shape that `trustsoc send --json` prints."""
        reading = asdict(self.reading)
        reasons = reading.pop("rejected")
        own = {
            name: getattr(self, name) for name in ("files", "sent", "accepted", "duplicate", "retried", "bytes_sent")
        }
        ledger = {"run": self.books.run, "ledger": self.books.verdict, "receipts": self.books.receipts}
        return {**own, "rejected": self.rejected, "rejected_reasons": reasons, **reading, **ledger}


@dataclass(frozen=True)
class SendOptions:
    """`rate` is records a second (None: as fast as the server takes them); `patience_seconds` bounds all waiting for
    one batch; `again` sends what was sent before as new."""

    host: str
    service: str = ""
    json_field: str | None = None
    rate: float | None = None
    patience_seconds: float = 300.0
    again: bool = False


Watch = Callable[[LogFile, SendCounts], None]


def _nobody_watches(_file: LogFile, _counts: SendCounts) -> None:
    """Where no progress is shown."""


class LogSender:
    """Ships files through one HTTP client. `watch` is called after every batch with the file and the counts so far."""

    watch: Watch

    def __init__(
        self,
        http: httpx.Client,
        parse_timestamp: TimestampParser,
        options: SendOptions,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.counts = SendCounts()
        self._http = http
        self._receipts = ReceiptCheck(http)
        self._parse_timestamp = parse_timestamp
        self._options = options
        self.watch = _nobody_watches
        self._pause = pause
        self._salt = uuid.uuid4().hex if options.again else ""
        self._began = time.monotonic()

    def check_server(self) -> None:
        """One request before the first line is read: a cluster that is not running is not worth waiting for."""
        try:
            self._http.get("/healthz")
        except httpx.ConnectError as error:
            raise NotRunningError(str(self._http.base_url).rstrip("/")) from error
        except httpx.HTTPError as error:
            raise CommandError(f"talking to {self._http.base_url} failed: {error}") from error

    def send(self, names: Sequence[str]) -> None:
        """Every file in turn. Raises CommandError where it cannot go on; `counts` then say how far it came."""
        try:
            for name in names:
                with LogFile(name, time.time_ns()) as file:
                    self._send_file(file)
                self.counts.files += 1
        finally:
            if self.counts.books.accepted:
                self.counts.books.state(self._http)

    def _send_file(self, file: LogFile) -> None:
        origin = LogOrigin(self._options.host, self._options.service, file.name, file.path)
        reader = LineReader(self._parse_timestamp, self.counts.reading, self._options.json_field)
        # Two runs over standard input are two sources; two runs over one file are the same one.
        source = f"{file.path}\0{uuid.uuid4().hex if file.is_standard_input else self._salt}"
        for number, group in enumerate(batches(reader.records(file), self._batch_records())):
            self.counts.books.enter(len(group))
            self._deliver(group, origin, file.modified_ns, f"{source}\0{number}")
            self.watch(file, self.counts)
            self._keep_pace()
        self.watch(file, self.counts)

    def _deliver(self, group: list[OutgoingRecord], origin: LogOrigin, observed_ns: int, source: str) -> None:
        body, books = export_request(group, origin, observed_ns), self.counts.books
        response, retried = self._post(body, idempotency_key(source, body))
        if response.status_code == 413 and len(group) > 1:
            middle = len(group) // 2
            self._deliver(group[:middle], origin, observed_ns, f"{source}\0first")
            self._deliver(group[middle:], origin, observed_ns, f"{source}\0second")
            return
        self.counts.bytes_sent += len(body)
        if response.status_code != 200:
            self.counts.reading.reject(f"the server answered {response.status_code}: {_reason(response)}", len(group))
            books.settle_rejected(len(group), f"status {response.status_code}", retried=retried)
            return
        refused, message = _partial_success(response)
        if refused:
            self.counts.reading.reject(message, refused)
            books.settle_rejected(refused, "partial success", retried=False)
        if receipt := response.headers.get("X-Receipt"):
            self._receipts.check(receipt, body, len(group) - refused)
            books.receipts += 1
        books.settle_stored(len(group) - refused, response.headers)

    def _post(self, body: bytes, key: str) -> tuple[httpx.Response, bool]:
        """The final answer to a batch, and whether an attempt before it failed in a way that may have stored it."""
        headers = {
            "Content-Type": PROTOBUF,
            "Content-Encoding": "gzip",
            "X-Idempotency-Key": key,
            RUN_HEADER: self.counts.books.run,
        }
        wait, waited, retried = _FIRST_WAIT_SECONDS, 0.0, False
        while True:
            asked_to_wait: float | None = None
            try:
                response = self._http.post("/v1/logs", content=body, headers=headers)
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            else:
                if response.status_code in _FATAL:
                    raise CommandError(f"the server answered {response.status_code}: {_reason(response)}")
                if response.status_code not in RETRYABLE:
                    return response, retried
                trouble = f"the server answered {response.status_code}: {_reason(response)}"
                asked_to_wait = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
            next_wait = wait * random.uniform(0.5, 1.0) if asked_to_wait is None else asked_to_wait  # noqa: S311 - jitter
            if waited + next_wait > self._options.patience_seconds:
                raise CommandError(f"gave up after waiting {waited:.0f} s: {trouble}")
            self.counts.retried += 1
            retried = True
            self._pause(next_wait)
            waited += next_wait
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    def _batch_records(self) -> int:
        """With a rate, batches of about a second at most, so that the stream is even."""
        rate = self._options.rate
        return BATCH_RECORDS if rate is None else max(1, min(BATCH_RECORDS, round(rate)))

    def _keep_pace(self) -> None:
        if self._options.rate is None:
            return
        ahead = self.counts.sent / self._options.rate - (time.monotonic() - self._began)
        if ahead > 0:
            self._pause(ahead)


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Seconds to wait from a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None when it has none."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _partial_success(response: httpx.Response) -> tuple[int, str]:
    """Records that the server can never take, and why (OTLP partial_success)."""
    try:
        partial = ExportLogsServiceResponse.FromString(response.content).partial_success
    except DecodeError as error:
        raise CommandError("the server's answer is no OTLP response: is this Trust SOC?") from error
    return partial.rejected_log_records, partial.error_message or "the server gave no reason"


def _reason(response: httpx.Response) -> str:
    """What an OTLP error says: a google.rpc.Status, problem details, or only the status line."""
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    message = ""
    if kind == PROTOBUF:
        try:
            message = Status.FromString(response.content).message
        except DecodeError:
            message = ""
    elif kind.endswith("json"):
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            message = str(answer.get("message") or answer.get("detail") or "")
    return message or response.reason_phrase or "no reason given"
