"""The work of a hunt in units that any worker can do alone: a piece of a plain file, a whole file, or a block of bytes.

Lines are numbered by whoever puts the results together again, in the order of the units.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from hunt.blocks import Block, FilePart, line_blocks
from hunt.compressed import DAMAGE, as_utf8, decompressed
from hunt.judge import Judge, Result
from hunt.log_format import LogFormat
from hunt.records import LineBooks, Placed, Source, block_records, document_records, event_log_records

DOCUMENT_RECORDS_PER_RESULT: Final = 20_000
BLOCKS_PER_RESULT: Final = 32


class RangeUnit(msgspec.Struct, tag="range", frozen=True):
    """Bytes `start` to `end` of a plain file of lines. `path` is its name as it is told, `place` what opens it."""

    source: int
    path: str
    place: bytes
    modified_ns: int
    format: LogFormat
    start: int
    end: int


class FileUnit(msgspec.Struct, tag="file", frozen=True):
    """A whole file, compressed or not; `size` is its bytes on disk. `path` and `place` are those of a range."""

    source: int
    path: str
    place: bytes
    modified_ns: int
    format: LogFormat
    size: int


class DataUnit(msgspec.Struct, tag="data", frozen=True):
    """Whole lines that another process has read. `read` is how many bytes of the file they took, `failure` why no
    more will come."""

    source: int
    path: str
    modified_ns: int
    format: LogFormat
    block: Block
    read: int = 0
    failure: str = ""


Unit = RangeUnit | FileUnit | DataUnit


def judge_unit(judge: Judge, unit: Unit) -> Iterator[Result]:
    """The results of a unit, in the order of its lines. A file that cannot be read gives one that says why."""
    source = Source(unit.source, unit.path, unit.modified_ns)
    match unit:
        case DataUnit():
            content = io.BytesIO(unit.block.data)
            document = unit.format in ("json", "evtx")
            for result in (
                _file_results(judge, content, unit.format, source)
                if document
                else _judge_block(judge, unit.block, unit.format, source)
            ):
                result.read, result.failure = unit.read, result.failure or unit.failure
                yield result
        case RangeUnit() | FileUnit():
            try:
                with Path(os.fsdecode(unit.place)).open("rb") as file:
                    yield from _judge_file(judge, unit, file, source)
            except DAMAGE as error:  # what is met before the first record
                reason = error.strerror if isinstance(error, OSError) and error.strerror else f"damaged: {error}"
                yield Result(source.number, failure=f"cannot be read: {reason}")


def _judge_file(judge: Judge, unit: RangeUnit | FileUnit, file: io.BufferedReader, source: Source) -> Iterator[Result]:
    if isinstance(unit, RangeUnit):
        for result in _judge_lines(judge, FilePart(file, unit.start, unit.end), unit.format, source):
            result.read = unit.end - unit.start
            yield result
        return
    done = 0
    for result in _file_results(judge, decompressed(file), unit.format, source):
        position = min(file.tell(), unit.size)
        result.read, done = position - done, position
        yield result


def _file_results(judge: Judge, content: IO[bytes], log_format: LogFormat, source: Source) -> Iterator[Result]:
    if log_format == "evtx":
        books = LineBooks()
        events = event_log_records(content, source, books)
        yield from judge.results(events, source, books, DOCUMENT_RECORDS_PER_RESULT)
    elif log_format == "json":
        books = LineBooks()
        documents = document_records(as_utf8(content), source, books)
        yield from judge.results(documents, source, books, DOCUMENT_RECORDS_PER_RESULT)
    else:
        yield from _judge_lines(judge, as_utf8(content), log_format, source)


def _judge_lines(
    judge: Judge, content: IO[bytes] | FilePart, log_format: LogFormat, source: Source
) -> Iterator[Result]:
    blocks = line_blocks(content)
    exhausted = False

    def group(books: LineBooks) -> Iterator[Placed]:
        nonlocal exhausted
        exhausted = True
        for count, block in enumerate(blocks, start=1):
            yield from block_records(block, log_format, source, books)
            if count == BLOCKS_PER_RESULT:
                exhausted = False
                return

    while not exhausted:
        books = LineBooks()
        yield from judge.results(group(books), source, books)


def _judge_block(judge: Judge, block: Block, log_format: LogFormat, source: Source) -> Iterator[Result]:
    books = LineBooks()
    return judge.results(block_records(block, log_format, source, books), source, books)
