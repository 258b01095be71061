"""What the listener answers, as OTLP/HTTP asks: in the type of the request, errors as google.rpc.Status.

A collector drops its data on 400, 401 and 500, so what will pass, or can be mended, is always 503 with Retry-After.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

from agent.forwarder.batch import MEDIA_TYPES, BodyKind

ACCEPTED_ENCODINGS: Final = "gzip, zstd, deflate"

# google.rpc.Code (googleapis google/rpc/code.proto) by HTTP status.
_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 12, 405: 12, 413: 8, 415: 3, 422: 9, 503: 14}
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_LONGEST_DETAIL = 500


class Refusal(Exception):
    """An answer other than success. What will pass (503) says when to come back, in seconds."""

    def __init__(self, status: int, reason: str, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.retry_after_s = 1 if retry_after_s is None and status == 503 else retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the sender."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def success(kind: BodyKind) -> Answer:
    """The batch is durable: an ExportLogsServiceResponse without partial_success."""
    return Answer(200, b"{}" if kind == "json" else b"", {"content-type": MEDIA_TYPES[kind]})


def refused(refusal: Refusal, kind: BodyKind) -> Answer:
    """The google.rpc.Status of a refusal, under 4 KiB."""
    detail = str(refusal).encode("utf-8", "replace")[:_LONGEST_DETAIL].decode("utf-8", "ignore")
    headers = {"content-type": MEDIA_TYPES[kind]}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["www-authenticate"] = 'Bearer realm="trustsoc-forwarder"'
    if refusal.status == 405:
        headers["allow"] = "POST"
    if refusal.status == 415:
        headers["accept-encoding"] = ACCEPTED_ENCODINGS
    code = _CODES.get(refusal.status, 13)
    if kind == "json":
        return Answer(refusal.status, _json_status(code, detail, refusal.retry_after_s), headers)
    return Answer(refusal.status, _protobuf_status(code, detail, refusal.retry_after_s), headers)


def _json_status(code: int, detail: str, retry_after_s: int | None) -> bytes:
    status: dict[str, object] = {"code": code, "message": detail}
    if retry_after_s is not None:
        status["details"] = [{"@type": _RETRY_INFO, "retryDelay": f"{retry_after_s}s"}]
    return json.dumps(status).encode()


def _protobuf_status(code: int, detail: str, retry_after_s: int | None) -> bytes:
    """Status{code = 1, message = 2, details = 3: Any{type_url = 1, value = 2}}, written by hand: the message classes
    come with a package that is larger than this program."""
    status = b"\x08" + _varint(code) + _chunk(2, detail.encode())
    if retry_after_s is not None:
        delay = _chunk(1, b"\x08" + _varint(retry_after_s))  # RetryInfo{retry_delay = 1: Duration{seconds = 1}}
        status += _chunk(3, _chunk(1, _RETRY_INFO.encode()) + _chunk(2, delay))
    return status


def _chunk(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
