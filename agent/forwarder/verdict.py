"""What an answer means for its batch. Pure: nothing is lost because somebody in between had something to say.

Only the server's own answers can end a batch's way. They carry its time (X-Server-Time); a 200 also says where the
batch stands in the journal (X-Batch-Seq). Whatever lacks these comes from a proxy, a captive portal or another
program, and is repeated whatever its status is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias

from agent.contract import SERVER_TIME_HEADER

LONGEST_RETRY_AFTER_S: Final = 3600.0

_MOMENT = re.compile(r"[1-9][0-9]{12}", re.ASCII).fullmatch
_SEQ = re.compile(r"[1-9][0-9]{0,18}", re.ASCII).fullmatch
_FINAL = frozenset({400, 413, 415, 422})
_DENIED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Stored:
    """The batch is durable on the server."""

    seq: int
    duplicate: bool
    elsewhere: bool
    receipt: str


@dataclass(frozen=True, slots=True)
class Poison:
    """The server will never take this batch."""

    status: int


@dataclass(frozen=True, slots=True)
class SignAgain:
    """The nonce was used: this request is done, its batch is not."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The server does not know who sends: keep everything, and come back seldom."""

    status: int


@dataclass(frozen=True, slots=True)
class Later:
    """Nobody knows, or not now. `after_s` is what the answer asked for; `ours` says that the server itself did."""

    reason: str
    after_s: float | None
    ours: bool


Verdict: TypeAlias = Stored | Poison | SignAgain | Denied | Later


def judge(status: int, headers: Mapping[str, str], now_s: float) -> Verdict:
    """The meaning of an answer to a batch; `headers` have names in lower case, `now_s` is since the epoch."""
    # A moment is one of the clock that states it, and this host's may be an hour off.
    stated_s = _moment(headers.get("date", ""))
    after_s = retry_after(headers.get("retry-after", ""), now_s if stated_s is None else stated_s)
    if server_time(headers) is None:
        return Later(f"foreign_{status}", after_s, ours=False)
    if status == 200:
        seq = headers.get("x-batch-seq", "")
        duplicate = headers.get("x-batch-duplicate", "")
        if _SEQ(seq) is None or duplicate not in {"true", "false"}:
            return Later("foreign_200", after_s, ours=False)
        elsewhere = duplicate == "true" and headers.get("x-batch-elsewhere") == "true"
        return Stored(int(seq), duplicate == "true", elsewhere, headers.get("x-receipt", ""))
    if status in _FINAL:
        return Poison(status)
    if status in _DENIED:
        return Denied(status)
    if status == 409:
        return SignAgain()
    return Later(f"server_{status}", after_s, ours=True)


def server_time(headers: Mapping[str, str]) -> int | None:
    """The server's time in the answer, in ms since the epoch; None marks an answer that is not the server's."""
    stated = headers.get(SERVER_TIME_HEADER.lower(), "")
    return int(stated) if _MOMENT(stated) else None


def retry_after(header: str, now_s: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3), an hour at most; None without a proper one."""
    if header.isascii() and header.isdigit():
        return min(float(header[:9]), LONGEST_RETRY_AFTER_S)
    moment = _moment(header)
    return None if moment is None else min(max(0.0, moment - now_s), LONGEST_RETRY_AFTER_S)


def _moment(header: str) -> float | None:
    try:
        return parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
