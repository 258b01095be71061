"""Lines of any log file, streamed: plain, gzip, xz or zstandard (told apart by first bytes); `-` is standard input.

Memory stays constant whatever the file holds: a line longer than the cap is skipped piece by piece and reported, and
a compressed file is never held whole.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

import zstandard

from cluster.command_error import CommandError

STANDARD_INPUT = "-"

_GZIP, _XZ, _ZSTANDARD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# A zstandard block of four bytes can stand for 128 KiB, so one piece of input yields at most 16 MiB.
_ZSTANDARD_PIECE = 512
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")


class LogFileError(CommandError):
    """A file that cannot be read, or not to its end."""


class LogLine(NamedTuple):
    """One line without its end. `text` is None for a line longer than the cap, of which only `length` is known.

    `length` is in bytes; `mended` says that bytes which are no UTF-8 became U+FFFD.
    """

    number: int
    text: str | None
    length: int
    mended: bool


class LogFile:
    """An open log file. `modified_ns` is its mtime (`now_ns` for standard input), `size` its bytes on disk."""

    def __init__(self, name: str, now_ns: int) -> None:
        self._open = ExitStack()
        self.path = name if name == STANDARD_INPUT else str(Path(name).absolute())
        self.name = "stdin" if name == STANDARD_INPUT else Path(name).name
        self.modified_ns = now_ns
        self.size: int | None = None
        try:
            self._raw = self._opened(name)
            self._content = self._decompressed(self._raw)
        except OSError as error:
            self._open.close()
            raise LogFileError(f"cannot read {name}: {error.strerror or error}") from error
        except CommandError:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def is_standard_input(self) -> bool:
        return self.path == STANDARD_INPUT

    def position(self) -> int:
        """Bytes read from the disk so far; at most `size`, since a growing file is read to the end it has by then."""
        if self.is_standard_input:
            return 0
        position = self._raw.tell()
        return position if self.size is None else min(position, self.size)

    def lines(self, longest: int) -> Iterator[LogLine]:
        """Every line. Raises LogFileError where a compressed file is damaged, after the lines before the damage."""
        number = 0
        try:
            while piece := self._content.readline(longest + 2):
                number += 1
                if number == 1:
                    piece = self._without_mark(piece)
                line = piece.rstrip(b"\r\n")
                if len(line) > longest:
                    yield LogLine(number, None, len(line) + self._skip_rest(piece, longest), mended=False)
                else:
                    yield _decoded(number, line)
        except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            raise LogFileError(f"{self.path} is damaged after line {number}: {error}") from error

    def _opened(self, name: str) -> io.BufferedReader:
        if name == STANDARD_INPUT:
            return cast("io.BufferedReader", sys.stdin.buffer)
        file = self._open.enter_context(Path(name).open("rb"))  # noqa: SIM115 - ExitStack is its context manager
        status = os.fstat(file.fileno())
        self.modified_ns, self.size = status.st_mtime_ns, status.st_size
        return file

    def _decompressed(self, raw: io.BufferedReader) -> IO[bytes]:
        start = raw.peek(len(_XZ))
        if start.startswith(_UTF16_MARKS):
            raise LogFileError(f"{self.path} is UTF-16 text: convert it first, iconv -f UTF-16 -t UTF-8 {self.path}")
        if start.startswith(_GZIP):
            return cast("IO[bytes]", self._open.enter_context(gzip.GzipFile(fileobj=raw, mode="rb")))
        if start.startswith(_XZ):
            return cast("IO[bytes]", self._open.enter_context(lzma.LZMAFile(raw, mode="rb")))
        if start.startswith(_ZSTANDARD):
            return cast("IO[bytes]", self._open.enter_context(io.BufferedReader(_ZstandardReader(raw))))
        return raw

    def _without_mark(self, piece: bytes) -> bytes:
        return piece.removeprefix(_UTF8_MARK)

    def _skip_rest(self, piece: bytes, longest: int) -> int:
        skipped = 0
        while piece and not piece.endswith(b"\n"):
            piece = self._content.readline(longest + 2)
            skipped += len(piece.rstrip(b"\r\n"))
        return skipped


class _ZstandardReader(io.RawIOBase):
    """Zstandard frames one after the other; unlike the library's own reader it notices a file that ends too early."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._waiting = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        while not self._ready:
            piece = self._waiting or self._raw.read(_ZSTANDARD_PIECE)
            self._waiting = b""
            if not piece:
                if self._frame is not None:
                    raise EOFError("the last frame is incomplete")
                return 0
            self._ready = memoryview(self._decompress(piece))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, piece: bytes) -> bytes:
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        output = self._frame.decompress(piece)
        if self._frame.eof:
            self._waiting = self._frame.unused_data
            self._frame = None
        return output


def _decoded(number: int, line: bytes) -> LogLine:
    try:
        return LogLine(number, line.decode("utf-8"), len(line), mended=False)
    except UnicodeDecodeError:
        escaped = line.decode("utf-8", "surrogateescape")
        return LogLine(number, _ESCAPED_BYTES.sub("\ufffd", escaped), len(line), mended=True)
