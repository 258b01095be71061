"""`trustsoc cert`: an authority of one's own, certificates that name tenant and agent, keys that nobody else reads."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

TENANT_ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def authority(run: Any, directory: Any) -> Any:
    assert run("cert", "init", "--host", "soc.example", "--host", "192.0.2.9").code == 0
    return directory.path / "tls"


def load(path: Any) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_init_makes_an_authority_and_the_certificate_of_the_edge(run: Any, authority: Any) -> None:
    root, server = load(authority / "authority.pem"), load(authority / "server.pem")
    server.verify_directly_issued_by(root)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["soc.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.9"]
    for key in ("authority.key", "server.key"):
        assert stat.S_IMODE((authority / key).stat().st_mode) == 0o600
    again = run("cert", "init")
    assert again.code == 1
    assert "exists" in again.err
    assert load(authority / "authority.pem") == root


def test_without_hosts_the_edge_is_reached_by_loopback_and_its_own_name(run: Any, directory: Any) -> None:
    assert run("cert", "init").code == 0
    [server] = [item for item in run("cert", "show", "--json").json["items"] if item["file"].endswith("server.pem")]
    assert {"localhost", "127.0.0.1", "::1"} <= set(server["names"])


def test_an_agents_certificate_names_tenant_and_agent(run: Any, authority: Any, server: Any) -> None:
    tenant = {"tenant_id": TENANT_ID, "name": "acme", "created_at": "2026-03-01T12:00:00Z"}
    server.answers("GET /api/admin/tenants", {"items": [tenant]})
    outcome = run("cert", "issue", "web-1", "--tenant", "acme", "--days", "30")
    assert outcome.code == 0
    path = authority / "agents" / "acme.web-1.pem"
    assert str(path) in outcome.out.replace("\n", "")
    certificate = load(path)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = f"trustsoc://tenant/{TENANT_ID}/agent/web-1"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    certificate.verify_directly_issued_by(load(authority / "authority.pem"))
    assert 29 <= (certificate.not_valid_after_utc - datetime.now(UTC)).days <= 30
    assert stat.S_IMODE(path.with_suffix(".key").stat().st_mode) == 0o600
    assert run("cert", "issue", "web-1", "--tenant", "nobody").code == 1


def test_issue_renew_and_revoke_need_no_running_server(run: Any, authority: Any) -> None:
    assert run("cert", "issue", "web-1", "--tenant", "acme", "--tenant-id", TENANT_ID).code == 0
    path = authority / "agents" / "acme.web-1.pem"
    first = load(path)
    assert run("cert", "renew", "acme.web-1").code == 0
    renewed = load(path)
    assert renewed.serial_number != first.serial_number
    assert renewed.public_key() != first.public_key()
    assert renewed.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ) == first.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert run("cert", "revoke", "acme.web-1").code == 0
    assert run("cert", "revoke", "acme.web-1").code == 0
    revoked = x509.load_pem_x509_crl((authority / "revoked.pem").read_bytes())
    assert [entry.serial_number for entry in revoked] == [renewed.serial_number]
    shown = run("cert", "show").out
    assert "revoked" in shown
    assert "acme.web-1" in shown


def test_the_edges_certificate_is_renewed_with_its_names_or_new_ones(run: Any, authority: Any) -> None:
    before = load(authority / "server.pem")
    assert run("cert", "renew", "server").code == 0
    after = load(authority / "server.pem")
    assert after.serial_number != before.serial_number
    kind = x509.SubjectAlternativeName
    assert after.extensions.get_extension_for_class(kind) == before.extensions.get_extension_for_class(kind)
    assert run("cert", "renew", "server", "--host", "other.example").code == 0
    names = load(authority / "server.pem").extensions.get_extension_for_class(kind).value
    assert names.get_values_for_type(x509.DNSName) == ["other.example"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("renew", "nobody"), 1, "cert show"),
        (("renew", "acme.web-1", "--host", "x"), 2, "server"),
        (("revoke", "server"), 2, "renew"),
        (("issue", "Web 1", "--tenant-id", TENANT_ID), 2, "name of an agent"),
        (("issue", "web-1", "--tenant-id", "acme"), 2, "tenant id"),
    ],
)
def test_mistakes_are_one_line(run: Any, authority: Any, arguments: tuple[str, ...], code: int, message: str) -> None:
    outcome = run("cert", *arguments)
    assert outcome.code == code
    assert message in outcome.err


def test_without_an_authority_the_next_step_is_named(run: Any, directory: Any) -> None:
    assert "cert init" in run("cert", "show").out
    outcome = run("cert", "issue", "web-1", "--tenant-id", TENANT_ID)
    assert outcome.code == 1
    assert "cert init" in outcome.err
