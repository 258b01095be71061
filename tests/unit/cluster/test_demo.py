"""The demo's course against a server that stores and judges what is written, with real files and a real clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.command_error import CommandError
from cluster.data_directory import DataDirectory, Runtime
from cluster.demo import DemoPlan, DemoSite, run_demo
from cluster.demo_scene import intrusion_lines
from cluster.intrusion import FILES

ROOT = Path(__file__).resolve().parents[3]
LINES = [(0.0, "auth.log", f"line {number}") for number in range(20)]


class Story:
    """A cluster as the demo sees it: what is in the tailed folder is stored, and becomes one incident."""

    def __init__(self, server: Any) -> None:
        self.folder = Path()
        self.tailing = False
        self.advisory_revision = 7
        self.advisories_waiting = 1
        self.lost = 0
        answer = self._answer = type(server.routes["GET /healthz"](None))
        now = datetime.now(UTC).isoformat()
        self.incident = {
            "incident_id": "i1", "revision": 7, "title": "Guessing", "severity": "high", "score": 90.0,
            "state": "open", "event_count": 2, "tactics": ["credential-access"], "last_time": now,
        }  # fmt: skip
        server.answers("POST /api/admin/tenants", {"title": "Conflict", "status": 409}, status=409)
        server.answers("POST /api/admin/tenants/demo/keys", {"key_id": "k1", "key": "ingest-secret"}, status=201)
        server.routes["DELETE /api/admin/tenants/demo/keys/k1"] = lambda _: answer(204)
        server.routes["GET /api/status"] = self.status
        server.routes["GET /api/incidents"] = lambda _: answer(200, {"items": self.incidents(), "next_cursor": None})
        server.answers("GET /api/incidents/i1", {**self.incident, "timeline": []})
        server.routes["GET /api/incidents/i1/advisory"] = self.advisory

    def stored(self) -> int:
        files = self.folder.glob("*.log") if self.tailing else ()
        return max(0, sum(len(path.read_text().splitlines()) for path in files) - self.lost)

    def status(self, _asked: Any) -> Any:
        records = self.stored()
        counts: dict[str, Any] = {"records": records, "events": records // 10, "batches": 3, "judged": 3}
        counts |= {"incidents": {"open": 1}, "advisories_waiting": self.advisories_waiting}
        return self._answer(200, {"ready": True, "components": {"advisor": {"ready": True}}, "counts": counts})

    def incidents(self) -> list[Any]:
        return [self.incident] if self.stored() >= 10 else []

    def advisory(self, _asked: Any) -> Any:
        body = {"incident_id": "i1", "revision": self.advisory_revision, "version": 1, "body": {"title": "Guessing"}}
        return self._answer(200, {**body, "generator": "template", "created_at": "2026-03-01T12:00:00Z"})

    def make_sender(self, site: DemoSite) -> Any:
        story = self

        class Tailer:
            def start(self, _progress: Any) -> None:
                assert (site.base_url.startswith("http://127.0.0.1:"), site.key) == (True, "ingest-secret")
                story.folder, story.tailing = site.folder, True

            def account(self) -> dict[str, Any]:
                return {}

            def stop(self) -> None:
                story.tailing = False

        return Tailer()


@pytest.fixture
def story(server: Any, directory: DataDirectory) -> Iterator[Story]:
    """A cluster that runs already: this process stands for its owner."""
    process = psutil.Process()
    directory.write_runtime(Runtime(os.getpid(), server.url, "2026-03-01T12:00:00Z", process.create_time(), "mark"))
    yield Story(server)


def no_cluster() -> Any:
    pytest.fail("the running cluster is to be used")


def plan(story: Story) -> DemoPlan:
    return DemoPlan(lambda: iter(LINES), story.make_sender, deadline_seconds=30)


def test_the_demo_ends_with_the_incident_and_the_advisory_of_its_last_revision(
    story: Story, server: Any, directory: DataDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_demo(directory, server.url, no_cluster, plan(story), once=True).as_json()
    assert result["incident"]["incident_id"] == "i1"
    assert result["advisory"]["revision"] == 7
    timings = result["timings"]
    assert list(timings) == sorted(timings, key=timings.__getitem__)
    assert {"cluster_ready_s", "last_line_s", "first_record_s", "incident_s", "advisory_s"} <= set(timings)
    out, err = capsys.readouterr()
    assert out == ""
    assert "playing the intrusion" in err
    assert "Guessing" in err
    assert "secret" not in err


def test_what_the_demo_made_is_gone_afterwards(story: Story, server: Any, directory: DataDirectory) -> None:
    run_demo(directory, server.url, no_cluster, plan(story), once=True)
    assert not story.tailing
    assert not story.folder.exists()
    assert len(server.asked_for("DELETE /api/admin/tenants/demo/keys/k1")) == 1
    assert directory.running() is not None, "a cluster that ran before goes on running"


def test_an_advisory_for_an_older_revision_does_not_count(story: Story, server: Any, directory: DataDirectory) -> None:
    story.advisory_revision = 6
    with pytest.raises(CommandError, match="no advisory within 1 s after the last line"):
        run_demo(directory, server.url, no_cluster, replace(plan(story), deadline_seconds=1), once=True)
    assert not story.tailing


def test_an_advisory_that_a_new_revision_leaves_as_it_is_counts(
    story: Story, server: Any, directory: DataDirectory
) -> None:
    story.advisory_revision, story.advisories_waiting = 6, 0
    result = run_demo(directory, server.url, no_cluster, replace(plan(story), deadline_seconds=10), once=True)
    assert result.advisory["revision"] == 6


def test_a_lost_record_fails_the_demo_with_the_figures(story: Story, server: Any, directory: DataDirectory) -> None:
    story.lost = 1
    with pytest.raises(CommandError, match="20 lines written, 19 records stored"):
        run_demo(directory, server.url, no_cluster, replace(plan(story), deadline_seconds=1), once=True)


def test_no_incident_is_said_as_such(story: Story, server: Any, directory: DataDirectory) -> None:
    few = DemoPlan(lambda: iter(LINES[:3]), story.make_sender, deadline_seconds=1)
    with pytest.raises(CommandError, match="no incident within 1 s"):
        run_demo(directory, server.url, no_cluster, few, once=True)


def test_a_sender_that_does_not_start_leaves_no_key(story: Story, server: Any, directory: DataDirectory) -> None:
    class Broken:
        def start(self, _progress: Any) -> None:
            raise CommandError("no collector binary here")

        def stop(self) -> None:
            """It never ran."""

    broken = replace(plan(story), make_sender=lambda _: Broken())
    with pytest.raises(CommandError, match="no collector binary"):
        run_demo(directory, server.url, no_cluster, broken, once=True)
    assert len(server.asked_for("DELETE /api/admin/tenants/demo/keys/k1")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_cluster_that_goes_on_after_the_demo(
    server: Any, directory: DataDirectory, tmp_path: Path, number: signal.Signals
) -> None:
    story, told = Story(server), tmp_path / "told"
    told.write_text("")
    stored = story.stored

    def tailed() -> int:
        story.folder = Path(told.read_text() or "nowhere")
        story.tailing = story.folder.is_dir()
        return stored()

    story.stored = tailed  # type: ignore[method-assign]
    server.answers("POST /api/admin/tenants/default/keys", {"key_id": "k0", "key": "tenant-secret"}, status=201)
    program = [sys.executable, "-m", "tests.unit.cluster.played_demo", str(directory.path), server.url]
    with subprocess.Popen([*program, str(told)], stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said == "waits\n", said + process.stderr.read()
        process.send_signal(number)
        assert process.stderr.read() == ""
        assert process.wait(30) == 0
    assert directory.running() is None


def test_every_scripted_line_goes_to_a_file_that_is_tailed() -> None:
    assert {name for _, name, _ in intrusion_lines()} <= set(FILES)
