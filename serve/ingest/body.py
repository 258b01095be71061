"""Reading a request body within limits: the compressed size while it streams, the decompressed size while it inflates.

Declared sizes are hints; only what was read and inflated counts, so a bomb stops at the cap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from detect.inflate import BrokenGzip, OversizedBody, inflate
from serve.errors import WireError
from store.journal import Encoding


def content_encoding(header: str) -> Encoding:
    """The encoding that a Content-Encoding header names; raises WireError 415 for one that is not supported."""
    name = header.strip().lower()
    if name in {"", "identity"}:
        return "identity"
    if name in {"gzip", "x-gzip"}:
        return "gzip"
    raise WireError(415, f"Content-Encoding {header.strip()[:40]!r} is not supported: send gzip or no encoding")


def check_declared_length(header: str, limit: int) -> None:
    """Refuses early what says itself that it is too large; raises WireError 400 or 413."""
    if not header:
        return
    if not (header.isascii() and header.isdigit()):
        raise WireError(400, "Content-Length is not a number")
    if int(header) > limit:
        raise _too_large(limit, "compressed")


async def read_body(stream: AsyncIterator[bytes], limit: int) -> bytes:
    """The whole body; raises WireError 413 as soon as more than `limit` bytes have come."""
    parts: list[bytes] = []
    size = 0
    async for part in stream:
        size += len(part)
        if size > limit:
            raise _too_large(limit, "compressed")
        parts.append(part)
    return b"".join(parts)


def decompress(body: bytes, encoding: Encoding, limit: int) -> bytes:
    """The decoded body (RFC 1952 members may follow one another); raises WireError 400 or 413."""
    if encoding == "identity":
        if len(body) > limit:
            raise _too_large(limit, "decompressed")
        return body
    try:
        return inflate(body, limit)
    except OversizedBody as error:
        raise _too_large(limit, "decompressed") from error
    except BrokenGzip as error:
        raise WireError(400, f"{error}: send the whole body, compressed once") from error


def _too_large(limit: int, what: str) -> WireError:
    return WireError(413, f"the {what} body is larger than {limit} bytes: send smaller batches")
