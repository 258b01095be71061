"""The port of OTLP/gRPC is shared by replicas, so a second installation must be kept from joining in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bench.system import free_port
from cluster.cli_running import grpc_address_of, settings_of, show_ready
from cluster.data_directory import DataDirectory
from cluster.detached import Ready
from cluster.doctor_machine import address_in_use
from cluster.render import terminal
from serve.settings import Settings


@pytest.fixture
def shared_port() -> Iterator[int]:
    """A port that somebody listens on who would let others in."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_shared_port_counts_as_taken(shared_port: int) -> None:
    assert address_in_use("127.0.0.1", shared_port) == "Address already in use"


def test_up_does_not_join_another_installation(
    run: Any, shared_port: int, monkeypatch: pytest.MonkeyPatch, directory: DataDirectory
) -> None:
    monkeypatch.setenv("TRUSTSOC_GRPC_PORT", str(shared_port))
    outcome = run("up", "--port", str(free_port()), "--llm", "none")
    assert outcome.code == 1
    assert f"cannot listen on 127.0.0.1:{shared_port} for OTLP/gRPC" in outcome.err
    assert "TRUSTSOC_GRPC_PORT" in outcome.err
    assert directory.runtime() is None


def test_the_port_goes_with_the_http_port_unless_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRUSTSOC_GRPC_PORT", raising=False)
    assert Settings().grpc_port == 4317
    assert Settings(http_port=5318).grpc_port == 5317
    monkeypatch.setenv("TRUSTSOC_GRPC_PORT", "0")
    assert Settings(http_port=5318).grpc_port == 0


def test_the_address_is_shown_unless_the_door_is_shut(
    directory: DataDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRUSTSOC_GRPC_PORT", raising=False)
    address = grpc_address_of(settings_of(directory, 5318, "none"))
    show_ready(terminal(), Ready("http://127.0.0.1:5318"), directory, foreground=True, grpc=address)
    assert "127.0.0.1:5317" in capsys.readouterr().out
    monkeypatch.setenv("TRUSTSOC_GRPC_PORT", "0")
    assert grpc_address_of(settings_of(directory, 5318, "none")) == ""
