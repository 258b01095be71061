"""`trustsoc signing-key`: secrets are shown once, rotation states its overlap, masters stay in the data directory."""

from __future__ import annotations

from typing import Any

import pytest

from serve.signing_masters import load_masters

SECRET = "tss_a1b2c3d4e5f6_shown_once"
KEY = {
    "key_id": "a1b2c3d4e5f6",
    "agent": "web-1",
    "master": 1,
    "created_at": "2026-03-01T12:00:00Z",
    "not_before": "2026-03-01T12:00:00Z",
    "expires_at": None,
    "revoked_at": None,
}
PATH = "/api/admin/tenants/acme/signing-keys"


@pytest.fixture
def admin(server: Any) -> Any:
    server.answers(f"POST {PATH}", {**KEY, "secret": SECRET}, status=201)
    server.answers(f"POST {PATH}/rotate", {**KEY, "secret": SECRET}, status=201)
    states = [
        KEY,
        {**KEY, "key_id": "k2", "revoked_at": "2026-03-02T00:00:00Z"},
        {**KEY, "key_id": "k3", "expires_at": "2026-03-02T00:00:00Z"},
        {**KEY, "key_id": "k4", "expires_at": "2226-03-02T00:00:00Z"},
        {**KEY, "key_id": "k5", "not_before": "2226-03-02T00:00:00Z"},
    ]
    server.answers(f"GET {PATH}", {"items": states})
    server.routes[f"DELETE {PATH}/k1"] = lambda _: type(server.routes["GET /healthz"](None))(204)
    return server


def test_a_new_signing_key_is_shown_once(run: Any, admin: Any, directory: Any) -> None:
    outcome = run("signing-key", "create", "web-1", "--tenant", "acme", "--expires", "2026-04-01")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == SECRET
    assert "shown this once" in outcome.out
    [asked] = admin.asked_for(f"POST {PATH}")
    assert asked.body == b'{"agent":"web-1","expires_at":"2026-04-01T00:00:00Z"}'
    assert SECRET not in directory.client_path.read_text()
    assert run("signing-key", "create", "web-1", "--tenant", "acme", "--json").json["secret"] == SECRET


def test_a_rotation_states_its_overlap(run: Any, admin: Any) -> None:
    assert run("signing-key", "rotate", "web-1", "--tenant", "acme", "--overlap-hours", "6").code == 0
    [asked] = admin.asked_for(f"POST {PATH}/rotate")
    assert asked.body == b'{"agent":"web-1","overlap_hours":6.0}'


def test_a_list_tells_what_state_each_key_is_in(run: Any, admin: Any) -> None:
    shown = run("signing-key", "list", "--tenant", "acme").out
    for state in ("active", "revoked 2026-03-02", "expired 2026-03-02", "until 2226-03-02", "from 2226-03-02"):
        assert state in shown
    assert len(run("signing-key", "list", "--tenant", "acme", "--json").json["items"]) == 5


def test_a_key_is_revoked_by_its_id(run: Any, admin: Any) -> None:
    assert "Revoked signing key k1" in run("signing-key", "revoke", "k1", "--tenant", "acme").out


def test_a_new_master_is_a_file_of_the_data_directory(run: Any, directory: Any) -> None:
    for number in (1, 2):
        outcome = run("signing-key", "new-master")
        assert f"master key {number}" in outcome.out
    assert load_masters(directory.path / "signing").newest == 2
