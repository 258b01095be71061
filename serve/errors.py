"""Domain errors and the one table that maps them to the wire: google.rpc.Status for OTLP, RFC 9457 elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import orjson
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


class WireError(Exception):
    """An answer other than success. `status` is HTTP's, `detail` says what is wrong and what to do next."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None, reason: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.reason = reason or _REASONS.get(status, "internal")


# The counter label of a rejected request and the google.rpc.Code of its Status body (googleapis google/rpc/code.proto).
_REASONS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media",
    422: "invalid",
    429: "rate_limited",
    503: "unavailable",
}
_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
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


def otlp_error(error: WireError, content_type: str) -> WireAnswer:
    """A google.rpc.Status in the encoding of the request, as OTLP/HTTP asks for every 4xx and 5xx."""
    status = Status(code=_CODES.get(error.status, Code.INTERNAL), message=error.detail[:2000])
    if content_type == JSON:
        body = orjson.dumps({"code": status.code, "message": status.message})
    else:
        content_type, body = PROTOBUF, status.SerializeToString()
    return WireAnswer(error.status, content_type, body, _headers(error))


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
