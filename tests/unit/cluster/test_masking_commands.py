"""`trustsoc masking` and `trustsoc reveal`: what is asked of the server, and what a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PATH = "/api/admin/tenants/acme/masking"
TOKEN = "u-0123456789bcdfghj"
ON = {
    "enabled": True,
    "key": 2,
    "fingerprint": "0011223344556677",
    "keys": [2, 1],
    "agents_to_enrol": 3,
    "changed_by": "a1b2c3d4e5f6",
    "changed_at": "2026-03-01T12:00:00Z",
}
OFF = {**ON, "enabled": False, "fingerprint": None}
NEVER: dict[str, Any] = {"enabled": False, "key": None, "fingerprint": None, "keys": [], "agents_to_enrol": 0}


@pytest.fixture
def api(server: Any) -> Any:
    server.answers(f"GET {PATH}", ON)
    server.answers(f"PUT {PATH}", ON)
    items = [
        {"token": TOKEN, "outcome": "candidate", "clear": "al\x1b[2Jice", "key": 1},
        {"token": "198.51.100.7", "outcome": "address", "clear": "203.0.113.7", "key": 1},
        {"token": "x", "outcome": "no token", "clear": "", "key": 0},
    ]
    server.answers("POST /api/reveal", {"items": items, "missing_keys": [2]})
    return server


def test_masking_is_switched_for_the_tenant_that_is_named(run: Any, api: Any) -> None:
    for words in (("on",), ("on", "--new-key"), ("off",)):
        assert run("masking", *words, "--tenant", "acme").code == 0, words
    bodies = [json.loads(asked.body) for asked in api.asked_for(f"PUT {PATH}")]
    assert bodies == [{"enabled": True, "new_key": False}, {"enabled": True, "new_key": True}, {"enabled": False}]


def test_what_is_shown_names_the_masters_to_keep_and_the_agents_to_enrol(run: Any, api: Any) -> None:
    shown = run("masking", "show", "--tenant", "acme").out
    for part in ("Masking is on", "master 2", "0011223344556677", "2.key, 1.key", "3 agents", "2026-03-01"):
        assert part in shown, part
    api.answers(f"GET {PATH}", OFF)
    shown = run("masking", "show", "--tenant", "acme").out
    for part in ("Masking is off", "missing", "go on masking"):
        assert part in shown, part
    api.answers(f"GET {PATH}", NEVER)
    assert run("masking", "show", "--tenant", "acme").out.splitlines() == ["Masking is off for new agents."]
    assert run("masking", "show", "--tenant", "acme", "--json").json == NEVER


def test_tokens_are_revealed_among_the_names_of_a_file(run: Any, api: Any, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("alice\n\n  bob \nalice\n")
    outcome = run("reveal", TOKEN, "198.51.100.7", "x", "--reason", "case 4711", "--candidates", str(names))
    assert outcome.code == 0, outcome.err
    [asked] = api.asked_for("POST /api/reveal")
    assert json.loads(asked.body) == {
        "tokens": [TOKEN, "198.51.100.7", "x"],
        "candidates": ["alice", "bob"],
        "reason": "case 4711",
    }
    for part in ("203.0.113.7", "found among the candidates", "no token", "missing on the server: 2"):
        assert part in outcome.out, part
    assert "\x1b" not in outcome.out, "what a name says drives no terminal"
    assert run("reveal", TOKEN, "--reason", "x", "--json").json["missing_keys"] == [2]


def test_a_question_without_reason_or_with_unreadable_names_is_not_asked(run: Any, api: Any, tmp_path: Path) -> None:
    assert run("reveal", TOKEN).code == 2
    bad = tmp_path / "names.bin"
    bad.write_bytes(b"\xff\xfe")
    for path in (bad, tmp_path / "missing"):
        assert run("reveal", TOKEN, "--reason", "x", "--candidates", str(path)).code == 2
    assert api.asked_for("POST /api/reveal") == []


def test_an_answer_of_something_else_is_said_to_be_none(run: Any, server: Any) -> None:
    server.answers(f"GET {PATH}", {"items": []})
    server.answers("POST /api/reveal", {"enabled": True})
    for words in (("masking", "show", "--tenant", "acme"), ("reveal", TOKEN, "--reason", "x")):
        outcome = run(*words)
        assert outcome.code == 1
        assert "is this Trust SOC?" in outcome.err
