"""Every operation of the API with generated input, valid and not: no 500, and answers as the OpenAPI document says."""

from __future__ import annotations

import base64
import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agent.contract import SigningKey, new_nonce, sign
from bench.system import System
from tests.e2e.conftest import Tenant, admin_headers, tenants_of

EXAMPLES = 12
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
# They would wait for the language model, or change what the other tests of the session stand on.
LEFT_OUT = re.compile(r"^/advisor/analyze$|^/api/admin/shards")
SIGNED = re.compile(r"^/agent/(?!enroll)")


@pytest.fixture(scope="module")
def schema(system: System) -> schemathesis.BaseSchema:
    document = httpx.get(f"{system.base_url}/api/openapi.json").json()
    made = schemathesis.openapi.from_dict(document)
    made.config.update(base_url=system.base_url)
    return made


@pytest.fixture
def operated(system: System) -> Iterator[Tenant]:
    """A tenant whose key may do everything that a tenant's key can."""
    with tenants_of(system, "ingest", "read", "write", "operate", "reveal") as make:
        yield make()


class EnrolledAgent:
    """An agent of the tenant: signs requests, whatever their body is, when they are ready to be sent."""

    def __init__(self, tenant: Tenant) -> None:
        token = tenant.client.post("/api/agent-tokens", json={"agent": "fuzzed"}).json()["token"]
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fuzzed")])
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
        result_key = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        wanted = {
            "token": token,
            "csr": request.public_bytes(Encoding.PEM).decode(),
            "agent": "fuzzed",
            "result_key": base64.b64encode(result_key).decode(),
            "version": "1.0",
        }
        answer = httpx.post(f"{tenant.client.base_url}/agent/enroll", json=wanted)
        assert answer.status_code == 201, answer.text
        self.tenant_id: str = answer.json()["tenant"]
        self.key = SigningKey(**answer.json()["signing_key"])

    def __call__(self, prepared: Any) -> Any:
        body = prepared.body or b""
        prepared.body = body.encode() if isinstance(body, str) else body
        signed = sign(
            self.key,
            method=prepared.method,
            path=httpx.URL(prepared.url).path,
            client_id=self.tenant_id,
            body=prepared.body,
            idempotency_key="fuzz",
            timestamp_ms=time.time_ns() // 1_000_000,
            nonce=new_nonce(),
        )
        prepared.headers.update(signed.headers)
        return prepared


def test_generated_calls_get_described_answers(
    schema: schemathesis.BaseSchema, system: System, operated: Tenant
) -> None:
    agent = EnrolledAgent(operated)
    tested: set[str] = set()
    failures: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if LEFT_OUT.search(operation.path):
            continue
        is_admin, is_agent = operation.path.startswith("/api/admin"), bool(SIGNED.match(operation.path))
        headers = admin_headers(system) if is_admin else {"Authorization": f"Bearer {operated.key}"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                calls_of(operation, {} if is_agent else headers, agent if is_agent else None)()
            except FailureGroup as group:
                failures += [f"{operation.label}: {failure} {failure.message}" for failure in group.exceptions]
        tested.add(operation.path)
    assert failures == []
    assert tested >= {"/api/events", "/api/jobs", "/api/agents/{agent}/revoke", "/agent/jobs/pull", "/agent/files"}
    # The agent was let in all the time: what it sent was judged, and not its signature.
    assert operated.get("/api/agents/fuzzed")["state"] == "active"


def calls_of(
    operation: schemathesis.APIOperation, headers: dict[str, str], auth: EnrolledAgent | None
) -> Callable[[], None]:
    """A property test of one operation."""
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and "wait_s" in case.body:
            case.body["wait_s"] = 0
        answer = case.call(headers=headers, timeout=30, auth=auth)
        statuses.add(answer.status_code)
        # Trouble that passes is an answer as well, and no answer to this input.
        if answer.status_code not in {429, 503}:
            case.validate_response(answer, checks=CHECKS)

    def calls() -> None:
        call()
        assert auth is None or 401 not in statuses, operation.label

    return calls
