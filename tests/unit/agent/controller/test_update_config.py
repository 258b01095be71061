"""UPDATE_CONFIG with the real collector: tried out, taken back, and whole after a kill at any step."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.collector import CollectorError, CollectorProfile, find_binary, render_profile
from agent.controller.collector_configs import CollectorConfigs
from agent.controller.service import ChildService
from agent.controller.settings import CollectorSettings, ControllerSettings
from agent.jobs import Job
from tests.unit.agent.controller.conftest import OPEN_POLICY, Started
from tests.unit.agent.controller.control_server import ControlServer
from tests.unit.agent.controller.test_crashes import program


@pytest.fixture
def logs(tmp_path: Path, settings: ControllerSettings) -> Path:
    try:
        find_binary()
    except CollectorError as error:
        pytest.skip(str(error))
    folder = tmp_path / "logs"
    folder.mkdir()
    Path(settings.policy).write_text(OPEN_POLICY + f"update_config: {{paths: [{folder}]}}\n")
    return folder


@pytest.fixture
def collector(tmp_path: Path, logs: Path) -> CollectorSettings:
    path = tmp_path / "first.yaml"
    path.write_bytes(config(logs, "first.log"))
    return CollectorSettings(config=str(path), health_s=2.0)


def config(logs: Path, name: str, **changes: Any) -> bytes:
    """The shipped profile for one file; `changes` are merged into components, by section."""
    profile = CollectorProfile((str(logs / name),), "http://127.0.0.1:4319", "web-1")
    value = yaml.safe_load(render_profile(profile))
    for section, components in changes.items():
        for component, change in components.items():
            value[section][component] |= change
    return yaml.safe_dump(value).encode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ordered(server: ControlServer, data: bytes, **changes: Any) -> Job:
    server.policies[digest(data)] = data
    job = server.job("UPDATE_CONFIG", {"policy": "web", "version": 2, "digest": digest(data)}, **changes)
    server.give(job)
    return job


def state(settings: ControllerSettings) -> dict[str, str]:
    value: dict[str, str] = json.loads((Path(settings.folder) / "collector" / "state.json").read_bytes())
    return value


def link(settings: ControllerSettings) -> str:
    return (Path(settings.folder) / "collector" / "current.yaml").resolve().stem


def test_a_good_configuration_is_tried_and_stays(
    server: ControlServer, start: Started, settings: ControllerSettings, collector: CollectorSettings, logs: Path
) -> None:
    first, second = digest(config(logs, "first.log")), config(logs, "second.log")
    controller = start(collector=collector)
    job = ordered(server, second)
    result = server.wait_final(job, 60)
    assert (result.state, result.reason) == ("succeeded", "")
    assert result.data["config"] == {
        "running": digest(second),
        "attempted": digest(second),
        "state": "applied",
        "detail": "",
    }
    assert link(settings) == digest(second) != first
    assert controller.collector is not None
    assert controller.collector.service.alive()
    ping = server.job("PING")
    server.give(ping)
    server.wait_final(ping)
    assert server.health[-1]["config"]["running"] == digest(second)
    again = ordered(server, second)
    assert server.wait_final(again).data["changed"] is False


def unstartable(logs: Path) -> bytes:
    """Valid, but it ends when it starts: a file that it names is not there."""
    value = yaml.safe_load(config(logs, "second.log"))
    value["exporters"]["otlphttp"]["tls"] = {"ca_file": str(logs / "missing.pem")}
    return yaml.safe_dump(value).encode()


def test_a_configuration_that_does_not_live_is_rolled_back_and_both_are_reported(
    server: ControlServer, start: Started, settings: ControllerSettings, collector: CollectorSettings, logs: Path
) -> None:
    first, bad = digest(config(logs, "first.log")), unstartable(logs)
    controller = start(collector=collector)
    result = server.wait_final(ordered(server, bad), 60)
    assert (result.state, result.reason) == ("failed", "unhealthy")
    assert "missing.pem" in result.detail
    expected = {"running": first, "attempted": digest(bad), "state": "failed", "detail": result.detail[:2000]}
    assert result.data["config"] == expected
    assert link(settings) == first
    assert controller.collector is not None
    assert controller.collector.service.alive()
    ping = server.job("PING")
    server.give(ping)
    server.wait_final(ping)
    assert server.health[-1]["config"]["attempted"] == digest(bad)
    assert server.health[-1]["status"] == "degraded"


@pytest.mark.parametrize(
    ("change", "state_and_reason"),
    [
        ({"receivers": {"filelog": {"include": ["/etc/shadow"]}}}, ("rejected", "host_policy")),
        ({"exporters": {"otlphttp": {"endpoint": "http://evil.example"}}}, ("rejected", "host_policy")),
        ({"processors": {"batch": {"nonsense": 1}}}, ("failed", "invalid_config")),
    ],
)
def test_what_the_policy_or_the_collector_refuses_is_never_tried(
    server: ControlServer,
    start: Started,
    settings: ControllerSettings,
    collector: CollectorSettings,
    logs: Path,
    change: dict[str, Any],
    state_and_reason: tuple[str, str],
) -> None:
    bad = config(logs, "second.log", **change)
    start(collector=collector)
    result = server.wait_final(ordered(server, bad), 60)
    assert (result.state, result.reason) == state_and_reason
    assert state(settings)["attempted"] == digest(bad)
    assert link(settings) == state(settings)["running"] == digest(config(logs, "first.log"))


def test_the_one_that_runs_ends_the_trouble_with_the_one_that_was_refused(
    server: ControlServer, start: Started, settings: ControllerSettings, collector: CollectorSettings, logs: Path
) -> None:
    running = config(logs, "first.log")
    start(collector=collector)
    bad = config(logs, "second.log", receivers={"filelog": {"include": ["/etc/shadow"]}})
    assert server.wait_final(ordered(server, bad), 60).state == "rejected"
    rolled_back = server.wait_final(ordered(server, running), 60)
    assert (rolled_back.state, rolled_back.data["changed"]) == ("succeeded", False)
    assert state(settings) == {
        "running": digest(running),
        "attempted": digest(running),
        "state": "applied",
        "detail": "",
    }


def test_what_its_owner_changes_in_the_first_configuration_counts_at_the_next_start(
    settings: ControllerSettings, collector: CollectorSettings, logs: Path
) -> None:
    configs = CollectorConfigs(Path(settings.folder) / "collector")
    first, other, edited = (config(logs, name) for name in ("first.log", "other.log", "edited.log"))
    configs.adopt(Path(collector.config))
    assert configs.state.running == digest(first)
    configs.keep(digest(other), other)
    configs.try_out(digest(other))
    configs.settle()
    again = CollectorConfigs(Path(settings.folder) / "collector")
    again.adopt(Path(collector.config))
    assert again.state.running == digest(other)
    Path(collector.config).write_bytes(edited)
    again.adopt(Path(collector.config))
    assert (again.state.running, again.current.read_bytes()) == (digest(edited), edited)


def test_a_variable_s_value_is_neither_in_the_answer_nor_in_the_log(
    server: ControlServer,
    start: Started,
    collector: CollectorSettings,
    logs: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = logs.parent / "collector.env"
    environment.write_text("TRUSTSOC_INGEST_KEY=the-token-of-this-host\n")
    asks = config(logs, "second.log", receivers={"filelog": {"encoding": "${env:TRUSTSOC_INGEST_KEY}"}})
    start(collector=replace(collector, environment_file=str(environment)))
    result = server.wait_final(ordered(server, asks), 60)
    assert (result.state, result.reason) == ("failed", "invalid_config")
    assert "[TRUSTSOC_INGEST_KEY]" in result.detail
    assert "the-token-of-this-host" not in result.detail + str(result.data) + caplog.text


def test_what_is_not_what_the_job_says_is_not_used(
    server: ControlServer, start: Started, collector: CollectorSettings, logs: Path
) -> None:
    other = ordered(server, config(logs, "other.log"))
    server.policies[other.args["digest"]] = config(logs, "swapped.log")
    large = ordered(server, b"#" * 70_000)
    unknown = server.job("UPDATE_CONFIG", {"policy": "web", "version": 2, "digest": "0" * 64})
    server.give(unknown)
    start(collector=collector)
    assert server.wait_final(other).reason == "wrong_digest"
    assert server.wait_final(large).reason == "not_fetched"
    assert server.wait_final(unknown).reason == "not_fetched"


def test_a_dry_run_tries_nothing(
    server: ControlServer, start: Started, settings: ControllerSettings, collector: CollectorSettings, logs: Path
) -> None:
    start(collector=collector)
    result = server.wait_final(ordered(server, config(logs, "second.log"), dry_run=True), 60)
    assert (result.state, result.reason) == ("succeeded", "dry_run")
    assert link(settings) == digest(config(logs, "first.log"))


def test_a_collector_that_ends_is_started_again(
    server: ControlServer, start: Started, collector: CollectorSettings
) -> None:
    controller = start(collector=collector)
    assert controller.collector is not None
    service = controller.collector.service
    assert isinstance(service, ChildService)
    with server.changed:
        assert server.changed.wait_for(lambda: bool(server.health), 20)
    assert service._process is not None
    os.kill(service._process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not service.alive() and time.monotonic() < deadline:
        ping = server.job("PING")
        server.give(ping)
        server.wait_final(ping)
    assert service.alive()


# Half steps from the start of the program with its first configuration to the result of the second.
@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
@pytest.mark.parametrize("step", range(9, 52, 10))
def test_killed_at_any_step_the_collector_runs_one_of_both_and_the_job_has_one_end(
    server: ControlServer, settings: ControllerSettings, collector: CollectorSettings, logs: Path, step: int, good: bool
) -> None:
    first = digest(config(logs, "first.log"))
    data = config(logs, "second.log") if good else unstartable(logs)
    value = asdict(settings) | {"collector": {"config": collector.config, "health_s": 0.5}}
    for section in ("rules", "certificate", "upgrade"):
        del value[section]
    path = logs.parent / "controller.yml"
    path.write_text(yaml.safe_dump(value))
    job = ordered(server, data)
    item = dict(server.items[0])
    with program(path, step) as killed:
        deadline = time.monotonic() + 40
        while killed.poll() is None and not server.finals(job) and time.monotonic() < deadline:
            time.sleep(0.02)
    if not server.finals(job):
        server.items = [item | {"attempt": 2, "lease": "99999999-2222-4333-8444-555555555555"}]
    polls = len(server.health)
    with program(path):
        result = server.wait_final(job, 60)
        with server.changed:
            assert server.changed.wait_for(lambda: len(server.health) > polls + 1, 30)
        health = server.health[-1]
    expected = digest(data) if result.state == "succeeded" else first
    assert link(settings) == state(settings)["running"] == health["config"]["running"] == expected
    assert state(settings)["state"] != "applying"
    assert "collector does not run" not in health["detail"]
    assert good or result.state == "failed"
    assert result.reason in {"", "interrupted", "unhealthy"}
    assert {(final.state, final.reason) for final in server.finals(job)} == {(result.state, result.reason)}
