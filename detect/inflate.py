"""Inflating bodies under a cap: gzip (RFC 1952), deflate (RFC 1950, or bare RFC 1951) and Zstandard (RFC 8878).

What is read decides; declared sizes are hints. Input is taken in small steps, so that neither a bomb nor a body of a
million tiny frames costs more memory than the cap or more time than its bytes.
"""

from __future__ import annotations

import re
import zlib
from typing import Final, Literal, assert_never

import zstandard

BodyEncoding = Literal["identity", "gzip", "deflate", "zstd"]

MOST_FRAMES: Final = 100_000
"""Gzip members or zstd frames in one body; a sender that flushes after every record stays far below."""

_FIRST_STEP = 1024
_LARGEST_STEP = 1 << 18
_LARGEST_OUTPUT = 8 << 20
# One KiB of zstd can hold 256 blocks of 128 KiB, so this bounds what one step gives before the cap is looked at.
_ZSTD_STEP = 1024
_ZSTD_LEAST_WINDOW = 8 << 20  # what RFC 8878 asks every decoder to support
_ZSTD_LARGEST_WINDOW = 128 << 20
_GZIP, _ZLIB, _BARE = 31, 15, -15  # wbits
_PADDING = re.compile(rb"\0*")


class OversizedBody(ValueError):
    """The output would pass the cap."""


class BrokenBody(ValueError):
    """The input is not what its encoding says, or ends before its end."""


def inflate(body: bytes, encoding: BodyEncoding, limit: int) -> bytes:
    """The body without its encoding, at most `limit` bytes; gzip members and zstd frames may follow one another.

    Raises OversizedBody or BrokenBody.
    """
    match encoding:
        case "identity":
            if len(body) > limit:
                raise OversizedBody(f"the body has more than {limit} bytes")
            return body
        case "gzip":
            return _inflate_gzip(body, limit)
        case "deflate":
            return _inflate_deflate(body, limit)
        case "zstd":
            return _inflate_zstd(body, limit)
        case _:
            assert_never(encoding)


class _Output:
    """What has come out so far, never more than the cap."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._parts: list[bytes] = []

    @property
    def room(self) -> int:
        """How much may be asked for in one step: up to one byte more than the cap allows."""
        return min(_LARGEST_OUTPUT, self._limit - self._size + 1)

    def add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise OversizedBody(f"the body inflates to more than {self._limit} bytes")
        self._parts.append(part)

    def whole(self) -> bytes:
        return b"".join(self._parts)


def _inflate_gzip(body: bytes, limit: int) -> bytes:
    output = _Output(limit)
    position = 0
    frames = 0
    while position < len(body):
        frames = _one_more(frames)
        position = _zlib_frame(body, position, _GZIP, output, "gzip")
        position = _end_of_padding(body, position)
    return output.whole()


def _end_of_padding(body: bytes, position: int) -> int:
    # Tapes and block devices pad with zeros, and gzip readers have always let them.
    padding = _PADDING.match(body, position)
    return padding.end() if padding else position


def _inflate_deflate(body: bytes, limit: int) -> bytes:
    if not body:
        return b""
    output = _Output(limit)
    # RFC 9110 means the zlib format; senders of bare deflate exist, and only the header tells them apart.
    wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    end = _zlib_frame(body, 0, _ZLIB if wrapped else _BARE, output, "deflate")
    if end < len(body):
        raise BrokenBody(f"the body goes on for {len(body) - end} bytes after the end of its deflate data")
    return output.whole()


def _zlib_frame(body: bytes, position: int, wbits: int, output: _Output, name: str) -> int:
    """Inflates one stream that begins at `position`; where it ends."""
    inflater = zlib.decompressobj(wbits=wbits)
    view = memoryview(body)
    step = _FIRST_STEP
    while not inflater.eof:
        piece: bytes | memoryview = inflater.unconsumed_tail
        if not piece:
            piece = view[position : position + step]
            position += len(piece)
            step = min(2 * step, _LARGEST_STEP)
        try:
            part = inflater.decompress(piece, output.room)
        except zlib.error as error:
            raise BrokenBody(f"the body is not valid {name}: {error}") from error
        if not part and not piece and not inflater.eof:
            raise BrokenBody(f"the {name} body ends before its end")
        output.add(part)
    return position - len(inflater.unused_data)


def _inflate_zstd(body: bytes, limit: int) -> bytes:
    output = _Output(limit)
    window = min(max(limit, _ZSTD_LEAST_WINDOW), _ZSTD_LARGEST_WINDOW)
    decompressor = zstandard.ZstdDecompressor(max_window_size=window)
    position = 0
    frames = 0
    while position < len(body):
        frames = _one_more(frames)
        position = _zstd_frame(decompressor, body, position, output)
    return output.whole()


def _zstd_frame(decompressor: zstandard.ZstdDecompressor, body: bytes, position: int, output: _Output) -> int:
    frame = decompressor.decompressobj()
    view = memoryview(body)
    while not frame.eof:
        piece = view[position : position + _ZSTD_STEP]
        if not piece:
            raise BrokenBody("the zstd body ends before its end")
        position += len(piece)
        try:
            output.add(frame.decompress(piece))
        except zstandard.ZstdError as error:
            raise BrokenBody(f"the body is not valid zstd: {error}") from error
    return position - len(frame.unused_data)


def _one_more(frames: int) -> int:
    if frames >= MOST_FRAMES:
        raise BrokenBody(f"the body has more than {MOST_FRAMES} frames")
    return frames + 1
