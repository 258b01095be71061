"""The controller's settings are read strictly; what is said of health and of other programs is bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.controller.executor import JobFailed, JobRejected
from agent.controller.health import HealthReport
from agent.controller.job_run import JobOutput
from agent.controller.reload import RulesReload
from agent.controller.settings import (
    ControllerSettings,
    ReloadSettings,
    SettingsError,
    read_settings,
)
from agent.host_policy import HostPolicy
from agent.jobs import MOST_OUTPUT
from tests.unit.agent.controller.running_job import RunningJob


def test_all_of_it_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "controller.yml"
    path.write_text(
        """
        folder: /srv/agent
        labels: {site: berlin}
        collector: {config: /etc/otel.yml, restart: [systemctl, restart, otel], health_s: 5}
        rules: {pid_files: [/run/forwarder.pid]}
        upgrade: {folder: /opt/agent, check: [bin/check]}
        """
    )
    settings = read_settings(path)
    assert settings.folder == "/srv/agent"
    assert settings.labels == {"site": "berlin"}
    assert settings.collector.restart == ("systemctl", "restart", "otel")
    assert settings.collector.health_s == 5.0
    assert settings.rules == ReloadSettings(("/run/forwarder.pid",))
    path.write_text("")
    assert read_settings(path) == ControllerSettings()


@pytest.mark.parametrize(
    "text",
    [
        "other: 1",
        "- a",
        "folder: 1",
        "a: [",
        "labels: {a: 1}",
        "labels: [a]",
        f"labels: {{a: {'x' * 201}}}",
        "collector: {config: 1}",
        "collector: {restart: systemctl restart otel}",
        "collector: {health_s: 0}",
        "collector: {health_s: soon}",
        "collector: {shell: x}",
        "collector: []",
        "1: 2",
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "controller.yml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"controller\.yml"):
        read_settings(path)


def test_output_is_bounded_in_bytes_and_shows_no_control_characters() -> None:
    output = JobOutput()
    output.write("a\x1b[31mred\x00\u202e\ud800\tb\n")
    assert output.text == "a\ufffd[31mred\ufffd\ufffd\ufffd\tb\n"
    output.write("ü" * MOST_OUTPUT)
    assert output.truncated
    assert MOST_OUTPUT - 3 < len(output.text.encode()) <= MOST_OUTPUT
    kept = output.text
    output.write("more")
    assert output.text == kept


_HEEDS_SIGHUP = """
import signal, sys
signal.signal(signal.SIGHUP, lambda *_: sys.exit(7))
print("ready", flush=True)
signal.pause()
"""


def test_a_reload_signals_the_process_of_a_pid_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HEEDS_SIGHUP], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "pid").write_text(f"{process.pid}\n")
        reload = RulesReload(ReloadSettings((str(tmp_path / "pid"),)))
        assert reload.run(RunningJob("RULES_RELOAD", {}, HostPolicy(), dry_run=True)).reason == "dry_run"
        assert process.poll() is None
        assert reload.run(RunningJob("RULES_RELOAD", {}, HostPolicy())).state == "succeeded"
        assert process.wait(10) == 7
    with pytest.raises(JobFailed) as caught:
        reload.run(RunningJob("RULES_RELOAD", {}, HostPolicy()))
    assert caught.value.reason == "not_reloaded"


@pytest.mark.parametrize("text", ["1", "0", "-1", "", "x"])
def test_a_pid_file_that_names_no_process_signals_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    signalled = signal.signal(signal.SIGHUP, lambda *_: os.abort())
    try:
        with pytest.raises(JobFailed):
            RulesReload(ReloadSettings((str(tmp_path / "pid"),))).run(RunningJob("RULES_RELOAD", {}, HostPolicy()))
    finally:
        signal.signal(signal.SIGHUP, signalled)


def test_a_host_without_rules_has_nothing_to_reload() -> None:
    with pytest.raises(JobRejected) as caught:
        RulesReload(ReloadSettings()).run(RunningJob("RULES_RELOAD", {}, HostPolicy()))
    assert caught.value.reason == "nothing_to_reload"


def report(url: str) -> dict[str, Any]:
    health = HealthReport(
        version="1",
        started_at=5,
        labels={},
        configs=None,
        service=None,
        forwarder_status=url,
        offset_ms=lambda: 0,
    )
    return health.report()


def test_the_forwarder_s_counters_are_passed_on_and_its_absence_is_said() -> None:
    class Status(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = b'{"accepted": 5, "name": "x", "lag_s": 2.5, "share": 0.5, "run": true}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """The tests' own output is enough."""

    with HTTPServer(("127.0.0.1", 0), Status) as http:
        thread = threading.Thread(target=http.handle_request)
        thread.start()
        said = report(f"http://127.0.0.1:{http.server_address[1]}/status")
        thread.join()
        away = f"http://127.0.0.1:{http.server_address[1]}/status"
    assert (said["status"], said["spool"], said["lag_s"]) == ("ok", {"accepted": 5}, 2)
    assert report(away)["status"] == "degraded"
    assert "loopback" not in report("http://example.com/")["detail"]
    assert report("http://example.com/")["status"] == "degraded"
