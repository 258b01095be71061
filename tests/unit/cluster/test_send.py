"""`trustsoc send` against a real server: every line is accounted for, whatever the server answers."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from cluster.command_error import CommandError
from cluster.send import LogSender, SendOptions, retry_after_seconds
from cluster.stated_time import stated_time
from tests.evaluation_data import data_file, json_lines

PROTOBUF = "application/x-protobuf"


class Ingest:
    """The ingest side of the tiny server: durable memory, with troubles that a test asks for."""

    def __init__(self, server: Any) -> None:
        self._answer: Callable[..., Any] = type(server.routes["GET /healthz"](None))
        self.batches: dict[str, ExportLogsServiceRequest] = {}
        self.troubles: list[Any] = []
        self.largest = 10**9
        self.partial = 0
        server.routes["POST /v1/logs"] = self.take

    def trouble(self, status: int, message: str = "trouble", **headers: str) -> None:
        body = Status(code=14, message=message).SerializeToString()
        self.troubles.append(self._answer(status, body, headers, PROTOBUF))

    def take(self, asked: Any) -> Any:
        assert asked.headers["content-type"] == PROTOBUF
        assert asked.headers["content-encoding"] == "gzip"
        if self.troubles:
            return self.troubles.pop(0)
        content = gzip.decompress(asked.body)
        message = ExportLogsServiceRequest.FromString(content)
        if len(content) > self.largest:
            return self._answer(413, Status(message="too large").SerializeToString(), {}, PROTOBUF)
        key = asked.headers["x-idempotency-key"]
        duplicate = key in self.batches
        if duplicate:
            assert self.batches[key] == message, "one key for two bodies"
        self.batches[key] = message
        response = ExportLogsServiceResponse()
        if self.partial:
            response.partial_success.rejected_log_records = self.partial
            response.partial_success.error_message = "cannot be stored"
        headers = {"X-Batch-Seq": "1", "X-Batch-Duplicate": "true" if duplicate else "false"}
        return self._answer(200, response.SerializeToString(), headers, PROTOBUF)

    def records(self) -> list[LogRecord]:
        return [
            record
            for message in self.batches.values()
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def lines(self) -> list[str]:
        return [record.body.string_value for record in self.records()]


@pytest.fixture
def ingest(server: Any) -> Ingest:
    return Ingest(server)


def write_lines(path: Path, count: int) -> Path:
    path.write_text("".join(f"line {number}\n" for number in range(count)))
    return path


@contextlib.contextmanager
def sender(server: Any, pauses: list[float], **options: Any) -> Iterator[LogSender]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as http:
        yield LogSender(http, stated_time, SendOptions("web-1", **options), pauses.append)


def test_a_file_arrives_in_order_and_is_counted(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "app.log", 2500)
    outcome = run("send", str(path), "--host", "web-1", "--service", "app", "--json")
    assert outcome.code == 0
    assert outcome.json["sent"] == outcome.json["accepted"] == outcome.json["without_time"] == 2500
    assert outcome.json["rejected"] == outcome.json["duplicate"] == outcome.json["retried"] == 0
    assert ingest.lines() == [f"line {number}" for number in range(2500)]
    assert len(ingest.batches) == 3
    first = next(iter(ingest.batches.values())).resource_logs[0]
    assert {item.key: item.value.string_value for item in first.resource.attributes} == {
        "host.name": "web-1",
        "service.name": "app",
    }
    assert ingest.records()[0].observed_time_unix_nano == path.stat().st_mtime_ns


def test_the_same_file_twice_is_counted_once_unless_asked(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "app.log", 1500)
    assert run("send", str(path), "--json").json["accepted"] == 1500
    again = run("send", str(path), "--json").json
    assert (again["sent"], again["accepted"], again["duplicate"]) == (1500, 0, 1500)
    assert run("send", str(path), "--again", "--json").json["accepted"] == 1500


def test_equal_batches_of_one_file_are_no_duplicates(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "same.log"
    path.write_text("the same line\n" * 3000)
    assert run("send", str(path), "--json").json["accepted"] == 3000


def test_compressed_files_and_standard_input(run: Any, ingest: Ingest, directory: Any, tmp_path: Path) -> None:
    for name, pack in (("a.gz", gzip.compress), ("b.xz", lzma.compress), ("c.zst", zstandard.compress)):
        (tmp_path / name).write_bytes(pack(f"from {name}\n".encode()))
    names = [str(tmp_path / name) for name in ("a.gz", "b.xz", "c.zst")]
    assert run("send", *names, "--json").json["files"] == 3
    command = [sys.executable, "-m", "cluster.cli", "send", "-", "--data-dir", str(directory.path), "--json"]
    for piped in (b"from stdin\n", gzip.compress(b"packed\n")):
        done = subprocess.run(command, input=piped, capture_output=True, check=True)
        assert json.loads(done.stdout)["accepted"] == 1
    assert ingest.lines() == ["from a.gz", "from b.xz", "from c.zst", "from stdin", "packed"]
    assert ingest.records()[-1].attributes[0].value.string_value == "stdin"


def test_counts_are_readable_without_json(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"one\n\nbad \xff\n")
    outcome = run("send", str(path))
    assert outcome.code == 0
    for word in ("sent", "accepted", "no time", "mended", "empty", "trustsoc incidents"):
        assert word in outcome.out


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_temporary_answer_is_tried_again_with_the_same_key(
    server: Any, ingest: Ingest, tmp_path: Path, status: int
) -> None:
    ingest.trouble(status, **{"Retry-After": "7"})
    ingest.trouble(status)
    pauses: list[float] = []
    with sender(server, pauses) as log_sender:
        log_sender.send([str(write_lines(tmp_path / "app.log", 10))])
    assert len({asked.headers["x-idempotency-key"] for asked in server.asked_for("POST /v1/logs")}) == 1
    assert len({asked.body for asked in server.asked_for("POST /v1/logs")}) == 1
    assert (log_sender.counts.accepted, log_sender.counts.retried) == (10, 2)
    assert pauses[0] == 7.0
    assert 0 < pauses[1] <= 1.0


def test_a_lost_connection_is_tried_again(tmp_path: Path, server: Any, ingest: Ingest) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    pauses: list[float] = []

    def comes_back(seconds: float) -> None:
        pauses.append(seconds)
        http.base_url = httpx.URL(server.url)

    with httpx.Client(base_url=address, trust_env=False) as http:
        log_sender = LogSender(http, stated_time, SendOptions("web-1"), comes_back)
        log_sender.send([str(write_lines(tmp_path / "app.log", 10))])
    assert (log_sender.counts.accepted, log_sender.counts.retried, len(pauses)) == (10, 1, 1)


def test_patience_ends_with_the_reason(server: Any, ingest: Ingest, tmp_path: Path) -> None:
    for _ in range(5):
        ingest.trouble(503, "the log store is unavailable", **{"Retry-After": "20"})
    gave_up = r"gave up after waiting 40 s: .* 503: the log store is unavailable"
    with sender(server, [], patience_seconds=50) as log_sender, pytest.raises(CommandError, match=gave_up):
        log_sender.send([str(write_lines(tmp_path / "app.log", 10))])


def test_a_final_answer_counts_as_rejected_with_its_reason_and_the_rest_goes_on(
    run: Any, ingest: Ingest, tmp_path: Path
) -> None:
    ingest.trouble(400, "malformed batch")
    outcome = run("send", str(write_lines(tmp_path / "app.log", 1500)), "--json")
    assert outcome.code == 1
    assert outcome.json["rejected_reasons"] == {"the server answered 400: malformed batch": 1000}
    assert (outcome.json["sent"], outcome.json["accepted"]) == (1500, 500)


def test_records_that_the_server_leaves_out_are_named(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    ingest.partial = 3
    outcome = run("send", str(write_lines(tmp_path / "app.log", 10)), "--json")
    assert outcome.json["accepted"] == 7
    assert outcome.json["rejected_reasons"] == {"cannot be stored": 3}


def test_a_batch_too_large_is_halved_until_it_fits(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    ingest.largest = 20_000
    path = tmp_path / "app.log"
    path.write_text("".join(f"line {number} " + "x" * 1000 + "\n" for number in range(40)) + "y" * 30_000 + "\n")
    outcome = run("send", str(path), "--json")
    assert outcome.json["accepted"] == 40
    assert outcome.json["rejected_reasons"] == {"the server answered 413: too large": 1}
    assert [line.split()[1] for line in ingest.lines()] == [str(number) for number in range(40)]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_retry_can_mend_stops_at_once(run: Any, ingest: Ingest, tmp_path: Path, status: int) -> None:
    ingest.trouble(status, "the API key is revoked")
    outcome = run("send", str(write_lines(tmp_path / "app.log", 10)))
    assert outcome.code == 1
    assert f"{status}: the API key is revoked" in outcome.err


def test_a_long_line_is_sent_whole(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("before\n" + "x" * 5_000_000 + "\nafter\n")
    assert run("send", str(path), "--json").json["accepted"] == 3
    assert [len(line) for line in ingest.lines()] == [6, 5_000_000, 5]


def test_a_rate_makes_small_batches_and_pauses(server: Any, ingest: Ingest, tmp_path: Path) -> None:
    pauses: list[float] = []
    with sender(server, pauses, rate=10.0) as log_sender:
        log_sender.send([str(write_lines(tmp_path / "app.log", 30))])
    assert len(ingest.batches) == 3
    assert len(pauses) == 3
    assert pauses[0] == pytest.approx(1.0, abs=0.5)


def test_a_damaged_file_is_named_and_what_came_before_is_counted(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(os.urandom(2**16).hex().encode() + b"\n" + b"x\n" * 5000)[:-20])
    outcome = run("send", str(path))
    assert outcome.code == 1
    assert "is damaged after line" in outcome.err
    assert "accepted" in outcome.out


def test_wrong_names_are_found_before_anything_is_sent(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    good = write_lines(tmp_path / "app.log", 10)
    outcome = run("send", str(good), str(tmp_path / "missing.log"))
    assert (outcome.code, ingest.batches) == (2, {})
    assert "missing.log does not exist" in outcome.err
    assert run("send", str(tmp_path)).code == 2


def test_a_cluster_that_does_not_run_is_said_at_once(run: Any, tmp_path: Path) -> None:
    outcome = run("send", str(write_lines(tmp_path / "app.log", 10)), "--url", "http://127.0.0.1:1")
    assert outcome.code == 3
    assert "Trust SOC is not running on http://127.0.0.1:1: start it with `trustsoc up`" in outcome.err


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("12", 12.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, expected: float | None) -> None:
    assert retry_after_seconds(header, datetime(2026, 3, 1, 12, tzinfo=UTC)) == expected


@pytest.mark.data
def test_a_real_syslog_without_years_keeps_its_times(run: Any, ingest: Ingest, tmp_path: Path) -> None:
    source = data_file("loghub/OpenSSH.jsonl.gz")
    expected = [row["line"] for row in json_lines("loghub/OpenSSH.jsonl.gz")]
    outcome = run("send", str(source), "--field", "line", "--host", "LabSZ", "--json")
    assert outcome.code == 0
    assert (outcome.json["accepted"], outcome.json["without_time"]) == (len(expected), 0)
    assert ingest.lines() == expected
    times = [record.time_unix_nano for record in ingest.records()]
    assert times == sorted(times)
    assert all(time <= source.stat().st_mtime_ns + 7 * 86_400 * 10**9 for time in times)
    plain = tmp_path / "auth.log"
    plain.write_text("".join(line + "\n" for line in expected), encoding="utf-8")
    assert run("send", str(plain), "--json").json["accepted"] == len(expected)
