"""`trustsoc agent` and `trustsoc job`: what is asked of the server, and what a person reads."""

from __future__ import annotations

from typing import Any

import pytest

from serve.control.job_keys import load_job_keys

TOKEN = "tse_a1b2c3d4e5f6_shown_once"
JOB_ID = "5f0c7b0e-58ab-4f0e-9e6a-0f0a7c1c8d11"
AGENT = {
    "agent": "web-1", "state": "active", "labels": {"role": "web"}, "status": "degraded", "version": "1.0",
    "platform": "linux", "enrolled_by": "token:a1", "enrolled_at": "2026-03-01T12:00:00Z",
    "last_seen": "2026-03-01T12:30:00Z", "certificates": [{"serial": "ab", "ends": "2026-06-01T00:00:00Z"}],
    "health": {"lag_s": 2.0, "detail": "\x1b[2Jslow", "spool": {"records": 7}, "config": {"running": "a" * 64}},
}  # fmt: skip
JOB = {
    "job_id": JOB_ID, "agent": "web-1", "type": "BLOCK_IP", "args": {"address": "192.0.2.7"}, "dry_run": True,
    "state": "awaiting_approval", "held": False, "created_by": "k1", "created_at": "2026-03-01T12:00:00Z",
    "attempt": 0, "max_attempts": 3, "reason": "", "detail": "", "output": "line\x1b[2J\n",
}  # fmt: skip
ROLLOUT = {
    "rollout_id": JOB_ID, "type": "PING", "state": "stopped", "agents": 10, "wave": 1, "waves": [10, 100],
    "failures": 1, "most_failures": 0, "detail": "wave 1: 1 jobs failed", "created_at": "2026-03-01T12:00:00Z",
    "counts": {"1": {"failed": 1}, "2": {"cancelled": 9}},
}  # fmt: skip


@pytest.fixture
def api(server: Any) -> Any:
    server.answers("POST /api/agent-tokens", {"token": TOKEN, "expires_at": "2026-03-02T00:00:00Z"}, status=201)
    server.answers("GET /api/agents", {"items": [AGENT, {**AGENT, "agent": "db-1", "labels": {}}], "next_cursor": None})
    server.answers("GET /api/agents/web-1", AGENT)
    server.answers("PUT /api/agents/web-1/labels", AGENT)
    server.answers("POST /api/agents/web-1/revoke", {"agent": "web-1", "certificates": ["ab"], "listed": False})
    server.answers("POST /api/jobs", {"job": JOB, "rollout": None}, status=201)
    server.answers("GET /api/jobs", {"items": [JOB], "next_cursor": None})
    server.answers(f"GET /api/jobs/{JOB_ID}", JOB)
    server.answers(f"GET /api/rollouts/{JOB_ID}", ROLLOUT)
    server.answers("GET /api/rollouts", {"items": [ROLLOUT], "next_cursor": None})
    server.answers(f"POST /api/jobs/{JOB_ID}/approve", {**JOB, "state": "queued"})
    server.answers(f"POST /api/rollouts/{JOB_ID}/cancel", {**ROLLOUT, "state": "cancelled"})
    return server


def test_a_token_is_shown_once(run: Any, api: Any) -> None:
    outcome = run("agent", "token", "--label", "role=web", "--hours", "2")
    assert outcome.code == 0, outcome.out
    assert outcome.out.splitlines()[0] == TOKEN
    [asked] = api.asked_for("POST /api/agent-tokens")
    assert b'"labels":{"role":"web"}' in asked.body
    assert run("agent", "token", "--label", "role").code == 2


def test_agents_are_listed_by_all_the_labels_that_are_named(run: Any, api: Any) -> None:
    assert run("agent", "list", "--label", "role=web", "--label", "site=oslo").code == 0
    [asked] = api.asked_for("GET /api/agents")
    assert {("label", "role=web"), ("label", "site=oslo")} <= set(asked.pairs)


def test_agents_are_listed_and_what_they_say_drives_no_terminal(run: Any, api: Any) -> None:
    shown = run("agent", "list").out
    assert "degraded" in shown
    assert "db-1" in shown
    one = run("agent", "show", "web-1").out
    assert "7" in one
    assert "\x1b" not in one


def test_how_an_agent_masks_is_shown_and_what_is_wrong_with_it(run: Any, api: Any) -> None:
    said = {"state": "on", "policy": "c" * 64, "key": "0123456789abcdef"}
    warned = {"masking": {"state": "otherwise", "detail": "it masks by a policy of its own"}}
    api.answers("GET /api/agents/web-1", {**AGENT, "health": {"masking": said}, **warned})
    shown = run("agent", "show", "web-1").out
    assert "c" * 64 in shown
    assert "0123456789abcdef" in shown
    assert "a policy of its own" in shown


def test_labels_are_replaced_and_a_revocation_says_what_is_left_to_do(run: Any, api: Any) -> None:
    assert "role=web" in run("agent", "label", "web-1", "role=web").out
    [asked] = api.asked_for("PUT /api/agents/web-1/labels")
    assert asked.body == b'{"labels":{"role":"web"}}'
    assert "revocation list" in run("agent", "revoke", "web-1").out


def test_a_job_is_for_one_agent_or_for_labels_in_waves(run: Any, api: Any) -> None:
    outcome = run("job", "create", "BLOCK_IP", "--agent", "web-1", "-a", "address=192.0.2.7", "-a", "seconds=60")
    assert outcome.code == 0, outcome.out
    assert "Another key must approve" in outcome.out
    run("job", "create", "PING", "--label", "role=web", "--waves", "50,100", "--gate", "5")
    first, second = api.asked_for("POST /api/jobs")
    assert b'"args":{"address":"192.0.2.7","seconds":60}' in first.body
    assert b'"labels":{"role":"web"},"waves":[50,100],"gate_s":5,"most_failures":0' in second.body
    for wrong in ((), ("--agent", "a", "--all"), ("--all", "--waves", "x"), ("--agent", "a", "-a", "x")):
        assert run("job", "create", "PING", *wrong).code == 2


def test_jobs_and_rollouts_are_listed_and_shown(run: Any, api: Any) -> None:
    assert "awaiting approval" in run("job", "list").out
    shown = run("job", "show", JOB_ID).out
    assert "192.0.2.7" in shown
    assert "\x1b" not in shown
    assert "stopped" in run("job", "rollouts").out
    assert "9 cancelled" in run("job", "show", JOB_ID, "--rollout").out


def test_jobs_are_approved_and_rollouts_cancelled(run: Any, api: Any) -> None:
    assert "is queued" in run("job", "approve", JOB_ID).out
    assert "is cancelled" in run("job", "cancel", JOB_ID, "--rollout").out


def test_a_new_job_key_is_a_file_of_the_data_directory(run: Any, directory: Any) -> None:
    for number in (1, 2, 3):
        assert f"job key {number}" in run("job", "new-key").out
    ring = load_job_keys(directory.path / "job-keys")
    assert [key.number for key in ring.keys] == [3, 2]
