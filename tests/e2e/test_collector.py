"""The real collector: what is appended to files arrives as OTLP, once, in order, with where it came from."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from agent.collector import Collector, CollectorError, CollectorProfile, render_profile
from detect.batch import Batch
from detect.otlp import decode
from detect.record import LogRecord
from tests.e2e.conftest import wait_for

KEY = "test-key-1"
WAIT_SECONDS = 30.0


class Receiver:
    """A server that keeps the records of every accepted request. `refusals` are statuses for the next requests."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.refusals: list[int] = []
        self.changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                if status == 503:
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        with self.changed:
            self.headers.append(headers)
            self.paths.append(path)
            if self.refusals:
                return self.refusals.pop(0)
            payload = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
            self.records += decode(Batch(1, time.time_ns(), "otlp_protobuf", payload))
            self.changed.notify_all()
            return 200

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_SECONDS), [record.body for record in self.records]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def profile(folder: Path, endpoint: str) -> CollectorProfile:
    return CollectorProfile((f"{folder}/*.log",), endpoint, "web01", start_at="beginning", batch_milliseconds=100)


def append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_appended_lines_arrive_once_in_order_and_untouched(receiver: Receiver, tmp_path: Path) -> None:
    line = 'Nov 22 09:14:03 web01 sshd[1]: Failed password for ${HOME} "x" from 203.0.113.9 port 1 ssh2 \x1d\u00e9'
    expected = [f"{line} {number}" for number in range(50)]
    with Collector(profile(tmp_path, receiver.url), KEY, tmp_path / "private") as collector:
        assert not [peer for peer in psutil.Process(collector.pid).net_connections() if peer.status == "LISTEN"]
        append(tmp_path / "auth.log", *expected[:25])
        receiver.wait_for(lambda: len(receiver.records) >= 25)
        append(tmp_path / "auth.log", *expected[25:])
        receiver.wait_for(lambda: len(receiver.records) >= 50)
    assert [record.body for record in receiver.records] == expected
    first = receiver.records[0]
    assert first.attributes == {"log.file.name": "auth.log", "log.file.path": str(tmp_path / "auth.log")}
    assert first.resource == {"host.name": "web01"}
    assert first.time_ns == first.observed_ns > 0
    assert set(receiver.paths) == {"/v1/logs"}
    assert receiver.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert receiver.headers[0]["Content-Encoding"] == "gzip"


def test_a_server_that_is_busy_gets_the_same_lines_later(receiver: Receiver, tmp_path: Path) -> None:
    receiver.refusals = [503, 503]
    with Collector(profile(tmp_path, receiver.url), KEY, tmp_path / "private"):
        append(tmp_path / "a.log", "one", "two")
        receiver.wait_for(lambda: len(receiver.records) >= 2)
    assert [record.body for record in receiver.records] == ["one", "two"]
    assert len(receiver.paths) == 3


def has_read(pid: int, file: Path) -> bool:
    """Whether the process has the file open and stands at its end."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.resolve() == file.resolve():
                position = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text().split()[1]
                return int(position) == file.stat().st_size
    return False


def test_stopping_sends_what_is_held_and_leaves_nothing_running(receiver: Receiver, tmp_path: Path) -> None:
    held = CollectorProfile(
        (f"{tmp_path}/*.log",), receiver.url, "web01", start_at="beginning", batch_milliseconds=600_000
    )
    append(tmp_path / "a.log", "only one")
    collector = Collector(held, KEY, tmp_path / "private")
    collector.start()
    pid = collector.pid
    assert pid is not None
    wait_for(lambda: has_read(pid, tmp_path / "a.log"), "the line read")
    collector.stop()
    collector.stop()
    assert [record.body for record in receiver.records] == ["only one"]
    assert not psutil.pid_exists(pid)
    assert collector.pid is None


def test_a_collector_that_cannot_start_says_why_and_hides_the_key(tmp_path: Path) -> None:
    broken = CollectorProfile((f"{tmp_path}/*.log",), "http://127.0.0.1:1", "web01", memory_limit_mib=0)
    with pytest.raises(CollectorError, match=r"(?s)stopped.*limit_mib"):
        Collector(broken, KEY, tmp_path).start()
    assert KEY not in (tmp_path / "collector.yaml").read_text()


def test_the_collector_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from agent.collector import *; "
        f"c = Collector(CollectorProfile(('{tmp_path}/*.log',), 'http://127.0.0.1:1', 'h'), 'k', Path('{tmp_path}')); "
        "c.start(); print(c.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs([child], timeout=WAIT_SECONDS)
    assert (len(gone), alive) == (1, [])


def test_the_profile_holds_no_secret_and_nothing_that_would_be_expanded() -> None:
    text = render_profile(CollectorProfile(("/var/log/$x/*.log",), "https://soc.example.org/", "h${env:HOME}"))
    settings = yaml.safe_load(text)
    assert settings["receivers"]["filelog"]["include"] == ["/var/log/$$x/*.log"]
    assert settings["receivers"]["filelog"]["resource"] == {"host.name": "h$${env:HOME}"}
    assert settings["exporters"]["otlphttp"]["logs_endpoint"] == "https://soc.example.org/v1/logs"
    assert settings["exporters"]["otlphttp"]["headers"] == {"Authorization": "Bearer ${env:TRUSTSOC_INGEST_KEY}"}
