"""Signed batches over TLS 1.3 with a client certificate, against the whole running system."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from agent.contract import SigningKey, new_nonce, sign
from bench.system import System
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import PeerIdentity
from tests.e2e.conftest import Tenant, admin_headers, lines_request, wait_for

PATH = "/ingest/logs"
NOW_NS = 1_772_366_400_000_000_000


class Agent:
    """A sender of a tenant: its signing key, its certificate and its connection."""

    def __init__(self, system: System, admin: httpx.Client, tenant: Tenant, name: str) -> None:
        self.system, self.admin, self.tenant, self.name = system, admin, tenant, name
        self.address = f"/api/admin/tenants/{tenant.name}/signing-keys"
        self.key = self.made(admin.post(self.address, json={"agent": name}))
        self.identity = PeerIdentity(tenant_id(admin, tenant), name)
        self.certificate = CertificateAuthority(system.directory / "tls").issue_agent(
            tenant.name, self.identity, datetime.now(UTC)
        )
        self.client = httpx.Client(
            base_url=system.tls_url, verify=tls_context(system, self.certificate), timeout=60, trust_env=False
        )

    @staticmethod
    def made(answer: httpx.Response) -> SigningKey:
        assert answer.status_code == 201, answer.text
        return SigningKey(answer.json()["key_id"], answer.json()["secret"])

    def headers(self, body: bytes, key: SigningKey | None = None, **changes: Any) -> dict[str, str]:
        parts: dict[str, Any] = {
            "client_id": self.tenant.name,
            "idempotency_key": "batch-1",
            "timestamp_ms": int(datetime.now(UTC).timestamp() * 1000),
            "nonce": new_nonce(),
        }
        envelope = sign(key or self.key, method="POST", path=PATH, body=body, **{**parts, **changes})
        return envelope.headers | {
            "Authorization": f"Bearer {self.tenant.key}",
            "Content-Type": "application/x-protobuf",
        }

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.client.post(PATH, content=body, headers=headers)


def tenant_id(admin: httpx.Client, tenant: Tenant) -> TenantId:
    items = admin.get("/api/admin/tenants").json()["items"]
    return TenantId(UUID(next(item["tenant_id"] for item in items if item["name"] == tenant.name)))


def tls_context(system: System, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(system.directory / "tls" / "authority.pem"))
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


@pytest.fixture
def admin(system: System) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=60) as client:
        yield client


@pytest.fixture
def agent(system: System, admin: httpx.Client, tenant: Tenant) -> Iterator[Agent]:
    made = Agent(system, admin, tenant, "web-1")
    yield made
    made.client.close()


def test_a_signed_batch_is_durable_once_and_its_replay_is_refused(agent: Agent, tenant: Tenant) -> None:
    body = lines_request([(NOW_NS, "Accepted publickey for alice from 192.0.2.7 port 4022 ssh2")])
    headers = agent.headers(body)
    first = agent.post(body, headers)
    assert (first.status_code, first.headers["X-Batch-Duplicate"]) == (200, "false"), first.text
    replay = agent.post(body, headers)
    assert replay.status_code == 409
    assert b"X-Nonce was used before" in replay.content
    retry = agent.post(body, agent.headers(body))
    assert (retry.status_code, retry.headers["X-Batch-Duplicate"]) == (200, "true")
    assert retry.headers["X-Batch-Seq"] == first.headers["X-Batch-Seq"]
    tenant.await_judged()
    assert len(tenant.get("/api/logs", **{"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"})["items"]) == 1


def test_a_wrong_clock_is_put_right_by_the_servers_time(agent: Agent) -> None:
    body = lines_request([(NOW_NS, "line")])
    behind = int((datetime.now(UTC) - timedelta(hours=2)).timestamp() * 1000)
    answer = agent.post(body, agent.headers(body, timestamp_ms=behind))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    corrected = agent.headers(body, timestamp_ms=int(answer.headers["X-Server-Time"]))
    assert agent.post(body, corrected).status_code == 200


def test_both_keys_verify_during_a_rotation_until_the_old_one_is_revoked(agent: Agent) -> None:
    body = lines_request([(NOW_NS, "line")])
    rotated = agent.admin.post(f"{agent.address}/rotate", json={"agent": agent.name, "overlap_hours": 1})
    new_key = Agent.made(rotated)
    assert agent.post(body, agent.headers(body)).status_code == 200
    again = agent.post(body, agent.headers(body, new_key))
    assert (again.status_code, again.headers["X-Batch-Duplicate"]) == (200, "true")
    listed = agent.admin.get(agent.address)
    assert {item["key_id"]: item["expires_at"] is None for item in listed.json()["items"]} == {
        agent.key.key_id: False,
        new_key.key_id: True,
    }
    assert agent.key.secret not in listed.text
    assert agent.admin.delete(f"{agent.address}/{agent.key.key_id}").status_code == 204
    wait_for(lambda: agent.post(body, agent.headers(body)).status_code == 401, "the old key refused", seconds=20)
    assert agent.post(body, agent.headers(body, new_key)).status_code == 200


def test_credentials_and_certificate_must_be_of_one_tenant_and_one_agent(
    system: System, admin: httpx.Client, agent: Agent, new_tenant: Any
) -> None:
    stranger = Agent(system, admin, new_tenant(), "web-1")
    colleague = Agent(system, admin, agent.tenant, "web-2")
    body = lines_request([(NOW_NS, "line")])
    try:
        assert stranger.post(body, agent.headers(body)).status_code == 403, "another tenant's certificate"
        assert colleague.post(body, agent.headers(body)).status_code == 403, "another agent's certificate"
        read = stranger.client.get("/api/status", headers={"Authorization": f"Bearer {agent.tenant.key}"})
        assert read.status_code == 403
        claimed = {"X-Forwarded-Client-Cert": f"URI={agent.identity.uri}", "X-Trustsoc-Peer": agent.identity.uri}
        assert stranger.post(body, agent.headers(body) | claimed).status_code == 403
    finally:
        stranger.client.close()
        colleague.client.close()


def test_a_certificate_alone_may_send_and_not_read(agent: Agent) -> None:
    body = lines_request([(NOW_NS, "line")])
    sent = agent.client.post("/v1/logs", content=body, headers={"Content-Type": "application/x-protobuf"})
    assert sent.status_code == 200
    signed = agent.headers(body)
    del signed["Authorization"]
    assert agent.post(body, signed).status_code == 200
    assert agent.client.get("/api/events").status_code == 403


def test_forged_headers_through_the_other_port_are_nobody(system: System, agent: Agent) -> None:
    body = lines_request([(NOW_NS, "line")])
    claimed = {"X-Forwarded-Client-Cert": f"URI={agent.identity.uri}", "X-Trustsoc-Peer": agent.identity.uri}
    kind = {"Content-Type": "application/x-protobuf"}
    with httpx.Client(base_url=system.base_url, timeout=60) as plain:
        assert plain.post("/v1/logs", content=body, headers=kind | claimed).status_code == 401
        unsigned = {"Authorization": f"Bearer {agent.tenant.key}"} | kind
        assert plain.post(PATH, content=body, headers=unsigned).status_code == 401
        assert plain.post(PATH, content=body, headers=agent.headers(body)).status_code == 200


def test_the_edge_speaks_tls_1_3_and_nothing_older(system: System) -> None:
    port = int(system.tls_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        modern = tls_context(system).wrap_socket(raw, server_hostname="localhost")
        assert modern.version() == "TLSv1.3"
        modern.close()
    old = tls_context(system)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(raw, server_hostname="localhost")


def test_a_renewed_certificate_of_the_edge_is_served_and_a_revoked_agent_is_not(agent: Agent, system: System) -> None:
    def edge_certificate() -> str:
        port = int(system.tls_url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as raw,
            tls_context(system).wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            return str((wrapped.getpeercert() or {})["serialNumber"])

    authority = CertificateAuthority(system.directory / "tls")
    before = edge_certificate()
    assert agent.client.get("/healthz").status_code == 200
    authority.renew(authority.server_path, datetime.now(UTC))
    authority.revoke(agent.certificate, datetime.now(UTC))
    wait_for(lambda: edge_certificate() != before, "the renewed certificate", seconds=30)

    def refused() -> bool:
        try:
            agent.client.get("/healthz")
        except httpx.TransportError:
            return True
        return False

    wait_for(refused, "the revoked certificate refused", seconds=30)
