"""Answers in Elasticsearch's terms: what a stored, a refused and an unknown thing looks like to its clients. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from serve.errors import JSON, WireAnswer, WireError
from serve.ingest.bulk_request import BulkItem

_PRODUCT: Final = {"X-Elastic-Product": "Elasticsearch"}  # clients from 7.14 on talk to nobody without it
_CHALLENGE: Final = 'Basic realm="Trust SOC", ApiKey, Bearer realm="Trust SOC"'
_UNNAMED_INDEX: Final = "logs"
_MOST_PATHS: Final = 50

_ERROR_TYPES: Final[Mapping[int, str]] = {
    400: "illegal_argument_exception",
    401: "security_exception",
    403: "security_exception",
    404: "resource_not_found_exception",
    405: "method_not_allowed_exception",
    413: "content_too_long_exception",
    415: "media_type_header_exception",
    429: "es_rejected_execution_exception",
    503: "unavailable_shards_exception",
}


def answered(body: object, headers: Mapping[str, str] | None = None, *, status: int = 200) -> WireAnswer:
    """A JSON answer that clients of Elasticsearch accept."""
    return WireAnswer(status, JSON, orjson.dumps(body), {**_PRODUCT, **(headers or {})})


def refused(error: WireError) -> WireAnswer:
    """A refusal of the whole request; with Retry-After where the trouble will pass."""
    cause = {"type": _ERROR_TYPES.get(error.status, "exception"), "reason": error.detail}
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = _CHALLENGE
    body = {"error": {"root_cause": [cause], **cause}, "status": error.status}
    return answered(body, headers, status=error.status)


def bulk_answer(items: Sequence[BulkItem], seq: int, took_ms: int, paths: str) -> dict[str, Any]:
    """The answer to a bulk request whose records are batch `seq`.

    A document's `_seq_no` is the batch's seq, its `_id` the sender's or else the record's own id (`seq-position`), by
    which /api/logs finds it. `paths` is the request's `filter_path`, which senders use to keep answers small.
    """
    body = {
        "took": took_ms,
        "errors": any(item.fault is not None for item in items),
        "items": [{item.action: _item(item, seq)} for item in items],
    }
    return filtered(body, paths)


def _item(item: BulkItem, seq: int) -> dict[str, Any]:
    index = item.index or _UNNAMED_INDEX
    if item.fault is not None:
        kind, reason = item.fault
        return {
            "_index": index,
            "_id": item.id or None,
            "status": 400,
            "error": {"type": kind, "reason": reason},
        }
    return {
        "_index": index,
        "_id": item.id or f"{seq}-{item.position}",
        "_version": 1,
        "result": "created",
        "_shards": {"total": 1, "successful": 1, "failed": 0},
        "_seq_no": seq,
        "_primary_term": 1,
        "status": 201,
    }


def filtered(body: dict[str, Any], paths: str) -> dict[str, Any]:
    """The parts of the answer that `filter_path` names (dots, and `*` for any one key).

    An exclusion (`-a.b`), `**` or a partial wildcard leaves the answer whole: more than was asked for is no error.
    """
    stated = [path.strip() for path in paths.split(",") if path.strip()]
    if not stated or len(stated) > _MOST_PATHS:
        return body
    steps = [path.split(".") for path in stated]
    if any(path.startswith("-") for path in stated) or any("*" in s and s != "*" for path in steps for s in path):
        return body
    kept = _kept(body, steps)
    return kept if isinstance(kept, dict) else {}


def _kept(value: Any, paths: list[list[str]]) -> Any:
    """The value's parts under the paths; None when there are none."""
    if isinstance(value, list):
        return [part for item in value if (part := _kept(item, paths)) is not None] or None
    if not isinstance(value, dict):
        return None
    kept = {}
    for key, item in value.items():
        rest = [path[1:] for path in paths if path[0] in (key, "*")]
        if not rest:
            continue
        part = item if any(not path for path in rest) else _kept(item, rest)
        if part is not None:
            kept[key] = part
    return kept or None
