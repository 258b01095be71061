"""The newest receipts, kept as they came: signed proof of what the server took (`trustsoc receipt verify`)."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections import deque
from pathlib import Path
from typing import Any

from agent.spool_files import write_whole

logger = logging.getLogger("agent.forwarder.receipts")


class Receipts:
    """The newest `most` receipts, one line of JSON each in the file. They are a convenience: any of them can be had
    again by repeating its batch, so they are written without fsync, and the file is cut when it has doubled."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._lock = threading.Lock()
        self._newest: deque[str] = deque(maxlen=max(1, most))
        self._written = 0
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._newest.extend(line for line in text.splitlines() if _is_entry(line))
            # After a torn line the next one would be torn as well: then the file is written anew.
            self._written = text.count("\n") if text.endswith("\n") else 2 * most

    def keep(self, key: str, seq: int, receipt: str) -> None:
        """Adds one; trouble with the file is logged and costs no more than the receipt."""
        line = json.dumps({"batch": key, "seq": seq, "receipt": receipt})
        with self._lock:
            self._newest.append(line)
            try:
                if self._written >= 2 * self._most:
                    write_whole(self._path, "".join(f"{kept}\n" for kept in self._newest).encode())
                    self._written = len(self._newest)
                else:
                    with self._path.open("a", encoding="utf-8") as file:
                        file.write(f"{line}\n")
                    self._written += 1
            except OSError as error:
                logger.warning("a receipt is not kept: %s", error)

    def newest(self) -> dict[str, Any] | None:
        """The last one, for `status`."""
        with self._lock:
            return dict(json.loads(self._newest[-1])) if self._newest else None


def _is_entry(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def agrees(receipt: str, digest: bytes, records: int) -> bool:
    """Whether a receipt speaks of this body and count. Its signature is for whoever checks it later."""
    try:
        encoded = receipt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        return bool(claims["digest"] == digest.hex() and claims["records"] == records)
    except (ValueError, IndexError, KeyError, TypeError):
        return False
