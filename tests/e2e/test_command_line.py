"""The commands of a person: the demo as a newcomer runs it, real logs sent by hand, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.system import System, free_port
from cluster.demo_scene import intrusion_lines
from tests.e2e.conftest import Tenant
from tests.evaluation_data import json_lines
from tests.postgres.fixtures import temporary_data_directory

ROOT = Path(__file__).resolve().parents[2]


def trustsoc(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=290, check=False, env=os.environ | (environment or {})
    )


def family_of(folder: Path) -> list[int]:
    """Processes that name the folder in their command line."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(process.info["pid"])
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    made = temporary_data_directory()
    yield made / "data"
    shutil.rmtree(made)


def test_the_demo_ends_with_the_incident_and_its_advisory_as_json(folder: Path) -> None:
    port = free_port()
    outcome = trustsoc("demo", "--once", "--llm", "none", "--data-dir", str(folder), "--port", str(port))
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    shown = json.loads(outcome.stdout.splitlines()[-1])
    incident, advisory = shown["incident"], shown["advisory"]
    assert incident["severity"] == "critical"
    rules = {member["event"]["title"] for member in incident["timeline"]}
    assert {"SSH Password Guessing From One Source", "SSH Login After Password Guessing", "Web Shell Access"} <= rules
    assert advisory["incident_id"] == incident["incident_id"]
    assert {"T1110.001", "T1505.003", "T1053.003"} <= {item["id"] for item in advisory["body"]["techniques"]}
    # By a whole agent, which did the job that it was given, and all of it has gone.
    books = shown["sender"]["books"]
    assert (shown["sender"]["ping"]["state"], shown["sender"]["ping"]["output"]) == ("succeeded", "pong demo")
    assert books["accepted"] == books["stored"] == len(list(intrusion_lines()))
    assert (books["duplicate"], books["rejected"], books["in_flight"]) == (0, 0, 0)
    assert not (folder / "demo-agent").exists()
    assert family_of(folder) == []


def test_a_second_up_says_who_holds_the_directory(system: System) -> None:
    command = system.process.cmdline()
    directory = command[command.index("--data-dir") + 1]
    outcome = trustsoc("up", "--data-dir", directory, "--port", str(free_port()), "--llm", "none")
    assert outcome.returncode == 1
    assert f"process {system.process.pid}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def send(system: System, tenant: Tenant, *arguments: str) -> dict[str, Any]:
    keyed = {"TRUSTSOC_API_KEY": tenant.key, "TRUSTSOC_URL": system.base_url}
    outcome = trustsoc("send", *arguments, "--json", environment=keyed)
    assert outcome.returncode == 0, outcome.stderr
    counts: dict[str, Any] = json.loads(outcome.stdout)
    return counts


@pytest.mark.data
@pytest.mark.parametrize(
    ("source", "expected"),
    [("OpenSSH", "SSH Password Guessing From One Source"), ("Linux", "Password Guessing Seen by PAM")],
)
def test_real_logs_sent_by_hand_give_incidents_about_the_guessing_in_them(
    system: System, tenant: Tenant, tmp_path: Path, source: str, expected: str
) -> None:
    lines = [row["line"] for row in json_lines(f"loghub/{source}.jsonl.gz")]
    log = tmp_path / f"{source}.log"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    first = send(system, tenant, str(log))
    assert first["accepted"] == 2000
    again = send(system, tenant, str(log))
    assert again["duplicate"] == 2000
    counts = tenant.await_judged()
    assert counts["records"] == 2000
    titles = Counter(event["title"] for event in tenant.get("/api/events", limit=500)["items"])
    assert titles[expected] >= 5
    incidents = tenant.get("/api/incidents", limit=500)["items"]
    assert incidents
    for incident in incidents:
        addresses = {entity["value"] for entity in incident["entities"] if entity["kind"] == "ip"}
        assert addresses or any(entity["kind"] == "host" for entity in incident["entities"]), incident["title"]
