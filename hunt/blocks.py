"""A file's content in blocks of whole lines, so that one block can be judged without the others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

BLOCK_BYTES: Final = 1 << 17
"""Small enough to stay in a processor's cache between reading and parsing, which is worth a third of the time."""
LONGEST_LINE: Final = 64 << 20
"""Bytes of a line that is still judged."""

_UTF8_MARK = b"\xef\xbb\xbf"


class Block(msgspec.Struct, frozen=True, gc=False):
    """Lines as bytes. `overlong` lines follow them that were skipped, being longer than LONGEST_LINE."""

    data: bytes
    overlong: int = 0


class Readable(Protocol):
    """What blocks need of a file."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


def line_blocks(content: Readable, size: int = BLOCK_BYTES, longest: int = LONGEST_LINE) -> Iterator[Block]:
    """The content cut after line ends, in blocks of about `size` bytes; a longer line makes a longer block.

    What reading raises comes after all that could be read, the line that it cut included.
    """
    rest: list[bytes] = []
    length = 0
    first = True
    try:
        while piece := content.read(size):
            if first:
                piece, first = piece.removeprefix(_UTF8_MARK), False
            end = piece.rfind(b"\n") + 1
            if end:
                data = b"".join((*rest, piece[:end]))
                rest, length = [piece[end:]], len(piece) - end
                yield Block(data)
                continue
            rest.append(piece)
            length += len(piece)
            if length > longest:
                found = _after_line(content, size)
                end = found.rfind(b"\n") + 1
                rest, length = [found[end:]], len(found) - end
                yield Block(b"", overlong=1)
                if end:
                    yield Block(found[:end])
    except Exception:
        if data := b"".join(rest):
            yield Block(data)
        raise
    if data := b"".join(rest):
        yield Block(data)


def _after_line(content: Readable, size: int) -> bytes:
    """Reads to the end of the line at hand; what was read beyond it."""
    while piece := content.read(size):
        _, end, rest = piece.partition(b"\n")
        if end:
            return rest
    return b""


def line_ranges(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of pieces of a plain file, in bytes, each ending after a line end; about `size` bytes each.

    A file that grows meanwhile is read to the end that it had. Raises OSError.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start < length:
            end = start + size
            if end >= length:
                yield start, length
                return
            file.seek(end)
            while piece := file.readline(BLOCK_BYTES):  # in pieces, for a file need not have another line end
                end += len(piece)
                if piece.endswith(b"\n"):
                    break
            yield start, min(end, length)
            start = end


class FilePart:
    """The bytes of a file from `start` to `end`, as a file to read from the front."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        file.seek(start)
        self._file = file
        self._left = end - start

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class LiveStream:
    """A pipe whose lines are wanted as they come: what is there is read, without waiting for more."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        """What is there, at most `size` bytes; empty at the end."""
        return self._stream.read1(size)


class Resumed:
    """A stream from which `head` was read already, from its beginning."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        if not self._head:
            return self._stream.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


def read_whole(content: Readable, most: int) -> bytes:
    """All that is to come, read to one byte more than `most` at the furthest."""
    pieces, left = [], most + 1
    while left and (piece := content.read(min(left, BLOCK_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
