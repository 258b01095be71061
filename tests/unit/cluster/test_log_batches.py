"""Lines become OTLP requests that say where they come from and when, and are the same bytes on every run."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from cluster.log_batches import (
    LineReader,
    LogOrigin,
    OutgoingRecord,
    ReadingCounts,
    batches,
    export_request,
    idempotency_key,
)
from cluster.log_files import LogFile

ORIGIN = LogOrigin("web-1", "sshd", "auth.log", "/var/log/auth.log")


def decoded(body: bytes) -> ExportLogsServiceRequest:
    return ExportLogsServiceRequest.FromString(gzip.decompress(body))


def read(path: Path, json_field: str | None = None) -> tuple[list[OutgoingRecord], ReadingCounts]:
    counts = ReadingCounts()
    times = {"dated": 42, "before time": -1, "far": 2**64}
    reader = LineReader(lambda line, _: times.get(line), counts, json_field)
    with LogFile(str(path), 0) as file:
        return list(reader.records(file)), counts


def test_a_request_carries_host_service_file_time_and_line() -> None:
    message = decoded(export_request([OutgoingRecord("hello", 7), OutgoingRecord("world", 0)], ORIGIN, 99))
    (resource,) = message.resource_logs
    assert {item.key: item.value.string_value for item in resource.resource.attributes} == {
        "host.name": "web-1",
        "service.name": "sshd",
    }
    records = resource.scope_logs[0].log_records
    assert [(r.body.string_value, r.time_unix_nano, r.observed_time_unix_nano) for r in records] == [
        ("hello", 7, 99),
        ("world", 0, 99),
    ]
    assert {item.key: item.value.string_value for item in records[0].attributes} == {
        "log.file.name": "auth.log",
        "log.file.path": "/var/log/auth.log",
    }


def test_the_same_records_are_the_same_bytes() -> None:
    group = [OutgoingRecord(f"line {number}", number) for number in range(100)]
    assert export_request(group, ORIGIN, 1) == export_request(list(group), ORIGIN, 1)


def test_a_file_name_that_is_no_utf8_is_no_trouble() -> None:
    origin = LogOrigin("h", "", "caf\udce9.log", "/caf\udce9.log")
    message = decoded(export_request([OutgoingRecord("x", 0)], origin, 1))
    assert message.resource_logs[0].scope_logs[0].log_records[0].attributes[0].value.string_value == "caf?.log"
    assert idempotency_key("/caf\udce9.log", b"x")


def test_keys_tell_apart_equal_batches_of_one_file_and_agree_between_runs() -> None:
    assert idempotency_key("f\x000", b"body") == idempotency_key("f\x000", b"body")
    assert (
        len({idempotency_key("f\x000", b"body"), idempotency_key("f\x001", b"body"), idempotency_key("f", b"b")}) == 3
    )


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 7, [3, 3, 1]),
        ([400, 400, 400], [1, 1, 1]),
        ([5000], [1]),
        ([1, 5000, 1, 1], [1, 1, 2]),
        ([], []),
    ],
)
def test_batches_are_bounded_in_records_and_bytes(sizes: Iterable[int], expected: list[int]) -> None:
    groups = batches((OutgoingRecord("x" * size, 0) for size in sizes), most_records=3, most_bytes=600)
    assert [len(group) for group in groups] == expected


def test_reading_counts_what_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"dated\n\n  \nbefore time\nfar\nbad \xff\n")
    records, counts = read(path)
    assert [(record.text, record.time_ns) for record in records] == [
        ("dated", 42),
        ("before time", 0),
        ("far", 0),
        ("bad \ufffd", 0),
    ]
    assert counts == ReadingCounts(empty=2, mended=1, without_time=3, rejected={})


def test_a_field_of_json_lines_is_taken_and_others_are_rejected_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"line": "dated"}\n{"line": 5}\nno json\n[]\n\n{"line": "\\ud800"}\n')
    records, counts = read(path, "line")
    assert [record.text for record in records if record.text != "?"] == ["dated"]
    reason = "line is no JSON object with a text field 'line'"
    assert counts.rejected[reason] >= 3
    assert counts.empty == 1
    assert len(records) + counts.empty + counts.rejected[reason] == 6


def test_json_lines_stay_text_without_a_field(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"EventID": 4625}\n')
    records, _ = read(path)
    assert records[0].text == '{"EventID": 4625}'
