"""Inflating gzip (RFC 1952) under a cap: what is read decides, declared sizes are hints."""

from __future__ import annotations

import zlib

_STEP = 1 << 20


class OversizedBody(ValueError):
    """The output would pass the cap."""


class BrokenGzip(ValueError):
    """The input is not gzip, or ends before its end."""


def inflate(body: bytes, limit: int) -> bytes:
    """The decompressed body of at most `limit` bytes; members may follow one another. Memory stays within the cap."""
    parts: list[bytes] = []
    size = 0
    rest = body
    while rest:
        inflater = zlib.decompressobj(wbits=31)
        while not inflater.eof:
            try:
                part = inflater.decompress(rest, min(_STEP, limit - size + 1))
            except zlib.error as error:
                raise BrokenGzip(f"the body is not valid gzip: {error}") from error
            rest = inflater.unconsumed_tail
            size += len(part)
            if size > limit:
                raise OversizedBody(f"the body inflates to more than {limit} bytes")
            if not part and not rest and not inflater.eof:
                raise BrokenGzip("the gzip body ends before its end")
            parts.append(part)
        rest = inflater.unused_data.lstrip(b"\0")
    return b"".join(parts)
