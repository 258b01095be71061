"""What a hunt reads: every file once and under a name that can be told, streams and huge lines in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from hunt.blocks import line_blocks, line_ranges
from hunt.inputs import find_files, open_inputs, units_of
from hunt.run import HuntOptions
from tests.unit.hunt.event_log import event_log
from tests.unit.hunt.files import ALL_RULES, NOTEPAD, NOW_NS, WHOAMI, Bytes, hunted, json_lines, refusals

MIB = 1 << 20


def standard_input(monkeypatch: pytest.MonkeyPatch, content: io.RawIOBase | bytes) -> None:
    """Lets the content come in by standard input."""
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))


def test_a_file_with_several_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three refusals are no guessing, however often they are written down."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "auth.log").write_text("\n".join(refusals(3)))
    (folder / "actual.log").symlink_to("auth.log")
    os.link(folder / "auth.log", folder / "copy.log")
    monkeypatch.chdir(tmp_path)
    found, books = hunted(["logs", "./logs/auth.log", folder / "copy.log"])
    assert found == [] and (books.files, books.lines) == (1, 3)
    inputs, errors = open_inputs(find_files(["logs"])[0], NOW_NS)
    assert [file.path for file in inputs] == ["logs/auth.log"] and not errors


def test_two_files_of_the_same_content_are_two(tmp_path: Path) -> None:
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("\n".join(refusals(3)))
    assert hunted([tmp_path])[1].files == 2


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize(
    "content",
    [
        json_lines(NOTEPAD, WHOAMI),
        json.dumps([NOTEPAD, WHOAMI]).encode(),
        json.dumps([NOTEPAD, WHOAMI], indent=1).encode(),
        json.dumps({"Records": [NOTEPAD, WHOAMI]}).encode() + b"\n",
        b"\n" + json_lines({"Records": [NOTEPAD]}, {"Records": [WHOAMI]}),
        event_log([{"Image": WHOAMI["Image"]}], "Microsoft-Windows-Sysmon/Operational", 1),
    ],
    ids=["lines", "array", "indented", "wrapped", "wrapped lines", "evtx"],
)
def test_a_stream_is_what_the_file_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, pack: type[bytes]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(pack(content))
    expected, _ = hunted([path])
    standard_input(monkeypatch, pack(content))
    found, _ = hunted(["-"])
    told = ("rule", "time", "line", "matched", "record")
    assert len(found) == 1 and [found[0][name] for name in told] == [expected[0][name] for name in told]


def test_a_document_of_one_line_may_be_longer_than_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, json.dumps([{"padding": "x" * 65 * MIB}, WHOAMI]).encode())
    found, books = hunted(["-"])
    assert [item["line"] for item in found] == [2] and books.lines == 2 and not books.skipped


def test_a_document_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hunt.inputs.MAX_DOCUMENT_BYTES", MIB)
    standard_input(monkeypatch, Endless(b"{\n"))
    found, books = hunted(["-"])
    assert found == [] and books.files_failed == 1 and books.errors[0].reason.startswith("longer than 1 GiB")


class Endless(io.RawIOBase):
    """`yes`."""

    def __init__(self, line: bytes) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        data = (self._line * (len(buffer) // len(self._line) + 1))[: len(buffer)]
        buffer[:] = data
        return len(data)


def test_a_stream_of_lines_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is judged before a second one is there."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as incoming, os.fdopen(write, "wb") as outgoing:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=incoming))
        for line in (*json_lines(WHOAMI).splitlines(True), b"plain text\n", b"[Sun Dec 04 04:47:44 2005] [error] x\n"):
            outgoing.write(line)
            outgoing.flush()
            inputs, _ = open_inputs(["-"], NOW_NS)
            unit = next(units_of(inputs, 1))
            assert unit.block.data == line  # type: ignore[union-attr]  # a stream is read here


def test_cutting_a_file_without_line_ends_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(64 * MIB)  # of zeros, none of which is on the disk
    tracemalloc.start()
    try:
        assert list(line_ranges(path, MIB)) == [(0, 64 * MIB)]
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(30)
def test_a_long_line_in_many_pieces_takes_no_longer_than_it_is() -> None:
    """To copy the line at each piece would take minutes."""
    [block] = line_blocks(Bytes(b"x" * (48 * MIB)), 1024)
    assert len(block.data) == 48 * MIB


def test_what_follows_a_line_over_the_bound_is_kept_though_no_line_end_comes_for_long() -> None:
    kept = b"a" * 15 + b"\nb" + b"y" * 50 + b"\nc\n"
    blocks = list(line_blocks(Bytes(b"x" * 60 + b"\n" + kept), 20, longest=54))
    assert b"".join(block.data for block in blocks) == kept
    assert sum(block.overlong for block in blocks) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_name_that_is_no_utf8_is_told_with_escapes(tmp_path: Path, jobs: int) -> None:
    path = os.fsencode(tmp_path / "caf") + b"\xe9.log"
    Path(os.fsdecode(path)).write_text("\n".join(refusals(6)) + "\n" + "x" * 20 * MIB)
    name = f"{tmp_path}/caf\\udce9.log"
    found, books = hunted([os.fsdecode(path)], HuntOptions(jobs=jobs))
    assert [(item["kind"], item["file"], item["line"]) for item in found] == [("correlation", name, 5)]
    assert found[0]["records"][0]["file"] == name and not books.errors
    found, _ = hunted([os.fsdecode(path)], HuntOptions(jobs=jobs, correlate=False), ALL_RULES[:2])
    assert found[0]["attributes"] == {"log.file.name": "caf\\udce9.log", "log.file.path": name}


def test_a_name_that_is_no_utf8_can_be_missing(tmp_path: Path) -> None:
    _, books = hunted([os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")])
    assert str(books.errors[0]) == f"{tmp_path}/\\udce9: does not exist"
