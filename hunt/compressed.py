"""Files as their author wrote them: gzip, bzip2, xz and zstandard are told apart by first bytes, UTF-16 becomes UTF-8.

Memory stays constant whatever a file holds, and a compressed file that ends too early is an error, not an end.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from typing import IO, Final, cast

import zstandard

GZIP, XZ, ZSTANDARD, BZIP2 = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"BZh"
UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
MAGIC_LENGTH: Final = 6
DAMAGE: Final = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError)
"""What reading a damaged file raises."""

# A zstandard block of four bytes can stand for 128 KiB, so one piece of input yields at most 16 MiB.
_ZSTANDARD_PIECE = 512
_TEXT_PIECE = 1 << 20


def is_compressed(start: bytes) -> bool:
    """Whether a file with these first bytes is a compressed one."""
    return start.startswith((GZIP, XZ, ZSTANDARD, BZIP2))


def decompressed(raw: io.BufferedReader) -> IO[bytes]:
    """The content of an open file; `raw` itself when it is not compressed. Reading raises one of DAMAGE."""
    start = raw.peek(MAGIC_LENGTH)[:MAGIC_LENGTH]
    if start.startswith(GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if start.startswith(BZIP2):
        return cast("IO[bytes]", bz2.BZ2File(raw, mode="rb"))
    if start.startswith(XZ):
        return cast("IO[bytes]", lzma.LZMAFile(raw, mode="rb"))
    if start.startswith(ZSTANDARD):
        return cast("IO[bytes]", io.BufferedReader(ZstandardReader(raw)))
    return raw


def as_utf8(content: IO[bytes]) -> IO[bytes]:
    """Content that starts with a UTF-16 byte order mark as UTF-8; any other content as it is."""
    buffered = content if isinstance(content, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", content))
    if buffered.peek(2)[:2] in UTF16_MARKS:
        return cast("IO[bytes]", io.BufferedReader(_Utf16Reader(buffered)))
    return buffered


class _Utf16Reader(io.RawIOBase):
    """UTF-16 text as UTF-8 bytes; what is no UTF-16 becomes U+FFFD."""

    def __init__(self, content: io.BufferedReader) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        while not self._ready:
            piece = self._content.read(_TEXT_PIECE)
            text = self._decoder.decode(piece, final=not piece)
            self._ready = memoryview(text.encode("utf-8", "replace"))
            if not piece:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


class ZstandardReader(io.RawIOBase):
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
