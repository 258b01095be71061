"""The Control API over a real database: the application's own routes, doors and keys, and hosts that speak to it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from pydantic import SecretStr

from actors.metrics import Metrics
from actors.rule_enforcer import RuleEnforcer
from agent.contract import SigningKey, new_nonce, sign
from agent.jobs import Job, Result, public_key, sign_result, verify_job
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.auth import Authenticator, authenticator_on
from serve.control.agent_door import AgentAuthenticator
from serve.control.opening import Control, ControlParts, open_control
from serve.edge import answer_errors
from serve.masking.services import masks_of_records
from serve.peer import PeerIdentity, PeerSeal
from serve.routes_rules import rule_routes
from serve.rule_listing import RuleListing
from serve.settings import Settings
from serve.signing_masters import ensure_master
from serve.signing_services import signing_keyring
from store.journal import JournalWriter
from store.nonces import NonceStore
from store.postgres import Pool, tenant_transaction
from store.tenants import Scope, create_key
from tests.postgres.fixtures import Database
from tests.postgres.test_rules import HereChecks


class ControlEdge:
    """One replica's Control API with keys of a tenant by what they may: operator, second, reader, sender."""

    def __init__(self, application: FastAPI, settings: Settings, app: Pool, seal: PeerSeal, control: Control) -> None:
        self.settings, self.app, self.seal, self.control = settings, app, seal, control
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(application, raise_app_exceptions=False), base_url="http://edge", timeout=60
        )
        self.keys: dict[str, str] = {}
        self.rules: RuleEnforcer
        self.authenticator: Authenticator
        self.metrics: Metrics
        self.tenant = TenantId(UUID(int=0))

    async def use(self, tenant: TenantId) -> None:
        """Makes keys of the tenant and speaks for it from now on."""
        scopes: dict[str, list[Scope]] = {
            "operator": ["operate", "read"],
            "second": ["operate", "read"],
            "reader": ["read"],
            "sender": ["ingest"],
        }
        self.tenant = tenant
        async with tenant_transaction(self.app, tenant) as tx:
            self.keys = {
                name: (await create_key(tx, name, wanted, actor="test")).secret_text for name, wanted in scopes.items()
            }

    async def call(self, method: str, path: str, body: Any = None, key: str = "operator") -> httpx.Response:
        """A request of a holder of a key of the tenant; '' for none."""
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        return await self.client.request(method, path, json=body, headers=headers)

    async def made(self, path: str, body: Any, key: str = "operator") -> Any:
        """What a request made, which must succeed."""
        answer = await self.call("POST", path, body, key)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    async def token(self, **wanted: Any) -> str:
        token: str = (await self.made("/api/agent-tokens", wanted))["token"]
        return token

    async def host(self, name: str = "web-1", **labels: str) -> Host:
        """A host that was enrolled with a token."""
        host = Host(self, name)
        answer = await host.enrol(await self.token(labels=labels))
        assert answer.status_code == 201, answer.text
        host.take(answer.json())
        return host

    async def job(self, **wanted: Any) -> Any:
        """The job of a request, which must succeed."""
        return (await self.made("/api/jobs", {"agent": "web-1", "type": "PING"} | wanted))["job"]

    async def shown(self, job_id: str) -> Any:
        """A job with its evidence."""
        return (await self.call("GET", f"/api/jobs/{job_id}")).json()


