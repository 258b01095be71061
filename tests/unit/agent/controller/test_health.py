"""What an agent says of itself follows what the parts on its host say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from agent.controller.collector_configs import CollectorConfigs
from agent.controller.health import HealthReport
from agent.controller.service import ChildService


@contextmanager
def forwarder(answer: bytes) -> Iterator[str]:
    """A status page on loopback."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/status"
        server.shutdown()
        thread.join()


def report(url: str, offset_ms: int = 0) -> dict[str, Any]:
    health = HealthReport(
        version="1",
        started_at=7,
        labels={"role": "web"},
        configs=None,
        service=None,
        forwarder_status=url,
        offset_ms=lambda: offset_ms,
    )
    return health.report()


@pytest.mark.parametrize(("state", "status"), [("ok", "ok"), ("degraded", "degraded"), ("failing", "failing")])
def test_an_agent_is_as_well_as_its_forwarder(state: str, status: str) -> None:
    with forwarder(json.dumps({"state": state, "accepted": 12, "lag_s": 3.9, "spool": {}}).encode()) as url:
        said = report(url)
    assert (said["status"], said["lag_s"], said["spool"]) == (status, 3, {"accepted": 12})
    assert ("forwarder" in said["detail"]) == (state != "ok")


@pytest.mark.parametrize("answer", [b"", b"no JSON", b"[1]", b'"text"'])
def test_a_forwarder_that_makes_no_sense_is_a_trouble(answer: bytes) -> None:
    with forwarder(answer) as url:
        said = report(url)
    assert said["status"] == "degraded"
    assert "cannot be read" in said["detail"]


def test_a_clock_that_is_off_is_a_trouble() -> None:
    said = report("", offset_ms=-3_600_000)
    assert (said["status"], said["detail"]) == ("degraded", "this host's clock is +3600 s off the server's")


@pytest.mark.parametrize(
    ("status", "masking"),
    [
        ({"masking": {"policy": "a" * 64, "key": "b" * 16}}, {"state": "on", "policy": "a" * 64, "key": "b" * 16}),
        ({"masking": None}, {"state": "off"}),
        ({}, {"state": ""}),
    ],
)
def test_an_agent_says_by_what_it_masks(status: dict[str, Any], masking: dict[str, str]) -> None:
    with forwarder(json.dumps({"state": "ok"} | status).encode()) as url:
        assert report(url)["masking"] == masking
    assert report("")["masking"] == {"state": ""}, "without a forwarder nobody knows"


def test_a_collector_that_has_nothing_to_run_yet_is_no_failure(tmp_path: Path) -> None:
    configs = CollectorConfigs(tmp_path / "collector")
    health = HealthReport(
        version="1",
        started_at=7,
        labels={},
        configs=configs,
        service=ChildService(["/bin/false"], {}),
        forwarder_status="",
        offset_ms=lambda: 0,
    )
    assert (health.report()["status"], health.programs_trouble()) == ("ok", "")
    (tmp_path / "first.yaml").write_text("{}")
    configs.adopt(tmp_path / "first.yaml")
    assert (health.report()["status"], health.programs_trouble()) == ("failing", "the collector does not run")
