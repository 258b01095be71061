"""Lines of any log file, streamed: plain, gzip, bzip2, xz or zstandard, by first bytes; `-` is standard input.

Memory stays constant whatever the file holds: a line longer than the cap is skipped piece by piece and reported, and
a compressed file is never held whole.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

from cluster.command_error import CommandError
from hunt.compressed import DAMAGE, UTF16_MARKS, decompressed
from hunt.plain_text import mended

STANDARD_INPUT = "-"

_UTF8_MARK = b"\xef\xbb\xbf"


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
        except DAMAGE as error:
            raise LogFileError(f"{self.path} is damaged after line {number}: {error}") from error

    def _opened(self, name: str) -> io.BufferedReader:
        if name == STANDARD_INPUT:
            return cast("io.BufferedReader", sys.stdin.buffer)
        file = self._open.enter_context(Path(name).open("rb"))  # noqa: SIM115 - ExitStack is its context manager
        status = os.fstat(file.fileno())
        self.modified_ns, self.size = status.st_mtime_ns, status.st_size
        return file

    def _decompressed(self, raw: io.BufferedReader) -> IO[bytes]:
        if raw.peek(2).startswith(UTF16_MARKS):
            raise LogFileError(f"{self.path} is UTF-16 text: convert it first, iconv -f UTF-16 -t UTF-8 {self.path}")
        return decompressed(raw) if raw is sys.stdin.buffer else self._open.enter_context(decompressed(raw))

    def _without_mark(self, piece: bytes) -> bytes:
        return piece.removeprefix(_UTF8_MARK)

    def _skip_rest(self, piece: bytes, longest: int) -> int:
        skipped = 0
        while piece and not piece.endswith(b"\n"):
            piece = self._content.readline(longest + 2)
            skipped += len(piece.rstrip(b"\r\n"))
        return skipped


def _decoded(number: int, line: bytes) -> LogLine:
    text, changed = mended(line)
    return LogLine(number, text, len(line), mended=changed)
