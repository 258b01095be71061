"""Log files of every kind come out as lines, in bounded memory, and damage is named after the lines before it."""

from __future__ import annotations

import gzip
import io
import lzma
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cluster.log_files import LogFile, LogFileError, LogLine

CONTENT = b"first line\nsecond \xc3\xa9\r\n\nlast without end"
LINES = [
    LogLine(1, "first line", 10, mended=False),
    LogLine(2, "second é", 9, mended=False),
    LogLine(3, "", 0, mended=False),
    LogLine(4, "last without end", 16, mended=False),
]
LONGEST = 1000


def lines_of(path: Path, longest: int = LONGEST) -> list[LogLine]:
    with LogFile(str(path), 0) as file:
        return list(file.lines(longest))


@pytest.mark.parametrize(
    "packed",
    [
        CONTENT,
        gzip.compress(CONTENT),
        gzip.compress(CONTENT[:7]) + gzip.compress(CONTENT[7:]),
        lzma.compress(CONTENT),
        zstandard.compress(CONTENT),
        zstandard.compress(CONTENT[:7]) + zstandard.compress(CONTENT[7:]),
    ],
    ids=["plain", "gzip", "gzip members", "xz", "zstandard", "zstandard frames"],
)
def test_the_first_bytes_tell_the_format_whatever_the_name_says(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(packed)
    assert lines_of(path) == LINES


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress], ids=["gzip", "xz", "zstandard"])
def test_a_file_that_ends_too_early_gives_its_lines_and_then_an_error(tmp_path: Path, pack: object) -> None:
    path = tmp_path / "cut"
    content = b"".join(b"line %d\n" % number for number in range(50_000))
    packed = pack(content)  # type: ignore[operator]  # all three take bytes
    path.write_bytes(packed[: len(packed) // 2])
    seen = []
    with pytest.raises(LogFileError, match="is damaged after line"), LogFile(str(path), 0) as file:
        for line in file.lines(LONGEST):
            seen.append(line.text)
    assert seen == [f"line {number}" for number in range(len(seen))]


def test_a_line_over_the_cap_is_skipped_whole_and_its_length_told(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * LONGEST + b"\r\n" + b"z" * (LONGEST + 1))
    lines = lines_of(path)
    assert [line.text for line in lines] == ["a", None, "b", "y" * LONGEST, None]
    assert [line.length for line in lines] == [1, 5000, 1, LONGEST, LONGEST + 1]


def test_bytes_that_are_no_utf8_become_replacement_characters(tmp_path: Path) -> None:
    path = tmp_path / "latin1"
    path.write_bytes(b"caf\xe9 \xff\xfe\nfine\n")
    assert lines_of(path) == [LogLine(1, "caf\ufffd \ufffd\ufffd", 7, mended=True), LogLine(2, "fine", 4, mended=False)]


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bom"
    path.write_bytes(b"\xef\xbb\xbfhello\n")
    assert lines_of(path)[0].text == "hello"


def test_utf16_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "windows.log"
    path.write_text("hello\n", encoding="utf-16")
    with pytest.raises(LogFileError, match="iconv -f UTF-16 -t UTF-8"):
        lines_of(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogFileError, match="no-such-file: No such file"):
        LogFile(str(tmp_path / "no-such-file"), 0)


def test_standard_input_is_read_compressed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.BufferedReader(io.BytesIO(gzip.compress(CONTENT)))  # type: ignore[arg-type]  # BytesIO is raw enough
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=piped))
    with LogFile("-", 17) as file:
        assert file.is_standard_input
        assert (file.name, file.modified_ns, file.size) == ("stdin", 17, None)
        assert list(file.lines(LONGEST)) == LINES


def test_progress_is_told_in_bytes_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(CONTENT * 1000))
    with LogFile(str(path), 0) as file:
        assert file.size == path.stat().st_size
        assert file.modified_ns == path.stat().st_mtime_ns
        assert sum(1 for _ in file.lines(LONGEST)) > 1000
        assert file.position() == file.size


@given(content=st.binary(max_size=400), longest=st.integers(1, 40))
def test_every_byte_is_accounted_for(content: bytes, longest: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_bytes(b"." + content)  # the point keeps the content from looking compressed
    lines = lines_of(path, longest)
    stripped = [line.rstrip(b"\r\n") for line in (b"." + content).split(b"\n")]
    if content.endswith(b"\n"):
        stripped.pop()
    assert [line.number for line in lines] == list(range(1, len(stripped) + 1))
    for line, raw in zip(lines, stripped, strict=True):
        assert (line.text is None) == (len(raw) > longest)
        if line.text is not None:
            assert line.length == len(raw)
            line.text.encode("utf-8")
