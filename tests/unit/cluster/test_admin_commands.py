"""Tenants and keys: a key is shown once, at its creation, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

SECRET = "tsoc_new_secret"
TENANT = {"tenant_id": "11111111-2222-3333-4444-555555555555", "name": "acme", "created_at": "2026-03-01T12:00:00Z"}
KEY = {"key_id": "k1", "label": "web-1", "scopes": ["ingest"], "created_at": "2026-03-01T12:00:00Z"}


@pytest.fixture
def admin(server: Any) -> Any:
    server.answers("GET /api/admin/tenants", {"items": [TENANT]})
    server.answers("POST /api/admin/tenants", TENANT, status=201)
    server.answers("GET /api/admin/tenants/acme/keys", {"items": [KEY, {**KEY, "revoked_at": "2026-03-02T00:00:00Z"}]})
    server.answers("POST /api/admin/tenants/acme/keys", {**KEY, "key": SECRET}, status=201)
    server.answers("POST /api/admin/tenants/default/keys", {**KEY, "key": SECRET}, status=201)
    server.routes["DELETE /api/admin/tenants/acme/keys/k1"] = lambda _: type(server.routes["GET /healthz"](None))(204)
    return server


def test_a_tenant_is_made_with_the_administrators_key(run: Any, admin: Any) -> None:
    outcome = run("tenant", "create", "acme")
    assert outcome.code == 0
    assert "Made tenant acme." in outcome.out
    asked = admin.asked_for("POST /api/admin/tenants")[0]
    assert asked.body == b'{"name":"acme"}'
    assert asked.headers["authorization"] == "Bearer tsoc_admin_key_that_must_stay_secret"


def test_a_taken_name_is_one_line(run: Any, server: Any) -> None:
    body = {"title": "Conflict", "status": 409, "detail": "tenant 'acme' exists"}
    server.answers("POST /api/admin/tenants", body, status=409)
    outcome = run("tenant", "create", "acme")
    assert (outcome.code, outcome.out) == (1, "")
    assert "tenant 'acme' exists" in outcome.err


def test_lists(run: Any, admin: Any) -> None:
    assert "acme" in run("tenant", "list").out
    assert run("tenant", "list", "--json").json == {"items": [TENANT]}
    shown = run("key", "list", "--tenant", "acme").out
    assert "web-1" in shown
    assert "active" in shown
    assert "revoked 2026-03-02" in shown


def test_a_new_key_is_shown_once(run: Any, admin: Any, directory: Any) -> None:
    outcome = run("key", "create", "web-1", "--tenant", "acme", "--scope", "ingest", "--scope", "read")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == SECRET
    assert "shown this once" in outcome.out
    asked = admin.asked_for("POST /api/admin/tenants/acme/keys")[0]
    assert asked.body == b'{"label":"web-1","scopes":["ingest","read"]}'
    assert SECRET not in directory.client_path.read_text()
    assert run("key", "create", "web-1", "--json").json["key"] == SECRET


def test_a_key_is_revoked_by_its_id(run: Any, admin: Any) -> None:
    outcome = run("key", "revoke", "k1", "--tenant", "acme")
    assert outcome.code == 0
    assert "Revoked key k1" in outcome.out
    assert len(admin.asked_for("DELETE /api/admin/tenants/acme/keys/k1")) == 1


def test_a_tenant_without_a_stored_key_gets_one_that_is_kept(run: Any, admin: Any, directory: Any) -> None:
    admin.answers("GET /api/events", {"items": [], "next_cursor": None})
    for _ in range(2):
        outcome = run("events", "--tenant", "acme")
        assert outcome.code == 0
        assert SECRET not in outcome.out + outcome.err
    assert len(admin.asked_for("POST /api/admin/tenants/acme/keys")) == 1
    assert admin.asked_for("GET /api/events")[1].headers["authorization"] == f"Bearer {SECRET}"
    assert directory.credentials().tenant_keys["acme"] == SECRET


def test_stored_keys_go_to_their_own_cluster_only(run: Any, server: Any, directory: Any) -> None:
    stored = directory.credentials()
    stored.base_url = "http://127.0.0.1:1"
    directory.write_credentials(stored)
    for command in (("events",), ("tenant", "list")):
        outcome = run(*command, "--url", server.url)
        assert outcome.code == 1
        assert "set TRUSTSOC_" in outcome.err
    assert all("authorization" not in asked.headers for asked in server.asked)


def test_the_environments_key_is_used_for_another_cluster(
    run: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers("GET /api/events", {"items": [], "next_cursor": None})
    monkeypatch.setenv("TRUSTSOC_API_KEY", "from-the-environment")
    assert run("events").code == 0
    assert server.asked_for("GET /api/events")[0].headers["authorization"] == "Bearer from-the-environment"


def test_no_command_shows_a_stored_key(run: Any, admin: Any) -> None:
    for command in (("tenant", "list"), ("key", "list", "--tenant", "acme"), ("events",), ("doctor",), ("--help",)):
        outcome = run(*command) if command != ("--help",) else run("status", "--help")
        assert "must_stay_secret" not in outcome.out + outcome.err


def test_wrong_usage_is_exit_code_2(run: Any) -> None:
    assert run("key", "create", "web-1", "--scope", "everything").code == 2
    assert run("events", "--limit", "0").code == 2
    assert run("nonsense").code == 2
