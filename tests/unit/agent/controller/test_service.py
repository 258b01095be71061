"""The collector as a child: its words are in the agent's log; no flood of them, no secret, no orders to a terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.collector.binary import SYNCHRONOUS, CollectorError, find_binary, safe_arguments
from agent.controller.service import ChildService, ServiceTrouble

TOKEN = "the-token-of-this-host"
READY = "echo 'Everything is ready' >&2"


@contextmanager
def child(script: str) -> Iterator[ChildService]:
    service = ChildService(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin", "TRUSTSOC_INGEST_KEY": TOKEN})
    try:
        yield service
    finally:
        service.stop()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "trustsoc.collector"]


def test_its_lines_are_in_the_log_without_secrets_and_without_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with child(f"printf 'key %s \\033[2J\\n' $TRUSTSOC_INGEST_KEY >&2; {READY}; exec sleep 60") as service:
        service.restart()
        assert said(caplog) == ["key [TRUSTSOC_INGEST_KEY] \ufffd[2J", "Everything is ready"]
        assert service.alive()


def test_a_flood_is_counted_instead_of_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flood = "i=0; while [ $i -lt 5000 ]; do echo line $i >&2; i=$((i+1)); done"
    with child(f"{flood}; {READY}; exec sleep 60") as service:
        service.restart()
        service.stop()
        lines = said(caplog)
    assert "line 0" in lines
    assert len(lines) < 1000
    left_out = sum(int(line.split()[0]) for line in lines if line.endswith("further lines are not in this log"))
    assert left_out + sum(not line.endswith("not in this log") for line in lines) == 5001


def test_what_it_says_before_it_fails_is_told_without_its_secrets() -> None:
    with child("echo bad value $TRUSTSOC_INGEST_KEY >&2; exit 3") as service, pytest.raises(ServiceTrouble) as caught:
        service.restart()
    assert "bad value [TRUSTSOC_INGEST_KEY]" in str(caught.value)


def test_offsets_are_stored_after_the_lines_where_the_program_can_do_that() -> None:
    try:
        binary = find_binary()
    except CollectorError as error:
        pytest.skip(str(error))
    assert safe_arguments(binary) == (SYNCHRONOUS,)


@pytest.mark.parametrize("program", ["/bin/true", "/bin/false", "/nowhere/otelcol"])
def test_a_program_that_knows_no_such_gate_is_not_given_it(program: str) -> None:
    """One that does not know a gate would not start with it."""
    assert safe_arguments(Path(program)) == ()