class Host:
    """A host as the agent on it is: its keys, its certificate, and signed requests."""

    def __init__(self, edge: ControlEdge, name: str) -> None:
        self.edge, self.name = edge, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.result_key = Ed25519PrivateKey.generate()
        self.signing_key = SigningKey("none", "none")
        self.tenant = ""
        self.answer: dict[str, Any] = {}
        self.offset_ms = 0

    def csr(self, key: Any = None) -> str:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "whatever")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        wanted = key or self.key
        hashed = None if isinstance(wanted, Ed25519PrivateKey) else SHA256()
        return builder.sign(wanted, hashed).public_bytes(Encoding.PEM).decode()

    def request(self, token: str, /, **changes: Any) -> dict[str, Any]:
        """The body of an enrolment."""
        raw = self.result_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        body = {"token": token, "csr": self.csr(), "agent": self.name, "result_key": base64.b64encode(raw).decode()}
        return body | {"version": "1.0", "platform": "linux"} | changes

    async def enrol(self, token: str, /, **changes: Any) -> httpx.Response:
        return await self.edge.client.post("/agent/enroll", json=self.request(token, **changes))

    def take(self, answer: dict[str, Any]) -> None:
        self.answer, self.tenant = answer, answer["tenant"]
        self.signing_key = SigningKey(**answer["signing_key"])

    def pinned(self) -> dict[str, Any]:
        keys = self.answer["job_keys"]
        return {item["key_id"]: public_key(base64.b64decode(item["public_key"])) for item in keys}

    def verified(self, item: dict[str, Any]) -> Job:
        """The job of an item, once the agent's own check takes it."""
        now_ms = time.time_ns() // 1_000_000
        tenant = UUID(self.tenant)
        return verify_job(item["job"].encode(), item["signature"], self.pinned(), now_ms, tenant, self.name)

    def envelope(self, method: str, path: str, body: bytes, **changes: Any) -> dict[str, str]:
        parts: dict[str, Any] = {
            "client_id": self.tenant,
            "idempotency_key": "once",
            "timestamp_ms": time.time_ns() // 1_000_000 + self.offset_ms,
            "nonce": new_nonce(),
        }
        return sign(self.signing_key, method=method, path=path, body=body, **parts | changes).headers

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """A signed request; `headers` are added to its envelope."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        signed = self.envelope(method, path, data) | {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.edge.client.request(method, path, content=data, headers=signed)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.call("POST", path, body, **headers)

    async def pull(self, wait_s: float = 0, most: int = 16, **health: Any) -> Any:
        """What the agent gets of its jobs; the request must succeed."""
        answer = await self.post("/agent/jobs/pull", self.pulling(wait_s, most, **health))
        assert answer.status_code == 200, answer.text
        return answer.json()

    @staticmethod
    def pulling(wait_s: float = 0, most: int = 16, **health: Any) -> dict[str, Any]:
        said = {"version": "1.0", "started_at": 1_765_400_000_000, "status": "ok"} | health
        return {"wait_s": wait_s, "most": most, "health": said}

    def certified(self, name: str | None = None, tenant: str | None = None) -> dict[str, str]:
        """The header that our own listener adds for a verified certificate."""
        identity = PeerIdentity(TenantId(UUID(tenant or self.tenant)), name or self.name)
        header, value = self.edge.seal.header(identity)
        return {header.decode(): value.decode()}

    def result(self, item: dict[str, Any], state: str = "succeeded", **changes: Any) -> dict[str, str]:
        """The signed result of an item."""
        job = json.loads(item["job"])
        fields: dict[str, Any] = {
            "job": UUID(job["id"]),
            "lease": UUID(item["lease"]),
            "attempt": item["attempt"],
            "agent": self.name,
            "state": state,
            "reason": "",
            "detail": "",
            "output": "",
            "output_truncated": False,
            "started_at": 1,
            "ended_at": 0 if state == "running" else 2,
            "data": {},
        }
        text, signature = sign_result(self.result_key, Result(**fields | changes))
        return {"result": text, "signature": signature}

    async def say(self, item: dict[str, Any], state: str = "succeeded", **changes: Any) -> httpx.Response:
        return await self.post("/agent/jobs/result", self.result(item, state, **changes))


@asynccontextmanager
async def control_edge(database: Database, folder: Path, **settings: Any) -> AsyncIterator[ControlEdge]:
    """A replica of its own over the test's database."""
    made = Settings(
        data_dir=folder,
        app_dsn=SecretStr(database.dsn("trustsoc_app")),
        tls_port=6443,
        key_cache_s=0,
        **settings,
    )
    ensure_master(made.signing_folder)
    if not (folder / "tls").exists():
        CertificateAuthority(folder / "tls").create(["localhost"], datetime.now(UTC))
    app, writer = await database.pool("trustsoc_app", 12), await database.writer()
    seal = PeerSeal()

    authenticator = authenticator_on(app, seal, 0, Authenticator)
    agents = authenticator_on(app, seal, 0, AgentAuthenticator)
    nonces = NonceStore(writer)
    application = FastAPI()
    answer_errors(application)
    metrics = Metrics()
    keyring, journal = signing_keyring(made, app), JournalWriter(writer)
    rules = RuleEnforcer(app, writer, journal, HereChecks(), masks_of=lambda tx: masks_of_records(tx, keyring))

    async def enforce_rules(tenant: TenantId) -> None:
        await rules.install_starter("test")
        await rules.enforce(tenant, datetime.now(UTC))

    parts = ControlParts(app, writer, authenticator, agents, nonces, keyring, metrics, enforce_rules)
    async with open_control(made, parts) as control:
        control.add_to(application)
        application.include_router(rule_routes(RuleListing(authenticator, app)))
        edge = ControlEdge(application, made, app, seal, control)
        edge.authenticator, edge.metrics = authenticator, metrics
        edge.rules = rules
        await edge.use(await database.tenant())
        yield edge
        await edge.client.aclose()
    await journal.close()
    await nonces.close()
