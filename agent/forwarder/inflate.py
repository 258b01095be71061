"""Inflating request bodies under a cap, without trusting what they declare: a bomb stops at the cap."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any, Final

from agent.forwarder.batch import BodyEncoding

MOST_FRAMES: Final = 100_000
"""Gzip members or zstd frames in one body."""

_GZIP = 31  # wbits
_PADDING = re.compile(rb"\0*")
_STEP = 64 * 1024
_FIRST_STEP = 1024
_LARGEST_OUTPUT = 4 << 20
# One KiB of zstd can hold 256 blocks of 128 KiB, so this bounds what one step gives before the cap is looked at.
_ZSTD_STEP = 1024
_ZSTD_LEAST_WINDOW, _ZSTD_LARGEST_WINDOW = 8 << 20, 128 << 20


class OversizedBody(ValueError):
    """The body inflates to more than the cap."""


class BrokenBody(ValueError):
    """The body is not what its encoding says, or ends before its end."""


def inflate(body: bytes, encoding: BodyEncoding, limit: int) -> bytes:
    """The body without its encoding, at most `limit` bytes. Raises OversizedBody or BrokenBody."""
    if encoding == "identity":
        return _within(body, len(body), limit)
    if encoding == "gzip":
        return _frames(body, limit, "gzip", lambda position, room: _zlib_frame(body, position, room, _GZIP))
    if encoding == "deflate":
        # RFC 9110 means the zlib format (RFC 1950); bare deflate has no header to tell it by, so it is told by this.
        wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        wbits = 15 if wrapped else -15
        return _frames(body, limit, "deflate", lambda position, room: _zlib_frame(body, position, room, wbits))
    import zstandard

    window = min(max(limit, _ZSTD_LEAST_WINDOW), _ZSTD_LARGEST_WINDOW)
    decompressor = zstandard.ZstdDecompressor(max_window_size=window)
    try:
        return _frames(body, limit, "zstd", lambda position, room: _zstd_frame(decompressor, body, position, room))
    except zstandard.ZstdError as error:
        raise BrokenBody(f"the body is not valid zstd: {error}") from error


def _frames(body: bytes, limit: int, name: str, frame: Callable[[int, int], tuple[bytes, int]]) -> bytes:
    """All frames of a body one after the other; `frame` reads the one at a position, within the room that is left."""
    parts: list[bytes] = []
    size = position = 0
    while position < len(body):
        if len(parts) >= MOST_FRAMES:
            raise BrokenBody(f"the {name} body has more than {MOST_FRAMES} frames")
        try:
            part, position = frame(position, limit - size)
        except zlib.error as error:
            raise BrokenBody(f"the body is not valid {name}: {error}") from error
        except EOFError as error:
            raise BrokenBody(f"the {name} body ends before its end") from error
        size += len(part)
        parts.append(part)
        if name == "deflate" and position < len(body):
            raise BrokenBody(f"the body goes on for {len(body) - position} bytes after the end of its deflate data")
        if name == "gzip":
            position = _end_of_padding(body, position)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _end_of_padding(body: bytes, position: int) -> int:
    # Tapes and block devices pad with zeros, and gzip readers have always let them.
    padding = _PADDING.match(body, position)
    return padding.end() if padding else position


def _zlib_frame(body: bytes, position: int, room: int, wbits: int) -> tuple[bytes, int]:
    inflater = zlib.decompressobj(wbits=wbits)
    view = memoryview(body)
    parts: list[bytes] = []
    size, step = 0, _FIRST_STEP
    while not inflater.eof:
        piece: bytes | memoryview = inflater.unconsumed_tail
        if not piece:
            piece = view[position : position + step]
            position += len(piece)
            step = min(2 * step, _STEP)
        part = inflater.decompress(piece, min(_LARGEST_OUTPUT, room - size + 1))
        if not part and not piece and not inflater.eof:
            raise EOFError
        size += len(part)
        parts.append(_within(part, size, room))
    return b"".join(parts), position - len(inflater.unused_data)


def _zstd_frame(decompressor: Any, body: bytes, position: int, room: int) -> tuple[bytes, int]:
    frame = decompressor.decompressobj()
    view = memoryview(body)
    parts: list[bytes] = []
    size = 0
    while not frame.eof:
        piece = view[position : position + _ZSTD_STEP]
        if not piece:
            raise EOFError
        position += len(piece)
        part = frame.decompress(piece)
        size += len(part)
        parts.append(_within(part, size, room))
    return b"".join(parts), position - len(frame.unused_data)


def _within(part: bytes, size: int, limit: int) -> bytes:
    if size > limit:
        raise OversizedBody("the body inflates to more than is allowed")
    return part
