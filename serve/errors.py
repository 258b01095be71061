"""Domain errors and the one table that maps them to the wire: google.rpc.Status for OTLP, RFC 9457 elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


class WireError(Exception):
    """An answer other than success. `status` is HTTP's, `detail` says what is wrong and what to do next.

    What will pass (429, 503) always tells when to come back. `field` names what of the request is wrong, if known.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after_s: int | None = None, reason: str = "", field: str = ""
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = 1 if retry_after_s is None and status in {429, 503} else retry_after_s
        self.reason = reason or _REASONS.get(status, "internal")
        self.field = field
        self.account: object = None  # in whose books the refusal counts (serve.ingest.intake.Account)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later, so that a sender keeps its data."""
        return self.status in _RETRYABLE


# The counter label of a rejected request and the google.rpc.Code of its Status body (googleapis google/rpc/code.proto).
_REASONS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "wrong_method",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media",
    422: "invalid",
    429: "rate_limited",
    503: "unavailable",
}
_RETRYABLE = frozenset({429, 502, 503, 504})
_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    409: Code.ALREADY_EXISTS,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """What goes back to the client."""

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str]


# Collectors up to 2026 read no more than 64 KiB of an answer and then retry for ever; ours stay under 4 KiB. Detail and
# description are each at most this long, and JSON or percent-encoding at most trebles them.
_LONGEST_DETAIL = 500
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def otlp_error(error: WireError, content_type: str) -> WireAnswer:
    """A google.rpc.Status in the encoding of the request, as OTLP/HTTP asks for every 4xx and 5xx."""
    status = rpc_status(error)
    if content_type == JSON:
        body = orjson.dumps(_status_as_json(status))
    else:
        content_type, body = PROTOBUF, status.SerializeToString()
    return WireAnswer(error.status, content_type, body, _headers(error))


def rpc_status(error: WireError) -> Any:
    """The google.rpc.Status: with RetryInfo for what will pass, with BadRequest for what never will.

    RESOURCE_EXHAUSTED without RetryInfo is final by the OTLP specification, so 413 has none and 429 always has.
    """
    detail = _shortened(error.detail)
    status = Status(code=_CODES.get(error.status, Code.INTERNAL), message=detail)
    if error.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.seconds = error.retry_after_s
        status.details.add().Pack(retry)
    elif error.status == 400:
        violation = BadRequest.FieldViolation(field=_shortened(error.field)[:100], description=detail)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    return status


def _status_as_json(status: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"code": status.code, "message": status.message}
    if status.details:
        shown["details"] = [MessageToDict(detail) for detail in status.details]
    return shown


def _shortened(text: str) -> str:
    plain = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace")
    return plain[:_LONGEST_DETAIL].decode("utf-8", "ignore")


def problem(error: WireError) -> WireAnswer:
    """RFC 9457 problem details."""
    body = {
        "type": f"urn:trustsoc:problem:{error.reason.replace('_', '-')}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
    }
    return WireAnswer(error.status, "application/problem+json", orjson.dumps(body), _headers(error))


def _headers(error: WireError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Trust SOC"'
    return headers
