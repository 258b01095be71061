"""Rule packs as people publish them: tar archives (gzip, bzip2, xz or plain) and zip archives, read from memory.

An archive is a stranger's. Nothing is written anywhere, sizes that it declares are not believed, and every member
that is refused is named with the reason while the others load.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, NamedTuple, cast

from detect.sigma.pack import MAGIC, BadPack, unpack

MAX_MEMBERS: Final = 100_000
MAX_RULE_FILE_BYTES: Final = 4 << 20
MAX_UNPACKED_BYTES: Final = 256 << 20
"""Of all members together, those that are no rules included."""

_GZIP, _XZ, _BZIP2, _ZIP, _TAR = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", (b"PK\x03\x04", b"PK\x05\x06"), b"ustar"
_TAR_MARK_AT: Final = 257
_PIECE: Final = 1 << 16
_ODD_NAME = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")
_ENCRYPTED: Final = 1
_DAMAGE: Final = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError,
    RuntimeError, ValueError, LookupError, ArithmeticError, struct.error,
)  # fmt: skip


class PackProblem(NamedTuple):
    """A member or file that is left out, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class PackContent(NamedTuple):
    """(path, text) of every rule file, sorted, and what was left out."""

    sources: list[tuple[str, str]]
    problems: list[PackProblem]


class _Member(NamedTuple):
    name: str
    refusal: str
    content: IO[bytes] | None


def is_rule_file(path: str) -> bool:
    """Whether a file of that name holds rules, or tests of rules."""
    return path.lower().endswith((".yml", ".yaml"))


def is_test_file(path: str) -> bool:
    """Whether a file beside rules holds only tests of them (pack_tests.py)."""
    return path.lower().endswith((".test.yml", ".test.yaml"))


def is_archive(data: bytes) -> bool:
    """Whether the bytes begin like an archive that unpack_archive reads."""
    packed = data.startswith((MAGIC, _GZIP, _XZ, _BZIP2, *_ZIP))
    return packed or data[_TAR_MARK_AT : _TAR_MARK_AT + len(_TAR)] == _TAR


def unpack_archive(data: bytes) -> PackContent:
    """The rule files of an archive. Raises BadPack when it is none, is damaged, or unpacks to more than the bounds.

    Members with paths that lead out of the archive, links, devices, encrypted or huge members, repeated paths and
    text that is not UTF-8 are problems. Equal archives give equal results, whatever the order of their members.
    """
    if data.startswith(MAGIC):
        return PackContent(sorted(unpack(data)), [])
    sources: dict[str, str] = {}
    problems: list[PackProblem] = []
    try:
        for count, member in enumerate(_members(data)):
            if count >= MAX_MEMBERS:
                raise BadPack(f"the archive has more than {MAX_MEMBERS} members")
            _take(member, sources, problems)
    except BadPack:
        raise
    except _DAMAGE as error:
        raise BadPack(f"the archive is damaged: {error or type(error).__name__}") from error
    return PackContent(sorted(sources.items()), sorted(problems))


def _take(member: _Member, sources: dict[str, str], problems: list[PackProblem]) -> None:
    name = member.name.removeprefix("./")
    shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
    if not is_rule_file(name) or any(part.startswith(".") and part != ".." for part in name.split("/")):
        return
    if reason := member.refusal or _path_fault(name):
        problems.append(PackProblem(shown, reason))
    elif name in sources:
        problems.append(PackProblem(shown, "the archive holds this path twice: the first one counts"))
    elif member.content is not None:
        text = member.content.read(MAX_RULE_FILE_BYTES + 1)
        if len(text) > MAX_RULE_FILE_BYTES:
            problems.append(PackProblem(shown, f"larger than {MAX_RULE_FILE_BYTES >> 20} MiB"))
            return
        try:
            sources[name] = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            problems.append(PackProblem(shown, f"not UTF-8 at byte {error.start}"))


def _path_fault(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        return "its path leads out of the archive"
    if _ODD_NAME.search(name) or len(name) > 1024:
        return "its path holds characters that no rule's path needs"
    return ""


def _members(data: bytes) -> Iterator[_Member]:
    if data.startswith(_ZIP):
        yield from _zip_members(data)
        return
    packed = io.BytesIO(data)
    if data.startswith(_GZIP):
        yield from _tar_members(_Bounded(gzip.GzipFile(fileobj=packed)))
    elif data.startswith(_XZ):
        with lzma.LZMAFile(packed) as unpacked:
            yield from _tar_members(_Bounded(unpacked))
    elif data.startswith(_BZIP2):
        with bz2.BZ2File(packed) as unpacked_bz2:
            yield from _tar_members(_Bounded(unpacked_bz2))
    else:
        yield from _tar_members(_Bounded(packed))


def _tar_members(stream: _Bounded) -> Iterator[_Member]:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", errorlevel=1) as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isreg():
                kind = "a link" if member.issym() or member.islnk() else "no plain file"
                yield _Member(member.name, f"it is {kind}", None)
            else:
                yield _Member(member.name, "", archive.extractfile(member))


def _zip_members(data: bytes) -> Iterator[_Member]:
    left = MAX_UNPACKED_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.is_dir() or not is_rule_file(member.filename):
                yield _Member(member.filename, "", None)
                continue
            file_type = member.external_attr >> 28  # the upper bits of a Unix mode
            if file_type not in (0, 0o10):
                yield _Member(member.filename, "it is a link" if file_type == 0o12 else "it is no plain file", None)
            elif member.flag_bits & _ENCRYPTED:
                yield _Member(member.filename, "it is encrypted", None)
            else:
                with archive.open(member) as content:
                    text = content.read(min(left, MAX_RULE_FILE_BYTES) + 1)
                left -= len(text)
                if left < 0:
                    raise BadPack(f"the archive unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
                yield _Member(member.filename, "", io.BytesIO(text))


class _Bounded:
    """A stream that raises BadPack once more than the bound was read from it."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := self._stream.read(min(size, _PIECE))):
            pieces.append(piece)
            size -= len(piece)
            self._left -= len(piece)
            if self._left < 0:
                raise BadPack(f"the archive unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        return b"".join(pieces)
