"""A host with an agent on it: certificates, keys, a token, a configuration, and a server to send to."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.forwarder.config import Config, read_config
from agent.forwarder.process import Forwarder
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import PeerIdentity
from tests.unit.agent.forwarder.server import KEY, TinyServer, serving

TOKEN = "a-local-token-of-the-tests"
PROTOBUF = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/x-protobuf"}
GZIPPED = PROTOBUF | {"Content-Encoding": "gzip"}
_TENANT = TenantId(UUID("11111111-1111-4111-8111-111111111111"))


@dataclass(frozen=True, slots=True)
class Host:
    """The files of an agent. `config` makes a configuration for a server's port; keywords replace settings."""

    folder: Path
    certificates: Path

    def stated(self, port: int, **ship: Any) -> dict[str, Any]:
        agent = self.certificates / "agents" / "acme.web-1.pem"
        # At port 1 there is nobody to wait for.
        drain_s = 0.5 if port > 1 else 0.01
        quick = {"first_retry_s": 0.01, "longest_retry_s": 0.05, "drain_s": drain_s, "answer_s": 5}
        return {
            "server": {
                "url": f"https://localhost:{port}",
                "authority": str(self.certificates / "authority.pem"),
                "certificate": str(agent),
                "key": str(agent.with_suffix(".key")),
                "client_id": "acme",
                "signing_key": str(self.folder / "signing_key.json"),
            },
            "listen": {"token": str(self.folder / "token"), "port": 0},
            "spool": {"folder": str(self.folder / "spool"), "least_free_bytes": 0},
            "ship": quick | {"statement_s": 600} | ship,
        }

    def config(self, port: int, **ship: Any) -> Config:
        return read_config(self.write(self.stated(port, **ship)))

    def write(self, stated: dict[str, Any]) -> Path:
        path = self.folder / "forwarder.yml"
        path.write_text(yaml.safe_dump(stated), encoding="utf-8")
        return path

    def sign_with(self, key_id: str, secret: str) -> None:
        (self.folder / "signing_key.json").write_text(json.dumps({"key_id": key_id, "secret": secret}))


def made_host(folder: Path, certificates: Path) -> Host:
    """A host with a token and a signing key that the test server knows."""
    made = Host(folder, certificates)
    (folder / "token").write_text(TOKEN + "\n")
    made.sign_with(KEY.key_id, KEY.secret)
    return made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forwarder") / "tls"
    authority = CertificateAuthority(folder)
    authority.create(["localhost", "127.0.0.1"], datetime.now(UTC))
    authority.issue_agent("acme", PeerIdentity(_TENANT, "web-1"), datetime.now(UTC))
    return folder


@pytest.fixture
def host(tmp_path: Path, certificates: Path) -> Host:
    return made_host(tmp_path, certificates)


@pytest.fixture
def server(certificates: Path) -> Iterator[TinyServer]:
    with serving(certificates) as running:
        yield running


@contextlib.asynccontextmanager
async def running(config: Config, **spool: Any) -> AsyncIterator[tuple[Forwarder, httpx.AsyncClient]]:
    """A forwarder on this event loop, and a sender of its host."""
    forwarder = Forwarder(replace(config, spool=replace(config.spool, **spool)))
    await forwarder.start()
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{forwarder.port}", timeout=30)
    try:
        yield forwarder, client
    finally:
        await client.aclose()
        await forwarder.stop()


def request(*lines: str) -> bytes:
    """An OTLP request in protobuf, a record a line."""
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    for line in lines:
        record = records.add()
        record.time_unix_nano = 1_772_366_400_000_000_000
        record.body.string_value = line
    return message.SerializeToString()


def gzipped(*lines: str) -> bytes:
    return gzip.compress(request(*lines), mtime=0)


def lines_of(bodies: list[bytes]) -> list[str]:
    """The lines of protobuf requests."""
    return [
        record.body.string_value
        for body in bodies
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)
    return value


@pytest.fixture(scope="module")
def listening(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[tuple[Forwarder, asyncio.AbstractEventLoop]]:
    """A forwarder on a loop of its own, for tests that make many requests of one; its server is away."""
    host = made_host(tmp_path_factory.mktemp("listening"), certificates)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    forwarder = Forwarder(host.config(1, drain_s=0.01))
    asyncio.run_coroutine_threadsafe(forwarder.start(), loop).result(30)
    yield forwarder, loop
    asyncio.run_coroutine_threadsafe(forwarder.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
