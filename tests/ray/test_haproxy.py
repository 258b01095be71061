"""HAProxy as Serve would start it, with the configuration that the installed Serve writes: ours in every answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc  # type: ignore[import-untyped]  # ships without types
import httpx
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions

from bench.system import free_port
from cluster.haproxy import HAProxyUnusable, chosen_proxy, haproxy_environment, usable_binary
from cluster.haproxy_config import loopback_configuration, public_binds
from tests.e2e.conftest import wait_for

SERVICE = "opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc.add_LogsServiceServicer_to_server"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder and the ports of one proxy."""

    folder: Path
    http: int
    grpc: int
    upstream: int

    @property
    def configuration(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def command(self) -> list[str]:
        launcher = self.folder / "trustsoc-haproxy"
        return [str(launcher), "-db", "-f", str(self.configuration), "-dR"]


def write_configuration(place: Place, *, application: bool) -> str:
    """What Serve itself writes, in its own words."""
    server = ServerConfig(name="replica", host="127.0.0.1", port=place.upstream)
    spare = ServerConfig(name="spare", host="127.0.0.1", port=place.upstream)
    backends = {
        f"{protocol.value}-trustsoc": BackendConfig(
            name=f"{protocol.value}-trustsoc",
            path_prefix="/",
            app_name="trustsoc",
            servers=[server],
            fallback_server=spare,
            protocol=protocol,
        )
        for protocol in (RequestProtocol.HTTP, RequestProtocol.GRPC)
    }
    configuration = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=place.http),
        grpc_options=gRPCOptions(port=place.grpc, grpc_servicer_functions=[SERVICE]),
        socket_path=str(place.folder / "s"),
        server_state_base=str(place.folder),
        server_state_file=str(place.folder / "server-state"),
        has_received_routes=True,
        is_head=True,
    )
    HAProxyApi(
        configuration, backends if application else {}, str(place.configuration)
    )._generate_config_file_internal()
    return place.configuration.read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, free_port(), free_port(), free_port())


@pytest.fixture
def start(place: Place) -> Iterator[Callable[[], psutil.Process]]:
    """Starts the launcher as Serve does; whatever runs is ended with the test."""
    running: list[subprocess.Popen[bytes]] = []
    environment = os.environ | haproxy_environment(place.folder)

    def begin() -> psutil.Process:
        running.append(subprocess.Popen(place.command, env=environment))
        process = psutil.Process(running[-1].pid)
        wait_for(lambda: running[-1].poll() is not None or accepts(place.http), "the proxy listens", 30)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait(10)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_serve_writes_is_rewritten_once_and_for_all(place: Place) -> None:
    written = write_configuration(place, application=True)
    assert public_binds(written)
    rewritten = loopback_configuration(written, str(place.folder))
    assert not public_binds(rewritten)
    assert loopback_configuration(rewritten, str(place.folder)) == rewritten
    for gone in ("500.http", "status 404", "mode 666", "stats uri", "prometheus-exporter", " backup", "log 127.0.0.1"):
        assert gone in written
        assert gone not in rewritten
    for kept in ("server replica", "use_backend http-trustsoc", "nbsrv(http-trustsoc)", f"bind 127.0.0.1:{place.http}"):
        assert kept.lower() in rewritten.lower()


@pytest.mark.parametrize("application", [True, False], ids=["no live replica", "no application yet"])
def test_senders_are_asked_to_come_back(place: Place, start: Callable[[], psutil.Process], application: bool) -> None:
    write_configuration(place, application=application)
    process = start()
    for path in ("/v1/logs", "/api/events"):
        answer = httpx.post(f"http://127.0.0.1:{place.http}{path}", content=b"x" * 100_000, timeout=30)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["x-trust-soc"] == "proxy"
        assert answer.json()["code"] == 14
    with grpc.insecure_channel(f"127.0.0.1:{place.grpc}") as channel, pytest.raises(grpc.RpcError) as refused:
        LogsServiceStub(channel).Export(ExportLogsServiceRequest(), timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    details = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
    retry = RetryInfo()
    assert Status.FromString(details).details[0].Unpack(retry)
    assert retry.retry_delay.seconds == 1
    listening = {link.laddr for link in process.net_connections("inet") if link.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", place.http), ("127.0.0.1", place.grpc)}
    assert (place.folder / "s").stat().st_mode & 0o777 == 0o600


def test_a_reload_takes_over_from_the_process_before(place: Place, start: Callable[[], psutil.Process]) -> None:
    write_configuration(place, application=True)
    first = start()
    write_configuration(place, application=False)
    environment = os.environ | haproxy_environment(place.folder)
    arguments = [*place.command, "-sf", str(first.pid), "-x", str(place.folder / "s")]
    second = subprocess.Popen(arguments, env=environment)
    try:
        wait_for(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE, "the first one ends", 30)
        assert httpx.post(f"http://127.0.0.1:{place.http}/v1/logs").status_code == 503
        # Serve knows its workers by their command line and asks the socket for their process id.
        assert str(place.configuration) in psutil.Process(second.pid).cmdline()
        assert f"Pid: {second.pid}\n" in ask_socket(place, "show info")
    finally:
        second.kill()
        second.wait(10)


def test_it_dies_with_the_process_that_started_it(place: Place, start: Callable[[], psutil.Process]) -> None:
    write_configuration(place, application=True)
    child = "import os, subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    environment = os.environ | haproxy_environment(place.folder)
    parent = subprocess.Popen(
        [sys.executable, "-c", child, *place.command], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    proxy = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: accepts(place.http), "the proxy listens", 30)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    psutil.wait_procs([proxy], timeout=10)
    assert not accepts(place.http)


def test_a_configuration_that_would_be_public_does_not_run(place: Place) -> None:
    written = write_configuration(place, application=True)
    place.configuration.write_text(f"{written}frontend new_in_some_version\n    bind :1234\n", encoding="utf-8")
    environment = os.environ | haproxy_environment(place.folder)
    refused = subprocess.run(place.command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert refused.returncode == 1
    assert "bind :1234" in refused.stderr


def test_haproxy_is_taken_where_it_runs() -> None:
    assert usable_binary()
    assert chosen_proxy("haproxy") == "haproxy"
    assert chosen_proxy("python") == "python"


def test_the_python_proxy_serves_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(HAProxyUnusable, match="darwin"):
        usable_binary()
    assert chosen_proxy("haproxy") == "python"


def ask_socket(place: Place, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(place.folder / "s"))
        link.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: link.recv(65536), b"")).decode()
