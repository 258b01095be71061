"""Files of every format and packing give the same findings, and every line of them is on the books."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detect.otlp.encode import json_request
from detect.record import LogRecord, RecordRef
from hunt.blocks import line_blocks
from hunt.log_format import LogFormat, format_of
from tests.unit.hunt.event_log import event_log
from tests.unit.hunt.files import ALL_RULES, NOTEPAD, WHOAMI, hunted, json_lines, refusals

SYSMON = "Microsoft-Windows-Sysmon/Operational"
ACCESS = '203.0.113.9 - - [22/Nov/2026:09:16:40 +0000] "GET /index.html HTTP/1.1" 200 54 "-" "curl/8.5.0"'
AUDIT = "type=USER_LOGIN msg=audit(1795339240.010:8800): pid=5200 uid=0 auid=1001 ses=41 res=success"


def otlp(*bodies: object) -> bytes:
    stated = 1_795_330_000 * 10**9
    records = [
        LogRecord(RecordRef(1, n), stated, stated, stated, stated, 9, "INFO", body, {"k": "v"}, {"host.name": "h"})  # type: ignore[arg-type]  # objects and lines
        for n, body in enumerate(bodies)
    ]
    return json_request(records) + b"\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json_lines(WHOAMI, NOTEPAD), "jsonl"),
        (b"\xef\xbb\xbf" + json_lines(WHOAMI), "jsonl"),
        (b'{"a": 1} and more\n{"b": 2}\n', "jsonl"),
        (json.dumps([WHOAMI, NOTEPAD]).encode(), "json"),
        (json.dumps([WHOAMI], indent=2).encode(), "json"),
        (json.dumps(WHOAMI, indent=2).encode(), "json"),
        (json.dumps({"Records": [WHOAMI]}).encode(), "json"),
        (b"[]", "json"),
        (b'{"name": "x", "value": []}\n', "jsonl"),
        (json_lines({"Records": [WHOAMI]}, {"Records": [NOTEPAD]}), "jsonl"),
        (otlp(WHOAMI), "otlp"),
        (event_log([], SYSMON, 1), "evtx"),
        (refusals(1)[0].encode(), "text"),
        (b"[Sun Dec 04 04:47:44 2005] [error] mod_jk child\n", "text"),
        (ACCESS.encode(), "text"),
        (b"", "text"),
        (b"\x00\x01\x02", "text"),
    ],
)
def test_the_content_tells_the_format(content: bytes, expected: LogFormat) -> None:
    assert format_of(content) == expected


def test_a_first_line_longer_than_the_head_still_tells_the_format() -> None:
    long = {"x": "y" * 100_000}
    assert format_of(json_lines({**long})[: 1 << 16]) == "jsonl"
    assert format_of(json.dumps({"Records": [long]}).encode()[: 1 << 16]) == "json"
    assert format_of(otlp(long)[: 1 << 16]) == "otlp"


@pytest.mark.parametrize(
    "content",
    [
        json_lines(NOTEPAD, WHOAMI),
        json.dumps([NOTEPAD, WHOAMI]).encode(),
        json.dumps([NOTEPAD, WHOAMI], indent=1).encode(),
        json.dumps({"Records": [NOTEPAD, WHOAMI]}).encode(),
        f"{json.dumps(NOTEPAD, indent=2)}\n{json.dumps(WHOAMI, indent=2)}\n".encode(),
        otlp(NOTEPAD) + otlp(WHOAMI),
        otlp(json.dumps(NOTEPAD)) + otlp(json.dumps(WHOAMI)),
        event_log([{"Image": NOTEPAD["Image"]}, {"Image": WHOAMI["Image"]}], SYSMON, 1),
    ],
    ids=["lines", "array", "indented array", "wrapped", "objects in turn", "otlp", "otlp lines", "evtx"],
)
@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["plain", "gz", "bz2", "xz", "zst"],
)
def test_every_format_and_packing_gives_the_same_finding(
    tmp_path: Path, content: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(pack(content))
    found, books = hunted([path])
    assert [(item["rule"]["title"], item["file"], item["line"]) for item in found] == [("Whoami Run", str(path), 2)]
    assert found[0]["matched"] == {"Image": "C:\\Windows\\System32\\whoami.exe"}
    assert (books.lines, books.carrying, books.judged) == (2, 2, 2)


def test_lines_of_all_kinds_in_one_text_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.log"
    lines = [ACCESS, AUDIT, "", *refusals(2), json.dumps(WHOAMI), "something else\r"]
    path.write_bytes("\n".join(lines).encode())
    found, books = hunted([path], rules=ALL_RULES[:2])
    assert [(item["rule"]["title"], item["line"]) for item in found] == [
        ("Password Refused", 4),
        ("Password Refused", 5),
        ("Whoami Run", 6),
    ]
    assert found[0]["record"] == {"message": lines[3]}
    assert found[0]["attributes"] == {"log.file.name": "mixed.log", "log.file.path": str(path)}
    assert (books.lines, books.blank, books.judged) == (7, 1, 6)


def test_an_otlp_record_is_told_whole_and_a_line_may_hold_many(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_bytes(otlp(NOTEPAD, WHOAMI, WHOAMI))
    found, books = hunted([path])
    assert [item["line"] for item in found] == [1, 1]
    assert found[0]["record"]["body"] == WHOAMI and found[0]["record"]["resource"] == {"host.name": "h"}
    assert found[0]["attributes"] == {"k": "v"} and found[0]["time"] == "2026-11-22T06:46:40Z"
    assert (books.lines, books.carrying, books.records) == (1, 1, 3)


def test_a_bad_line_is_named_and_the_rest_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(json_lines(WHOAMI) + b"{broken\n\n[1]\n" + b'{"v": NaN}\n' + json_lines(WHOAMI))
    found, books = hunted([path])
    assert [item["line"] for item in found] == [1, 6]
    assert books.skipped == {"not valid JSON": 1, "JSON, but no object": 1}
    assert [(error.line, error.reason.partition(":")[0]) for error in books.errors] == [
        (2, "not valid JSON"),
        (4, "JSON, but no object"),
    ]
    assert (books.lines, books.carrying, books.blank, books.mended) == (6, 3, 1, 1)


def test_an_object_with_an_empty_list_is_a_record_like_any_other(tmp_path: Path) -> None:
    for content in ({"name": "x", "value": []}, {"records": []}, {"Records": [], "EventID": 1}):
        path = tmp_path / "log"
        path.write_bytes(json_lines(content))
        assert hunted([path])[1].judged == 1


def test_an_object_that_has_a_list_of_objects_is_not_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for lines in ([{"user": "eve", "value": [WHOAMI]}], [NOTEPAD, {"user": "eve", "value": [WHOAMI]}]):
        path.write_bytes(json_lines(*lines))
        found, books = hunted([path])
        assert found == [] and books.judged == len(lines)


@pytest.mark.parametrize("padding", ["", "x" * 100_000], ids=["short", "longer than the head"])
def test_of_lines_that_wrap_records_a_bad_one_costs_only_itself(tmp_path: Path, padding: str) -> None:
    path = tmp_path / "trail.jsonl"
    first = json_lines({"Records": [{**NOTEPAD, "padding": padding}, WHOAMI]})
    lines = [first, b"{broken\n", json_lines({"value": [WHOAMI], "nextLink": "u"})]
    path.write_bytes(b"".join(lines))
    found, books = hunted([path])
    assert [(item["line"], item["record"]) for item in found] == [(1, WHOAMI), (3, WHOAMI)]
    assert (books.lines, books.carrying, books.records, books.files_failed) == (3, 2, 3, 0)


def test_what_json_cannot_hold_is_told_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    request = orjson.loads(otlp(WHOAMI))
    [record] = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    record["attributes"] = [{"key": "raw", "value": {"bytesValue": "/wA="}}]
    path.write_bytes(orjson.dumps(request))
    [item], _ = hunted([path])
    assert item["attributes"] == {"raw": "/wA="} and item["record"]["body"] == WHOAMI


def test_a_panic_of_the_reader_of_event_logs_costs_only_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python sees a panic in Rust as a BaseException of a class that nobody can import."""

    def panicking(*_: object, **__: object) -> object:
        raise type("PanicException", (BaseException,), {})("index out of bounds")

    monkeypatch.setattr("hunt.records.PyEvtxParser", panicking)
    (tmp_path / "a.evtx").write_bytes(event_log([], SYSMON, 1))
    (tmp_path / "b.jsonl").write_bytes(json_lines(WHOAMI))
    found, books = hunted([tmp_path])
    assert len(found) == 1 and books.files_failed == 1
    assert books.errors[0].reason == "not a readable event log: index out of bounds"


