"""One real agent: enrolled, run with its own collector, told a job, stopped; and what becomes of its parts by force."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from agent.contract import SigningKey
from agent.installation.overview import forwarder_status
from tests.unit.agent.forwarder.conftest import lines_of, request
from tests.unit.agent.installation.conftest import Host, Running, descendants, is_alive, wait_for

Run = Callable[[], Running]


def send(host: Host, *lines: str) -> None:
    token = host.places.token.read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-protobuf"}
    answer = httpx.post(f"http://127.0.0.1:{host.port}/v1/logs", content=request(*lines), headers=headers, timeout=30)
    assert answer.status_code == 200


def arrived(host: Host) -> list[str]:
    return sorted(lines_of(host.site.ingest.journal.bodies()))


def test_an_enrolled_host_tails_obeys_and_drains(host: Host, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.enrol(tail=True) == 0
    # What is written before the collector first looks would be history to it.
    stated = host.places.collector.read_text()
    host.places.collector.write_text(stated.replace("start_at: end", "start_at: beginning"))
    agent = run()
    agent.wait_ready()
    ping = host.site.control.job("PING")
    host.site.control.give(ping)
    # The controller asks for jobs once its collector runs.
    assert host.site.control.wait_final(ping, 60).state == "succeeded", agent.text()
    (host.logs / "app.log").write_text("tailed 1\ntailed 2\n")
    wait_for(lambda: arrived(host) == ["tailed 1", "tailed 2"], f"the tailed lines:\n{agent.text()}", 60)
    wait_for(lambda: (forwarder_status(host.places) or {}).get("stored") == 2, "books that are settled")
    assert host.command("status") == 0
    assert "2 stored" in capsys.readouterr().out
    assert host.command("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["forwarder"]["stored"], found["collector"]["state"]) == ("ok", 2, "applied")
    assert host.command("doctor") == 0, capsys.readouterr().out
    everyone = descendants(agent.process.pid)
    assert len(everyone) == 3  # forwarder, controller, collector
    send(host, "the last one")
    assert agent.stop() == 0, agent.text()
    assert "the last one" in arrived(host)
    assert not [pid for pid in everyone if is_alive(pid)]
    assert host.site.ingest.journal.statements[-1]["in_flight"] == 0
    assert not host.site.control.troubles
    assert host.command("status") == 1
    assert "stopped" in capsys.readouterr().out
    # Nothing waits, so nothing keeps it from being removed.
    assert host.command("uninstall", "--yes", "--settings-too") == 0
    assert list(host.places.state.iterdir()) == []


def test_children_die_with_it_even_by_kill_9(host: Host, run: Run) -> None:
    assert host.enrol(tail=True) == 0
    agent = run()
    agent.wait_ready()
    everyone = wait_for(
        lambda: found if len(found := descendants(agent.process.pid)) == 3 else None, "all programs", 60
    )
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait(10)
    wait_for(lambda: not [pid for pid in everyone if is_alive(pid)], "the end of all children", 60)
    # What they held is free again: the agent starts as if nothing had happened.
    again = run()
    again.wait_ready()
    send(host, "afterwards")
    assert again.stop() == 0, again.text()
    assert arrived(host) == ["afterwards"]


def test_a_forwarder_that_is_killed_comes_back_and_nothing_is_lost(host: Host, run: Run) -> None:
    assert host.enrol() == 0
    agent = run()
    agent.wait_ready()
    first = wait_for(lambda: agent.pid("forwarder"), "the forwarder's process")
    assert host.places.forwarder_pid.read_text() == f"{first}\n"
    send(host, "before")
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: (now := agent.pid("forwarder")) != first and now, f"another:\n{agent.text()}", 60)
    assert host.places.forwarder_pid.read_text() == f"{second}\n"
    wait_for(host.answers, "an answer of the new one", 60)
    send(host, "after")
    wait_for(lambda: arrived(host) == ["after", "before"], f"both:\n{agent.text()}", 60)
    assert agent.stop() == 0
    assert "forwarder ended with -9" in agent.text()
    assert not host.places.forwarder_pid.exists()


def test_a_hangup_reaches_the_forwarder_alone(host: Host, run: Run) -> None:
    assert host.enrol() == 0
    agent = run()
    agent.wait_ready()
    old = host.places.token.read_text()
    host.places.token.write_text("another-token-of-this-host\n")
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "credentials were read anew" in agent.text(), f"the new token:\n{agent.text()}")
    send(host, "by the new token")
    assert [program["starts"] for program in agent.record["programs"]] == [1, 1]
    host.places.token.write_text(old)
    with pytest.raises(AssertionError):
        send(host, "by the old one")
    assert agent.stop() == 0


def test_a_signing_key_that_was_rotated_is_put_in_place_while_the_agent_runs(
    host: Host, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.enrol() == 0
    agent = run()
    agent.wait_ready()
    new = SigningKey("sk-2", "tss_sk-2_" + "s" * 43)
    written = tmp_path / "secret"
    written.write_text(f"{new.secret}\nSigning key sk-2 of agent web-1. Its secret is shown this once.\n")
    # The server takes the new one alone from now on: whatever still came signed by the old one would be a trouble.
    host.site.ingest.keys = {new.key_id: new.secret}
    assert host.command("signing-key", "--secret-file", str(written)) == 0
    assert "sk-2" in capsys.readouterr().out
    assert host.places.state.joinpath("signing_key.json").stat().st_mode & 0o077 == 0
    send(host, "by the new key")
    wait_for(lambda: arrived(host) == ["by the new key"], f"the line:\n{agent.text()}", 60)
    host.site.control.signing_key = new
    host.site.control.troubles.clear()
    assert agent.stop() == 0
    assert "credentials were read anew, signing key sk-2" in agent.text()
    for wrong in ("tse_good", "tss_sk-2_short", ""):
        written.write_text(wrong)
        assert host.command("signing-key", "--secret-file", str(written)) == 2


def test_a_second_one_is_refused_and_settings_that_cannot_be_used_end_it(host: Host, run: Run) -> None:
    assert host.enrol() == 0
    agent = run()
    agent.wait_ready()
    second = run()
    assert second.process.wait(60) == 2
    assert "an agent runs on" in second.text()
    assert agent.stop() == 0
    host.places.forwarder.write_text(host.places.forwarder.read_text().replace("https://", "http://"))
    third = run()
    assert third.process.wait(60) == 2
    assert "server.url must be https" in third.text()
    assert "trustsoc-agent doctor" in third.text()


def test_nobody_runs_without_an_identity(host: Host, run: Run) -> None:
    agent = run()
    assert agent.process.wait(60) == 2
    assert "enroll" in agent.text()
