"""Lines of a host's files, through collector, forwarder, signed ingest and store, while everything between them fails.

One enrolled host for all tests. What is asked every time: each line is there, it is there once, and host and server
keep the same books; where a line may come twice, the ledger names it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.system import System
from tests.e2e.agent_relay import Relay
from tests.e2e.conftest import tenants_of, wait_for
from tests.e2e.enrolled_host import EnrolledHost, append, numbered

AN_HOUR_OFF = Path(__file__).with_name("agent_an_hour_off.py")


@pytest.fixture(scope="module")
def host(system: System, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnrolledHost]:
    with tenants_of(system, "ingest", "read", "operate") as make:
        made = EnrolledHost(system, make(), relay.url, tmp_path_factory.mktemp("logs-host"), "web-1")
        try:
            made.start_forwarder()
            made.start_controller()
            # The controller asks for jobs once its collector reads.
            assert made.ping()["state"] == "succeeded"
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def network(relay: Relay) -> Iterator[None]:
    yield
    relay.lose_answers = 0
    relay.down()
    relay.up()


def assert_balanced(host: EnrolledHost, found: Counter[str]) -> None:
    """The tenant has exactly what the ledger says was stored, and the ledger lacks nothing and holds nothing beyond."""
    row = host.ledger()
    said = row["statement"]
    assert (said["missing"], said["excess"], said["in_flight"], said["rejected"]) == (0, 0, 0, {})
    assert said["stored"] + said["duplicate"] == said["accepted"] == row["server"]["stored_records"]
    assert found.total() == said["accepted"]


def assert_each_once(host: EnrolledHost, lines: list[str]) -> None:
    found = host.await_lines(lines)
    assert {line: found[line] for line in lines} == dict.fromkeys(lines, 1)
    assert_balanced(host, found)


def await_spooled(host: EnrolledHost, records: int) -> None:
    """Returns when at least so many wait in the spool, while the server is away."""
    wait_for(lambda: host.status()["books"]["in_flight"] >= records, "the lines in the spool", 30)


def rotated(log: Path, kept: int = 9) -> Path:
    """As logrotate does: app.log.1 becomes app.log.2, and so on; where app.log goes next."""
    for number in range(kept, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    return log.with_name(f"{log.name}.1")


def test_rotations_while_the_server_is_away_lose_and_double_nothing(host: EnrolledHost, relay: Relay) -> None:
    log, lines = host.logs / "rotating.log", numbered("before", 20)
    append(log, *lines)
    host.await_lines(lines)
    relay.down()
    for number in range(3):
        lines += (renamed := numbered(f"renamed-{number}", 20))
        append(log, *renamed)
        log.replace(rotated(log))
        lines += (late := numbered(f"late-{number}", 5))
        append(log.with_name("rotating.log.1"), *late)
        lines += (copied := numbered(f"copied-{number}", 20))
        append(log, *copied)
        await_spooled(host, len(lines) - 20)
        shutil.copyfile(log, rotated(log))
        os.truncate(log, 0)
    relay.up()
    assert_each_once(host, lines)


def test_lines_written_while_the_server_dies_and_comes_back_are_stored_once(host: EnrolledHost, system: System) -> None:
    edges = [part for part in system.processes() if "ServeReplica:trustsoc:Edge" in " ".join(part.cmdline())]
    assert edges
    log, lines = host.logs / "outage.log", numbered("outage", 60)
    append(log, *lines[:20])
    for edge in edges:
        edge.kill()
    append(log, *lines[20:40])
    await_spooled(host, 20)

    def ready() -> bool:
        try:
            return httpx.get(f"{system.base_url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    wait_for(lambda: not any(edge.is_running() for edge in edges) and ready(), "another edge", 90)
    append(log, *lines[40:])
    assert_each_once(host, lines)


def test_an_answer_that_is_lost_makes_a_duplicate_in_the_books_and_none_in_the_store(
    host: EnrolledHost, relay: Relay
) -> None:
    before = host.ledger()["statement"]["duplicate"]
    lost, lines = relay.answers_lost, numbered("answer-lost", 30)
    relay.lose_answers = 2
    append(host.logs / "answers.log", *lines)
    assert_each_once(host, lines)
    assert relay.answers_lost == lost + 2
    assert host.ledger()["statement"]["duplicate"] > before


def test_a_forwarder_killed_at_random_moments_loses_nothing_and_the_ledger_names_what_came_twice(
    host: EnrolledHost, relay: Relay
) -> None:
    rng = random.Random(time.time_ns())  # noqa: S311
    log, lines = host.logs / "killed.log", []
    for kill in range(6):
        lines += (some := numbered(f"killed-{kill}", rng.randrange(5, 60)))
        append(log, *some)
        # Not a wait for something: a moment of the pipeline that nobody chose.
        time.sleep(rng.random() * 0.3)
        host.kill_forwarder()
        if kill % 2:
            relay.cut()
        host.start_forwarder()
    # The collector sends again what was on its way: with what came twice, all of it is in the books.
    assert_balanced(host, host.await_lines(lines))


def test_a_torn_spool_is_mended_and_loses_nothing_that_was_acknowledged(host: EnrolledHost, relay: Relay) -> None:
    relay.down()
    lines = numbered("torn", 40)
    append(host.logs / "torn.log", *lines)
    await_spooled(host, 40)
    before = host.counter("torn_bytes")
    host.kill_forwarder()
    newest = host.spool_segments()[-1]
    with newest.open("ab") as file:
        # An entry that a power cut ended half way: a good beginning of the one before, and noise.
        file.write(newest.read_bytes()[-37:] + os.urandom(100))
    host.start_forwarder()
    assert host.counter("torn_bytes") == before + 137
    relay.up()
    assert_each_once(host, lines)


def test_a_full_spool_turns_the_collector_away_until_there_is_room(host: EnrolledHost, relay: Relay) -> None:
    relay.down()
    lines = numbered("full", 900, size=1000)
    append(host.logs / "full.log", *lines)
    wait_for(lambda: "spool" in host.status()["troubles"], "a refusal", 30)
    assert host.status()["spool_bytes"] <= host.status()["spool_limit_bytes"]
    assert 0 < host.status()["books"]["in_flight"] < 900
    relay.up()
    assert_each_once(host, lines)


def test_while_the_local_token_is_another_one_the_collector_keeps_its_lines(host: EnrolledHost) -> None:
    assert host.forwarder is not None
    old, lines = host.places.token.read_text(), numbered("denied", 30)
    host.places.token.write_text("a-token-that-nobody-told-the-collector\n")
    host.forwarder.send_signal(signal.SIGHUP)
    refused = host.counter("wrong_tokens_total")
    log = host.logs / "denied.log"
    append(log, *lines[:10])
    wait_for(lambda: host.counter("wrong_tokens_total") > refused, "a refusal", 30)
    append(log, *lines[10:])
    assert host.status()["books"]["in_flight"] == 0
    host.places.token.write_text(old)
    host.forwarder.send_signal(signal.SIGHUP)
    assert_each_once(host, lines)


@pytest.mark.parametrize("hours", ["-1", "+1"])
def test_a_forwarder_whose_clock_is_an_hour_off_is_put_right_by_the_server(host: EnrolledHost, hours: str) -> None:
    host.kill_forwarder()
    host.start_forwarder(str(AN_HOUR_OFF), hours, "agent.forwarder")
    lines = numbered(f"off{hours}", 20)
    append(host.logs / "clock.log", *lines)
    assert_each_once(host, lines)
    assert abs(abs(host.status()["clock_offset_s"]) - 3600) < 60
    host.kill_forwarder()
    host.start_forwarder()
