"""One whole system for the session, brought up by its own command line; every test takes tenants of its own."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.system import System, free_port, running_system
from cluster.certificates import CertificateAuthority
from tests.e2e.agent_relay import Relay

T = TypeVar("T")
_names = itertools.count(1)
PROTOBUF = {"content-type": "application/x-protobuf"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def syslog_doors(tmp_path_factory: pytest.TempPathFactory) -> SyslogDoors:
    """Listeners for syslog over TCP and TLS. Their key file is written by the test that uses them."""
    folder = tmp_path_factory.mktemp("syslog")
    authority = CertificateAuthority(folder / "tls")
    authority.create(["localhost", "127.0.0.1"], datetime.now(UTC))
    return SyslogDoors(free_port(), free_port(), folder / "key", authority.server_path, authority.certificate_path)


@pytest.fixture(scope="session")
def relay() -> Iterator[Relay]:
    """What lies between enrolled agents and the system: the address that they are told is the relay's."""
    made = Relay()
    yield made
    made.down()


@pytest.fixture(scope="session")
def system(syslog_doors: SyslogDoors, relay: Relay) -> Iterator[System]:
    """Without the language model, which tests/e2e/with_model has."""
    stated = {"TRUSTSOC_SYSLOG_LISTENERS": syslog_doors.setting, "TRUSTSOC_AGENT_URL": relay.url}
    with running_system(environment=stated) as running:
        relay.leads_to(running.tls_url)
        yield running


@dataclass(frozen=True, slots=True)
class SyslogDoors:
    """Where the system takes syslog: two ports, the file with their key, the certificate and who has signed it."""

    tcp_port: int
    tls_port: int
    key_file: Path
    certificate: Path
    authority: Path

    @property
    def setting(self) -> str:
        """The value of TRUSTSOC_SYSLOG_LISTENERS."""
        key = str(self.key_file)
        tls = {"certificate": str(self.certificate), "key": str(self.certificate.with_suffix(".key"))}
        return json.dumps([{"port": self.tcp_port, "key_file": key}, {"port": self.tls_port, "key_file": key} | tls])


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of one test: clients with a key that may send and read."""

    name: str
    key: str
    client: httpx.Client

    def send(self, body: bytes, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/v1/logs", content=body, headers=PROTOBUF | named)

    def send_lines(self, lines: list[tuple[int, str]], **attributes: str) -> httpx.Response:
        return self.send(gzip.compress(lines_request(lines, **attributes), mtime=0), content_encoding="gzip")

    def get(self, path: str, **params: Any) -> Any:
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def await_judged(self) -> dict[str, Any]:
        """The tenant's counts once all that is durable has been judged."""
        return wait_for(lambda: _judged(self.get("/api/status")["counts"]), "all batches judged")


def _judged(counts: dict[str, Any]) -> dict[str, Any] | None:
    return counts if counts["judged"] == counts["batches"] else None


def lines_request(lines: list[tuple[int, str]], **attributes: str) -> bytes:
    """An OTLP request of (time in ns, line) pairs."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for at, line in lines:
        record = records.add()
        record.time_unix_nano = at
        record.body.string_value = line
        for name, value in attributes.items():
            attribute = record.attributes.add()
            attribute.key, attribute.value.string_value = name.replace("_", "."), value
    return request.SerializeToString()


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 90) -> T:
    """The first truthy value of the condition."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def admin_headers(system: System) -> dict[str, str]:
    folder = Path(system.process.cmdline()[system.process.cmdline().index("--data-dir") + 1])
    return {"Authorization": f"Bearer {json.loads((folder / 'client.json').read_bytes())['admin_key']}"}


@contextmanager
def tenants_of(system: System, *scopes: str) -> Iterator[Callable[[], Tenant]]:
    """Makes tenants, each with a key of these scopes."""
    clients: list[httpx.Client] = []
    admin = httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=60)

    def make() -> Tenant:
        name = f"test-{next(_names)}"
        assert admin.post("/api/admin/tenants", json={"name": name}).status_code == 201
        made = admin.post(f"/api/admin/tenants/{name}/keys", json={"label": "test", "scopes": list(scopes)}).json()
        client = httpx.Client(base_url=system.base_url, headers={"Authorization": f"Bearer {made['key']}"}, timeout=60)
        clients.append(client)
        return Tenant(name, made["key"], client)

    yield make
    for client in [*clients, admin]:
        client.close()


@pytest.fixture
def new_tenant(system: System) -> Iterator[Callable[[], Tenant]]:
    with tenants_of(system, "ingest", "read") as make:
        yield make


@pytest.fixture
def tenant(new_tenant: Callable[[], Tenant]) -> Tenant:
    return new_tenant()
