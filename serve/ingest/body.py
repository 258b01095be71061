"""Reading a request body within limits: the size as sent while it streams, the decompressed size while it inflates.

Declared sizes are hints; only what was read and inflated counts, so a bomb stops at the cap.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from detect.batch import BatchKind
from detect.inflate import BrokenBody, OversizedBody, inflate
from detect.otlp import UndecodableBatch, count_records
from serve.errors import WireAnswer, WireError
from store.journal import Encoding

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

ACCEPTED_ENCODINGS: Final = "gzip, zstd, deflate"
_ENCODINGS: Final[dict[str, Encoding]] = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "zlib": "deflate",  # what collectors call it
    "zstd": "zstd",
}
_ON_THE_LOOP = 1 << 20  # what may be inflated and parsed between two other requests: about 5 ms
_WORTH_COMPRESSING = 512  # bytes; below, the answer fits the first packet anyway


def content_encoding(header: str) -> Encoding:
    """The encoding that a Content-Encoding header names; raises WireError 415 for one that is not supported."""
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not names:
        return "identity"
    encoding = _ENCODINGS.get(names[0]) if len(names) == 1 else None
    if encoding is None:
        raise WireError(
            415, f"Content-Encoding {header.strip()[:40]!r} is not supported: send {ACCEPTED_ENCODINGS} or no encoding"
        )
    return encoding


def check_declared_length(header: str, limit: int) -> int | None:
    """The size that Content-Length declares; refuses early what says itself that it is too large (400 or 413)."""
    if not header:
        return None
    if not (header.isascii() and header.isdigit()):
        raise WireError(400, "Content-Length is not a number")
    if int(header) > limit:
        raise too_large(limit, "compressed")
    return int(header)


async def read_body(stream: AsyncIterator[bytes], limit: int, declared: int | None = None) -> bytes:
    """The whole body. Raises WireError 413 as soon as more than `limit` bytes have come.

    A body that ends early is 503 (`broken_off`): nobody knows what the rest was, so nothing of it may be kept, and a
    sender that is still there keeps its data. More than was declared is 400.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in stream:
            size += len(part)
            if size > limit:
                raise too_large(limit, "compressed")
            parts.append(part)
    except ClientDisconnect as error:
        raise _broken_off(size) from error
    if declared is not None and size < declared:
        raise _broken_off(size)
    if declared is not None and size > declared:
        raise WireError(400, f"the body has {size} bytes where Content-Length says {declared}")
    return b"".join(parts)


def parsed(model: type[M], body: bytes) -> M:
    """The body as that model. Raises WireError 422, which names what is wrong with it and where."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False)) from error


def invalid_fields(faults: Iterable[Mapping[str, Any]]) -> WireError:
    """The refusal of a request whose fields are not what they must be, as pydantic says."""
    parts = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
    return WireError(422, "; ".join(parts)[:1000])


def _broken_off(size: int) -> WireError:
    detail = f"the body broke off after {size} bytes: send it again"
    return WireError(503, detail, retry_after_s=1, reason="broken_off")


def decompress(body: bytes, encoding: Encoding, limit: int) -> bytes:
    """The decoded body (gzip members and zstd frames may follow one another); raises WireError 400 or 413."""
    try:
        return inflate(body, encoding, limit)
    except OversizedBody as error:
        raise too_large(limit, "decompressed") from error
    except BrokenBody as error:
        raise WireError(400, f"{error}: send the whole body, compressed once") from error


async def read_out(body: bytes, encoding: Encoding, limit: int, parse: Callable[[bytes], T]) -> T:
    """`parse` of the decompressed body. What is large, sent or inflated, is worked on beside the event loop.

    Raises WireError 400 or 413, and whatever `parse` raises.
    """
    on_the_loop = min(limit, _ON_THE_LOOP)
    # A trial under a small cap, unless it would most likely be in vain: logs shrink to a seventh or less.
    if len(body) <= (on_the_loop if encoding == "identity" else _ON_THE_LOOP // 7):
        try:
            plain = inflate(body, encoding, on_the_loop)
        except (OversizedBody, BrokenBody):
            pass  # decided below: under the real limit, beside the loop
        else:
            return parse(plain)
    return await asyncio.to_thread(lambda: parse(decompress(body, encoding, limit)))


def digest_of(plain: bytes) -> bytes:
    """SHA-256 of a body after decompression: a retry that its sender compresses anew is still the same body.

    A gzip header holds the time of compression, so some exporters never send the same bytes twice.
    """
    return hashlib.sha256(plain).digest()


async def examine(body: bytes, encoding: Encoding, kind: BatchKind, limit: int) -> tuple[int, bytes]:
    """How many records an export request has, after a full check, and its digest; raises WireError 400 or 413."""
    try:
        return await read_out(body, encoding, limit, lambda plain: (count_records(kind, plain), digest_of(plain)))
    except UndecodableBatch as error:
        raise WireError(400, str(error), field=error.field) from error


def compressed_answer(answer: WireAnswer, accept_encoding: str) -> WireAnswer:
    """The answer gzipped, if the client said that it reads gzip and there is something to win."""
    if len(answer.body) < _WORTH_COMPRESSING or not accepts_gzip(accept_encoding):
        return answer
    headers = answer.headers | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return replace(answer, body=gzip.compress(answer.body, mtime=0), headers=headers)


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header (RFC 9110, 12.5.3) allows gzip; without a header the answer stays plain."""
    qualities: dict[str, bool] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        qualities[name] = not any(_is_zero_quality(parameter) for parameter in parameters)
    for name in ("gzip", "x-gzip", "*"):
        if name in qualities:
            return qualities[name]
    return False


def _is_zero_quality(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in {"", ".", "0."}


def too_large(limit: int, what: str) -> WireError:
    """The refusal of a body over one of the two limits."""
    return WireError(413, f"the {what} body is larger than {limit} bytes: send smaller batches")
