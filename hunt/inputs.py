"""Which files a hunt reads, what they hold, and how they are cut into units."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, cast

import msgspec

from detect.record import Nanoseconds
from hunt.blocks import Block, LiveStream, Readable, Resumed, line_blocks, line_ranges, read_whole
from hunt.compressed import DAMAGE, MAGIC_LENGTH, UTF16_MARKS, as_utf8, decompressed, is_compressed
from hunt.live_input import LiveInput
from hunt.log_format import HEAD_BYTES, LogFormat, format_of, tells_format
from hunt.plain_text import printable_name
from hunt.records import DOCUMENT_TOO_LONG, EVENT_LOG_TOO_LONG, MAX_DOCUMENT_BYTES
from hunt.units import DataUnit, FileUnit, RangeUnit, Unit

STANDARD_INPUT: Final = "-"
RANGE_BYTES: Final = 4 << 20
SHIPPED_BYTES: Final = 1 << 20
"""Bytes that are read here for a worker at once."""
SMALL_FILE: Final = 16 << 20
"""A compressed file below this is no work to share."""


class InputFile(msgspec.Struct, frozen=True):
    """A file to read. `path` is its name as it is told, `place` the name that opens it.

    `direct`: its bytes are in UTF-8 as they lie on the disk. `live`: standard input (path `-`) or a pipe, which only
    this process can read, and only once; its format is looked at while it is read.
    """

    number: int
    path: str
    place: bytes
    size: int
    modified_ns: Nanoseconds
    format: LogFormat
    direct: bool
    live: bool = False


class NamedError(msgspec.Struct, frozen=True):
    """Something that went wrong, and where: a file, and a line of it where that is known."""

    path: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.line is None else f"{self.path}:{self.line}: {self.reason}"


def find_files(
    names: Sequence[str], extensions: Sequence[str] = (), globs: Sequence[str] = ()
) -> tuple[list[str], list[NamedError]]:
    """The files that the names stand for: themselves, and all files below a folder, sorted by path.

    `extensions` and `globs` choose among the files below folders; without them all are taken but hidden ones. Links
    to folders are not followed, so nothing is read twice.
    """
    found: dict[str, None] = {}
    errors: list[NamedError] = []
    endings = tuple(f".{extension.lstrip('.').lower()}" for extension in extensions)
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT or path.is_file() or path.is_fifo() or path.is_char_device():
            found[name] = None
        elif path.is_dir():
            below = list(_below(path, endings, globs, errors))
            if not below:
                errors.append(NamedError(printable_name(name), "no file below this folder is meant"))
            found.update(dict.fromkeys(below))
        else:
            errors.append(NamedError(printable_name(name), "does not exist"))
    return list(found), errors


def _below(
    folder: Path, endings: tuple[str, ...], globs: Sequence[str], errors: list[NamedError], top: Path | None = None
) -> Iterator[str]:
    top = top or folder
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        errors.append(NamedError(printable_name(str(folder)), f"cannot be read: {error.strerror or error}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _below(entry, endings, globs, errors, top)
        elif entry.is_file() and _is_meant(entry, top, endings, globs):
            yield str(entry)


def _is_meant(path: Path, top: Path, endings: tuple[str, ...], globs: Sequence[str]) -> bool:
    if not endings and not globs:
        return True
    name = path.name.lower()
    packed = next((name.removesuffix(end) for end in (".gz", ".xz", ".zst", ".bz2") if name.endswith(end)), name)
    if name.endswith(endings) or packed.endswith(endings):
        return bool(endings)
    relative = path.relative_to(top).as_posix()
    return any(fnmatch(path.name, pattern) or fnmatch(relative, pattern) for pattern in globs)


def open_inputs(
    names: Sequence[str], now_ns: Nanoseconds, forced: LogFormat | None = None
) -> tuple[list[InputFile], list[NamedError]]:
    """The files with their formats, found by content unless one is forced; those that cannot be read are errors.

    A file that several names lead to is read once. `now_ns` stands for when standard input was written, whose format
    cannot be looked at beforehand.
    """
    inputs: list[InputFile] = []
    errors: list[NamedError] = []
    for name in _once(names):
        number = len(inputs)
        if name == STANDARD_INPUT or not Path(name).is_file():
            place = os.fsencode(name)
            inputs.append(
                InputFile(number, printable_name(name), place, 0, now_ns, forced or "text", direct=False, live=True)
            )
            continue
        try:
            inputs.append(_look(number, Path(name), forced))
        except DAMAGE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            errors.append(NamedError(printable_name(name), f"cannot be read: {reason}"))
    return inputs, errors


def _once(names: Sequence[str]) -> list[str]:
    """One name for each file, in their order; a link gives way to the file that it leads to, whose name tells more."""
    chosen: dict[object, str] = {}
    for name in sorted(names, key=lambda name: Path(name).is_symlink()):
        chosen.setdefault(_identity(name), name)
    kept = set(chosen.values())
    return [name for name in dict.fromkeys(names) if name in kept]


def _identity(name: str) -> object:
    """What two names of one plain file have in common; of anything else, its name."""
    if name == STANDARD_INPUT:
        return name
    try:
        status = Path(name).stat()
    except OSError:  # which is told when it is opened
        return name
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else name


def _look(number: int, path: Path, forced: LogFormat | None) -> InputFile:
    status = path.stat()
    with path.open("rb") as file:
        start = file.peek(MAGIC_LENGTH)[:MAGIC_LENGTH]
        direct = not is_compressed(start) and start[:2] not in UTF16_MARKS
        found = forced or format_of(as_utf8(decompressed(file)).read(HEAD_BYTES))
    name = str(path)
    return InputFile(number, printable_name(name), os.fsencode(name), status.st_size, status.st_mtime_ns, found, direct)


def units_of(inputs: Sequence[InputFile], jobs: int, forced: LogFormat | None = None) -> Iterator[Unit]:
    """The units of all files in order, for so many workers. Only what no worker can open is read here."""
    packed = sum(not file.direct for file in inputs)
    for file in inputs:
        whole = FileUnit(file.number, file.path, file.place, file.modified_ns, file.format, file.size)
        if file.live:
            yield from _read_here(file, forced)
        elif file.format in ("evtx", "json") or jobs == 1:
            yield whole
        elif file.direct:
            yield from _ranges(file)
        elif packed >= jobs or file.size < SMALL_FILE:
            yield whole
        else:
            yield from _read_here(file, file.format)


def _ranges(file: InputFile) -> Iterator[Unit]:
    try:
        for start, end in line_ranges(Path(os.fsdecode(file.place)), RANGE_BYTES):
            yield RangeUnit(file.number, file.path, file.place, file.modified_ns, file.format, start, end)
    except OSError as error:
        failure = f"cannot be read: {error.strerror or error}"
        yield DataUnit(file.number, file.path, file.modified_ns, file.format, Block(b""), 0, failure)


def _read_here(file: InputFile, known: LogFormat | None) -> Iterator[Unit]:
    """Blocks of a file that only this process can read, or that is unpacked here for several workers to judge."""

    def unit(block: Block, read: int, failure: str = "") -> Unit:
        # What failed is no document any more: without lines its format matters no longer.
        log_format = "text" if failure else known or "text"
        return DataUnit(file.number, file.path, file.modified_ns, log_format, block, read, failure)

    done = 0
    try:
        with ExitStack() as stack:
            raw = _opened(file, stack)
            packed = as_utf8(decompressed(raw))
            content: Readable = LiveStream(raw) if packed is raw else packed
            if known is None:
                head = _head(content)
                known, content = format_of(head), Resumed(head, content)
            if known in ("json", "evtx"):  # one document, which is judged as a whole
                yield _document(unit, content, known)
                return
            for block in line_blocks(content, SHIPPED_BYTES):
                position = 0 if file.live else raw.tell()
                yield unit(block, position - done)
                done = position
    except DAMAGE as error:
        yield unit(Block(b""), 0, f"damaged: {error or type(error).__name__}")


def _head(content: Readable) -> bytes:
    """As much of a stream as tells its format, and no more: what follows may be long in coming."""
    head = b""
    while not tells_format(head) and (piece := content.read(HEAD_BYTES - len(head))):
        head += piece
    return head


def _document(unit: Callable[[Block, int, str], Unit], content: Readable, log_format: LogFormat) -> Unit:
    data = read_whole(content, MAX_DOCUMENT_BYTES)
    if len(data) <= MAX_DOCUMENT_BYTES:
        return unit(Block(data), 0, "")
    return unit(Block(b""), 0, EVENT_LOG_TOO_LONG if log_format == "evtx" else DOCUMENT_TOO_LONG)


def _opened(file: InputFile, stack: ExitStack) -> io.BufferedReader:
    if file.path == STANDARD_INPUT:
        return _standard_input()
    if file.live:
        number = os.open(file.place, os.O_RDONLY)
        stack.callback(os.close, number)
        return io.BufferedReader(LiveInput(number))
    return stack.enter_context(Path(os.fsdecode(file.place)).open("rb"))


def _standard_input() -> io.BufferedReader:
    """A reader of its own: a thread that still waits in `sys.stdin` when the process ends aborts Python."""
    stream = sys.stdin.buffer
    try:
        number = stream.fileno()
    except (OSError, AttributeError):
        return io.BufferedReader(cast("io.RawIOBase", stream))
    return io.BufferedReader(LiveInput(number))
