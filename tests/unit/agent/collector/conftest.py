"""A host on which a real collector reads and a real forwarder ships to a small server of TLS 1.3."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.collector import Collector, HostProfile
from agent.collector.binary import SYNCHRONOUS
from agent.collector.host_config import render_host_profile
from tests.unit.agent.forwarder.conftest import TOKEN, Host, lines_of, made_host, wait_for
from tests.unit.agent.forwarder.conftest import certificates as certificates  # noqa: PLC0414  # a fixture of these tests too
from tests.unit.agent.forwarder.server import TinyServer, serving

UP_S = 60.0


class Chain:
    """Collector, forwarder and server of one host. The forwarder keeps its port when it is killed and started."""

    def __init__(self, host: Host, server: TinyServer) -> None:
        self.host, self.server = host, server
        self.logs = host.folder / "logs"
        self.logs.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        self.endpoint = f"http://127.0.0.1:{port}"
        stated = host.stated(server.port, statement_s=0.3)
        stated["listen"]["port"] = port
        self._config = host.write(stated)
        self._ready = host.folder / "ready"
        self._process: subprocess.Popen[bytes] | None = None
        self.start_forwarder()

    def start_forwarder(self) -> None:
        self._ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "agent.forwarder", "--config", str(self._config)]
        with (self.host.folder / "forwarder.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "--ready-file", str(self._ready)], stderr=log)
        wait_for(lambda: self._ready.exists() and self._ready.read_text(), "the forwarder", UP_S)

    def kill_forwarder(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def collector(self, profile: HostProfile | str) -> Collector:
        """One that runs this profile; a text is a configuration as it is."""
        text = profile if isinstance(profile, str) else render_host_profile(profile, "small")
        return Collector(text, TOKEN, self.host.folder / "collector", arguments=(SYNCHRONOUS,))

    def lines(self) -> Counter[str]:
        """What has reached the server, with how often."""
        return Counter(lines_of(self.server.journal.bodies()))

    def wait_lines(self, expected: set[str]) -> Counter[str]:
        def all_there() -> bool:
            return expected <= set(self.lines())

        try:
            wait_for(all_there, "every line", 40.0)
        except AssertionError:
            missing = sorted(expected - set(self.lines()))
            raise AssertionError(f"{len(missing)} of {len(expected)} lines are missing: {missing[:5]}") from None
        return self.lines()

    def records(self) -> list[dict[str, Any]]:
        """What has reached the server, whole: resource, attributes and body as OTLP's JSON."""
        return [
            record | {"resource": resource.get("resource", {})}
            for body in self.server.journal.bodies()
            for resource in MessageToDict(ExportLogsServiceRequest.FromString(body)).get("resourceLogs", [])
            for scope in resource.get("scopeLogs", [])
            for record in scope.get("logRecords", [])
        ]

    def wait_records(self, count: int) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.records()) >= count, f"{count} records", 40.0)
        return self.records()

    def everything(self) -> str:
        """All that the server got, as one text in which a secret can be looked for."""
        return json.dumps(self.records(), ensure_ascii=False)

    def close(self) -> None:
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill_forwarder()


@pytest.fixture
def chain(tmp_path: Path, certificates: Path) -> Iterator[Chain]:
    with serving(certificates) as server:
        made = Chain(made_host(tmp_path, certificates), server)
        yield made
        made.close()


def append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
