"""The books of one `trustsoc send`: what became of every record, and the proof of it.

The run begins with the command. Each record that was read is in exactly one count at any moment, as the loss ledger's
equations ask (serve/ingest/balance.py); at the end they are stated to the server, which says whether its own agree.
"""

from __future__ import annotations

import gzip
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx

from cluster.command_error import CommandError
from serve.ingest.balance import LEDGER_PATH
from serve.ingest.receipts import JWKS_PATH, InvalidReceipt, ReceiptKeyError, verify_receipt

RUN_HEADER = "X-Agent-Run"


def new_run() -> str:
    """A name that no other run has."""
    return f"send-{secrets.token_hex(8)}"


@dataclass
class SendBooks:
    """In records, cumulative. `receipts` counts the verified ones; `verdict` is the server's, or why there is none."""

    run: str = field(default_factory=new_run)
    accepted: int = 0
    stored: int = 0
    duplicate: int = 0
    elsewhere: int = 0
    unsettled: int = 0
    in_flight: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    seen_seq: int = 0
    receipts: int = 0
    verdict: str = "not stated"
    gap: bool = False

    @property
    def answered(self) -> int:
        """Records with a final answer."""
        return self.stored + self.duplicate + sum(self.rejected.values())

    def enter(self, records: int) -> None:
        """Records were read and are about to be sent."""
        self.accepted += records
        self.in_flight += records

    def settle_stored(self, records: int, answer: httpx.Headers) -> None:
        """A batch was acknowledged, as new or as a duplicate."""
        self.in_flight -= records
        self.seen_seq = max(self.seen_seq, int(answer.get("X-Batch-Seq", "0")))
        if answer.get("X-Batch-Duplicate") != "true":
            self.stored += records
            return
        self.duplicate += records
        if answer.get("X-Batch-Elsewhere") == "true":
            self.elsewhere += records

    def settle_rejected(self, records: int, reason: str, *, retried: bool) -> None:
        """Records were refused for ever; after a retry an earlier attempt may have stored them all the same."""
        self.in_flight -= records
        self.rejected[reason] = self.rejected.get(reason, 0) + records
        if retried:
            self.unsettled += records

    def statement(self) -> dict[str, Any]:
        """The body of a statement."""
        counts = ("accepted", "stored", "duplicate", "elsewhere", "unsettled", "in_flight", "rejected", "seen_seq")
        return {"run": self.run} | {name: getattr(self, name) for name in counts}

    def state(self, http: httpx.Client) -> None:
        """Tells the server, and keeps what it says. A server that cannot be asked now changes nothing of the books."""
        try:
            answer = http.post(LEDGER_PATH, json=self.statement())
            said = answer.json() if answer.is_success else None
        except (httpx.HTTPError, ValueError) as error:
            self.verdict = f"not stated: {str(error) or type(error).__name__}"
            return
        if not isinstance(said, dict):
            self.verdict = f"not stated: the server answered {answer.status_code}"
            return
        self.gap = not said.get("balanced")
        self.verdict = f"does not balance: {said.get('detail')}" if self.gap else "balanced"


class ReceiptCheck:
    """Verifies receipts against the server's public keys, which are fetched when the first one comes."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._keys: Any = None

    def check(self, text: str, body: bytes, records: int) -> None:
        """Raises CommandError unless the receipt is signed and speaks of this gzip body and so many records."""
        known = self._keys is not None
        self._keys = self._keys or self._fetch()
        try:
            receipt = verify_receipt(text, self._keys)
        except (InvalidReceipt, ReceiptKeyError) as error:
            if known:  # the server may have a new key since
                self._keys = None
                return self.check(text, body, records)
            raise CommandError(f"the server's receipt is not good: {error}") from error
        if (receipt.digest, receipt.records) != (hashlib.sha256(gzip.decompress(body)).hexdigest(), records):
            raise CommandError(
                f"the server's receipt is of another batch: it says {receipt.records} records with SHA-256 "
                f"{receipt.digest}, sent were {records}"
            )
        return None

    def _fetch(self) -> Any:
        try:
            return self._http.get(JWKS_PATH).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise CommandError(
                f"the server's receipts cannot be verified: its public keys are missing ({error})"
            ) from (error)
