"""A quota is shown with where it comes from; a change keeps what it does not name."""

from __future__ import annotations

import json
from typing import Any

import pytest

PATH = "/api/admin/tenants/acme/quota"
DEFAULTS = {
    "records_per_s": 1_000_000.0,
    "bytes_per_s": 0.0,
    "burst_s": 10.0,
    "agent_records_per_s": 0.0,
    "agent_bytes_per_s": 0.0,
    "weight": 1.0,
    "max_backlog": 50_000_000,
}


def answer(**own: float) -> dict[str, Any]:
    return {"tenant": "acme", "own": dict.fromkeys(DEFAULTS) | own, "in_force": DEFAULTS | own}


@pytest.fixture
def admin(server: Any) -> Any:
    server.answers(f"GET {PATH}", answer(weight=2.0))
    server.answers(f"PUT {PATH}", answer(weight=2.0, records_per_s=5000.0))
    return server


def test_a_quota_is_shown_and_nothing_is_changed(run: Any, admin: Any) -> None:
    outcome = run("tenant", "quota", "acme")
    assert outcome.code == 0
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    assert "1,000,000" in rows["records_per_s"]
    assert "default" in rows["records_per_s"]
    assert "no limit" in rows["bytes_per_s"]
    assert "tenant" in rows["weight"]
    assert admin.asked_for(f"PUT {PATH}") == []


def test_a_change_keeps_what_it_does_not_name(run: Any, admin: Any) -> None:
    outcome = run("tenant", "quota", "acme", "--records-per-s", "5000")
    assert outcome.code == 0
    assert "5,000" in outcome.out
    [asked] = admin.asked_for(f"PUT {PATH}")
    assert json.loads(asked.body) == {"weight": 2.0, "records_per_s": 5000.0}
    assert asked.headers["authorization"] == "Bearer tsoc_admin_key_that_must_stay_secret"


def test_the_defaults_come_back(run: Any, admin: Any) -> None:
    assert run("tenant", "quota", "acme", "--defaults", "--json").json == answer(weight=2.0, records_per_s=5000.0)
    [asked] = admin.asked_for(f"PUT {PATH}")
    assert json.loads(asked.body) == {}


def test_what_the_server_refuses_is_one_line(run: Any, server: Any) -> None:
    server.answers(f"GET {PATH}", {"title": "Not Found", "detail": "there is no tenant 'acme'"}, status=404)
    outcome = run("tenant", "quota", "acme", "--weight", "2")
    assert (outcome.code, outcome.out) == (1, "")
    assert "there is no tenant 'acme'" in outcome.err