def test_bytes_that_are_no_utf8_are_mended(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.log", tmp_path / "b.jsonl"
    text.write_bytes(b"caf\xe9\n" + refusals(1)[0].encode())
    lines.write_bytes(b'{"user": "caf\xe9"}\n' + json_lines(WHOAMI))
    found, books = hunted([text, lines], rules=ALL_RULES[:2])
    assert len(found) == 2 and books.mended == 2 and books.skipped == {}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf16_files_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "log.txt"
    mark = b"" if encoding == "utf-16" else b"\xfe\xff"
    path.write_bytes(mark + "\r\n".join(refusals(2)).encode(encoding))
    found, _ = hunted([path], rules=ALL_RULES[:2])
    assert [item["line"] for item in found] == [1, 2]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress], ids=["gz", "xz", "zst"])
def test_a_damaged_file_is_named_and_its_beginning_is_judged(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path, good = tmp_path / "cut", tmp_path / "good"
    content = b"".join(b"%s %d\n" % (refusals(1)[0].encode(), number) for number in range(5000))
    packed = pack(content)
    path.write_bytes(packed[: len(packed) // 2])
    good.write_bytes(json_lines(WHOAMI))
    found, books = hunted([path, good], rules=ALL_RULES[:2])
    assert 0 < len(found) < 5001 and found[-1]["rule"]["title"] == "Whoami Run"
    assert books.files_failed == 1 and "damaged" in books.errors[-1].reason and books.errors[-1].path == str(path)


def test_a_document_that_stops_being_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps([WHOAMI], indent=1) + "\n{oops")
    found, books = hunted([path])
    assert len(found) == 1 and books.files_failed == 1
    assert books.errors[0].reason.startswith("not valid JSON after line")


def test_a_forced_format_is_taken_at_its_word(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(json_lines(WHOAMI))
    _, books = hunted([path], forced="otlp")
    assert books.skipped.total() == 0 and books.records == 0  # an object without records is a valid request
    _, books = hunted([path], forced="evtx")
    assert books.files_failed == 1


class Pieces:
    """A stream that gives its bytes in pieces of any sizes."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content, self._sizes = content, sizes

    def read(self, size: int) -> bytes:
        wanted = min(self._sizes.pop() if self._sizes else size, size)
        piece, self._content = self._content[:wanted], self._content[wanted:]
        return piece


@given(
    st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=12),
    st.lists(st.integers(1, 40), max_size=12),
    st.integers(1, 50),
)
def test_blocks_hold_whole_lines_whatever_the_pieces(lines: list[bytes], sizes: list[int], size: int) -> None:
    content = b"".join(line + b"\n" for line in lines)
    if content.startswith(b"\xef\xbb\xbf"):
        return
    blocks = list(line_blocks(Pieces(content, sizes), size))
    assert b"".join(block.data for block in blocks) == content
    assert all(block.data.endswith(b"\n") for block in blocks)


def test_a_line_over_the_bound_is_skipped_whole_and_counted() -> None:
    blocks = list(line_blocks(Pieces(b"a\n" + b"x" * 100 + b"\nb\n", []), 10, longest=50))
    assert b"".join(block.data for block in blocks) == b"a\nb\n"
    assert sum(block.overlong for block in blocks) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(st.binary(max_size=300))
def test_hostile_bytes_balance_the_books_in_every_format(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    for forced in (None, "jsonl", "json", "otlp", "text", "evtx"):
        path.write_bytes(content)
        _, books = hunted([path], forced=forced)  # type: ignore[arg-type]  # the formats
        assert books.files == 1
