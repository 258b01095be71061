"""A token makes one agent of one host, with a certificate for a key that never left it."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.typing import EventDict

from agent.contract import SigningKey
from serve.peer import identity_of
from serve.signing_masters import load_masters
from store.postgres import tenant_transaction
from store.signing_keys import create_signing_key
from tests.contract.control.edge import ControlEdge, Host


async def test_an_enrolled_agent_has_all_that_it_needs(edge: ControlEdge, logs: list[EventDict]) -> None:
    host = await edge.host("web-1", role="web")
    answer = host.answer
    assert (answer["tenant"], answer["agent"], answer["poll_s"]) == (str(edge.tenant), "web-1", 30)
    assert answer["endpoints"] == {"ingest": "https://127.0.0.1:6443", "control": "https://127.0.0.1:6443"}
    [job_key] = answer["job_keys"]
    assert set(job_key) == {"key_id", "public_key"}
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    authority = x509.load_pem_x509_certificate(answer["authority"].encode())
    certificate.verify_directly_issued_by(authority)
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert certificate.public_key().public_bytes(*encoding) == host.key.public_key().public_bytes(*encoding)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    identity = identity_of(names.get_values_for_type(x509.UniformResourceIdentifier))
    assert identity is not None
    assert (identity.tenant, identity.agent) == (edge.tenant, "web-1")
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    shown = (await edge.call("GET", "/api/agents/web-1", key="reader")).json()
    assert (shown["labels"], shown["status"], len(shown["certificates"])) == ({"role": "web"}, "unknown", 1)
    assert answer["signing_key"]["secret"] not in str(shown) + str(logs)


async def test_a_token_is_good_once_and_a_name_is_taken(edge: ControlEdge) -> None:
    token, other = await edge.token(), await edge.token()
    assert (await Host(edge, "web-1").enrol(token)).status_code == 201
    again = await Host(edge, "web-2").enrol(token)
    assert (again.status_code, again.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    taken = await Host(edge, "web-1").enrol(other)
    assert taken.status_code == 409
    assert "name" in taken.json()["detail"]
    # The refusal spent nothing.
    assert (await Host(edge, "web-3").enrol(other)).status_code == 201


async def test_tokens_that_enrol_nobody(edge: ControlEdge) -> None:
    token = await edge.token(agent="web-9")
    revoked = await edge.made("/api/agent-tokens", {})
    assert (await edge.call("DELETE", f"/api/agent-tokens/{revoked['token_id']}")).status_code == 204
    assert (await edge.call("DELETE", f"/api/agent-tokens/{revoked['token_id']}")).status_code == 404
    for text in (token, revoked["token"], "", "tse_", token[:-2] + "xx", edge.keys["operator"]):
        refused = await Host(edge, "web-1").enrol(text)
        assert refused.status_code == 401, text
        assert "X-Server-Time" in refused.headers
    assert (await Host(edge, "web-9").enrol(token)).status_code == 201
    assert [item["spent_by"] for item in (await edge.call("GET", "/api/agent-tokens")).json()["items"]] == [
        None,
        "web-9",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"csr": "no request"}, "csr"),
        ({"csr": "x" * 9000}, "csr"),
        ({"result_key": "AAAA"}, "result_key"),
        ({"result_key": "not base64!"}, "result_key"),
        ({"agent": "Web 1"}, "agent"),
        ({"version": ""}, "version"),
        ({"version": "a\nb"}, "version"),
        ({"more": 1}, "more"),
        ({"token": 5}, "token"),
    ],
)
async def test_bodies_that_enrol_nobody_and_spend_nothing(edge: ControlEdge, change: dict[str, Any], said: str) -> None:
    token = await edge.token()
    refused = await Host(edge, "web-1").enrol(token, **change)
    assert refused.status_code == 422
    assert said in refused.json()["detail"]
    assert (await Host(edge, "web-1").enrol(token)).status_code == 201


async def test_requests_of_keys_that_get_no_certificate(edge: ControlEdge) -> None:
    token, host = await edge.token(), Host(edge, "web-1")
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())):
        assert (await host.enrol(token, csr=host.csr(key))).status_code == 422
    forged = host.csr().replace("A", "B", 1) if "A" in host.csr() else host.csr()[:-40]
    assert (await host.enrol(token, csr=forged)).status_code == 422
    assert (await host.enrol(token, csr=host.csr(Ed25519PrivateKey.generate()))).status_code == 201


async def test_bodies_that_are_no_json_or_too_large(edge: ControlEdge) -> None:
    for body, status in ((b"", 422), (b"[]", 422), (b'{"token":', 422), (b"\xff", 422), (b"x" * 40_000, 413)):
        answer = await edge.client.post("/agent/enroll", content=body)
        assert (answer.status_code, "X-Server-Time" in answer.headers) == (status, True)


async def test_without_an_authority_the_token_is_kept(edge: ControlEdge) -> None:
    token = await edge.token()
    key = edge.settings.data_dir / "tls" / "authority.key"
    content = key.read_bytes()
    key.unlink()
    assert (await Host(edge, "web-1").enrol(token)).status_code == 503
    key.write_bytes(content)
    assert (await Host(edge, "web-1").enrol(token)).status_code == 201


async def test_a_revoked_agent_is_told_nothing_more_and_its_certificate_is_listed(edge: ControlEdge) -> None:
    host = await edge.host()
    job = await edge.job()
    [item] = (await host.pull())["items"]
    revoked = await edge.made("/api/agents/web-1/revoke", None)
    serial = x509.load_pem_x509_certificate(host.answer["certificate"].encode()).serial_number
    assert revoked == {"agent": "web-1", "certificates": [f"{serial:x}"], "listed": True}
    revocations = x509.load_pem_x509_crl((edge.settings.data_dir / "tls" / "revoked.pem").read_bytes())
    assert revocations.get_revoked_certificate_by_serial_number(serial) is not None
    assert (await host.post("/agent/jobs/pull", host.pulling())).status_code == 401
    assert (await host.say(item)).status_code == 401
    assert (await edge.shown(job["job_id"]))["state"] == "cancelled"
    assert (await edge.call("POST", "/api/agents/web-1/revoke")).status_code == 404


async def test_a_signing_key_alone_makes_no_agent(edge: ControlEdge) -> None:
    """An administrator may make signing keys for senders of any name; none of them was enrolled by that."""
    host = await edge.host()
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        row = await create_signing_key(tx, "web-2", master=1, actor="admin")
    secret = load_masters(edge.settings.signing_folder).secret_text(1, edge.tenant, row.key_id)
    host.signing_key = SigningKey(row.key_id, secret)
    refused = await host.post("/agent/jobs/pull", host.pulling())
    assert refused.status_code == 403
    assert "never enrolled" in refused.json()["detail"]
