"""Holds and retention from the command line: what is asked of the server, and what a person sees."""

from __future__ import annotations

import json
from typing import Any

import pytest

HOLDS = "/api/admin/tenants/acme/holds"
RETENTION = "/api/admin/tenants/acme/retention"
HOLD = {
    "hold_id": "5f0c7b0e-58ab-4f0e-9e6a-0f0a7c1c8d11",
    "reason": "case 17",
    "from": "2026-03-01T00:00:00.000000Z",
    "to": None,
    "placed_by": "0123456789ab",
    "placed_at": "2026-03-05T00:00:00.000000Z",
    "released_by": None,
    "released_at": None,
}


@pytest.fixture
def api(server: Any) -> Any:
    server.answers(f"GET {HOLDS}", {"items": [HOLD]})
    server.answers(f"POST {HOLDS}", HOLD, status=201)
    server.answers(f"POST {HOLDS}/{HOLD['hold_id']}/release", HOLD | {"released_at": "2026-04-01T00:00:00.000000Z"})
    server.answers(f"GET {RETENTION}", {"raw_log_days": 30, "own": False})
    server.answers(f"PUT {RETENTION}", {"raw_log_days": 90, "own": True})
    return server


def test_a_hold_is_placed_with_its_reason_and_range(run: Any, api: Any) -> None:
    outcome = run("hold", "place", "--tenant", "acme", "--reason", "case 17", "--from", "2026-03-01T00:00:00Z")
    assert outcome.code == 0
    assert HOLD["hold_id"] in outcome.out
    [asked] = api.asked_for(f"POST {HOLDS}")
    body = json.loads(asked.body)
    assert body["reason"] == "case 17"
    assert body["from"].startswith("2026-03-01T00:00:00")
    assert body["to"] is None


def test_a_hold_cannot_be_placed_without_a_reason(run: Any, api: Any) -> None:
    assert run("hold", "place", "--tenant", "acme").code == 2
    assert api.asked_for(f"POST {HOLDS}") == []


def test_holds_are_listed_with_their_state(run: Any, api: Any) -> None:
    outcome = run("hold", "list", "--tenant", "acme")
    assert "case 17" in outcome.out
    assert "in force" in outcome.out
    assert run("hold", "list", "--tenant", "acme", "--json").json == {"items": [HOLD]}


def test_a_release_says_why(run: Any, api: Any) -> None:
    outcome = run("hold", "release", HOLD["hold_id"], "--tenant", "acme", "--reason", "order lifted")
    assert outcome.code == 0
    [asked] = api.asked_for(f"POST {HOLDS}/{HOLD['hold_id']}/release")
    assert json.loads(asked.body) == {"reason": "order lifted"}


def test_retention_is_shown_and_set(run: Any, api: Any) -> None:
    assert "30 days (the installation's)" in " ".join(run("retention", "show", "--tenant", "acme").out.split())
    assert "90 days (its own figure)" in " ".join(run("retention", "set", "90", "--tenant", "acme").out.split())
    run("retention", "set", "default", "--tenant", "acme")
    assert [json.loads(asked.body) for asked in api.asked_for(f"PUT {RETENTION}")] == [
        {"raw_log_days": 90},
        {"raw_log_days": None},
    ]
    assert run("retention", "set", "soon", "--tenant", "acme").code == 2
