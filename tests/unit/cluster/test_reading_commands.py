"""Commands that look, against a server that speaks the API's shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

EVENT: dict[str, Any] = {
    "event_id": "5f0c7b0e-58ab-5f0e-9e6a-0f0a7c1c8d11",
    "record": "12-3",
    "time": "2026-03-01T10:15:02.000000Z",
    "end_time": "2026-03-01T10:15:02.000000Z",
    "kind": "correlation",
    "detector": "sigma",
    "rule_id": "ssh-password-guessing",
    "rule_version": "9b2f6c1e",
    "title": "SSH password guessing",
    "description": "Many failed passwords from one address in a short time.",
    "severity": "high",
    "score": 70.0,
    "activity": "authentication",
    "outcome": "failure",
    "techniques": ["T1110.001"],
    "tactics": ["credential-access"],
    "entities": [{"kind": "ip", "value": "203.0.113.7", "role": "source"}],
    "evidence": [
        {
            "record": "12-3",
            "digest": "3b" * 32,
            "time": "2026-03-01T10:15:02.000000Z",
            "message": "Failed password for root from 203.0.113.7 port 40022 ssh2",
        }
    ],
    "matched": {"count": 5},
    "attributes": {"log.file.name": "auth.log"},
    "incident_id": None,
}
INCIDENT: dict[str, Any] = {
    "incident_id": "0b9cf1de-0000-5000-8000-000000000001",
    "revision": 3,
    "state": "open",
    "title": "SSH password guessing, then a login from 203.0.113.7",
    "severity": "critical",
    "score": 88.0,
    "first_time": "2026-03-01T10:15:02.000000Z",
    "last_time": "2026-03-01T10:20:00.000000Z",
    "created_seq": 12,
    "updated_seq": 15,
    "event_count": 3,
    "entities": [{"kind": "ip", "value": "203.0.113.7", "role": ""}, {"kind": "user", "value": "root", "role": ""}],
    "techniques": ["T1110.001", "T1078"],
    "tactics": ["credential-access", "initial-access"],
    "predecessor": None,
    "closed_at": None,
}


def member(position: int, time: str, stage: str, reason: str, **event: Any) -> dict[str, Any]:
    changed = {**copy.deepcopy(EVENT), **event}
    return {"position": position, "time": time, "stage": stage, "reason": reason, "event": changed}


DETAIL = {
    **INCIDENT,
    "timeline": [
        member(1, "2026-03-01T10:15:02.000000Z", "credential-access", "the first event of the incident"),
        member(2, "2026-03-01T10:15:09.000000Z", "credential-access", "same source ip 203.0.113.7"),
        member(
            3,
            "2026-03-01T10:20:00.000000Z",
            "initial-access",
            "same source ip 203.0.113.7, next stage",
            title="Login after password guessing",
            severity="critical",
        ),
    ],
}
ADVISORY: dict[str, Any] = {
    "incident_id": INCIDENT["incident_id"],
    "version": 1,
    "revision": 3,
    "generator": "template",
    "fallback_reason": "llm_off",
    "created_at": "2026-03-01T10:20:01.000000Z",
    "body": {
        "schema_version": 1,
        "incident_id": INCIDENT["incident_id"],
        "revision": 3,
        "title": "Password guessing that succeeded",
        "severity": "critical",
        "generator": "template",
        "fallback_reason": "llm_off",
        "confidence": 0.87,
        "confidence_origin": "isotonic calibration",
        "hil_required": True,
        "hil_reasons": ["an account may be in other hands"],
        "first_time": "2026-03-01T10:15:02.000000Z",
        "last_time": "2026-03-01T10:20:00.000000Z",
        "summary": [
            {"text": "203.0.113.7 guessed passwords of root.", "evidence": ["e1"], "quotes": [], "origin": "template"}
        ],
        "timeline": [
            {
                "time": "2026-03-01T10:15:02.000000Z",
                "rule_id": "ssh-password-guessing",
                "severity": "high",
                "stage": "credential-access",
                "count": 2,
                "text": "SSH password guessing was seen",
                "evidence": ["e1"],
                "quotes": [],
                "origin": "template",
            }
        ],
        "techniques": [
            {
                "id": "T1110.001",
                "name": "Password Guessing",
                "tactics": ["credential-access"],
                "basis": "rule_tag",
                "confidence": 0.87,
                "why": "the rule is tagged with it",
                "model_verdict": "not_asked",
                "source_version": "18.1",
                "url": "",
                "evidence": ["e1"],
            }
        ],
        "next_checks": [
            {
                "id": "AN0001",
                "technique": "T1110.001",
                "text": "Look for logins of the same source elsewhere.",
                "log_sources": ["auth.log"],
                "source": "ATT&CK analytic",
                "evidence": ["e1"],
                "origin": "template",
            }
        ],
        "actions": [
            {
                "id": "playbook/ssh/1",
                "kind": "playbook_step",
                "phase": "contain",
                "text": "Block 203.0.113.7 at the firewall.",
                "disruptive": True,
                "techniques": ["T1110.001"],
                "evidence": ["e1"],
                "origin": "template",
                "suggested_by_model": False,
                "source": "playbook ssh-guessing",
            }
        ],
        "notes": ["No record shows what the session did."],
        "omitted": {"records": 4, "by_rule": {"SSH password guessing": 4}},
        "evidence": [
            {
                "id": "e1",
                "record": "12-3",
                "source": "journal",
                "digest": "3b" * 32,
                "time": "2026-03-01T10:15:02.000000Z",
                "message": "Failed password for root from 203.0.113.7 port 40022 ssh2",
                "tainted": False,
                "redacted": [],
            },
            {
                "id": "e2",
                "record": "12-4",
                "source": "journal",
                "digest": "3c" * 32,
                "time": None,
                "message": "",
                "tainted": True,
                "redacted": ["password"],
            },
        ],
        "corpus": {"name": "attack", "version": "18.1", "digest": "0" * 64, "notice": "Notice of the ATT&CK terms."},
    },
}
LOG = {
    "record_id": "12-3",
    "time": "2026-03-01T10:15:02.000000Z",
    "received": "2026-03-01T10:15:03.000000Z",
    "time_mark": "",
    "severity": 9,
    "logsource": "linux/sshd",
    "entities": ["ip:203.0.113.7"],
    "message": "Failed password for root from 203.0.113.7 port 40022 ssh2",
    "record": {"body": "Mar  1 10:15:02 web-1 sshd[1]: Failed password for root"},
    "digest": "3b" * 32,
}
STATUS = {
    "version": "0.1.0",
    "ready": True,
    "components": {
        "postgres": {"ready": True, "detail": ""},
        "detectors": {"ready": True, "actors": [{"actor": "detector-0", "state": "running", "lag_batches": 2}]},
        "advisor": {"ready": True, "state": "ready", "llm": "loading weights"},
    },
    "counts": {"records": 12345, "events": 17, "incidents": {"open": 2}},
}
INCIDENT_PATH = f"/api/incidents/{INCIDENT['incident_id']}"


@pytest.fixture
def api(server: Any) -> Any:
    server.answers("GET /api/events", {"items": [EVENT], "next_cursor": None})
    server.answers("GET /api/incidents", {"items": [INCIDENT], "next_cursor": None})
    server.answers(f"GET {INCIDENT_PATH}", DETAIL)
    server.answers(f"GET {INCIDENT_PATH}/advisory", ADVISORY)
    server.answers("GET /api/logs", {"items": [LOG], "next_cursor": None})
    server.answers("GET /api/logs/12-3", LOG)
    server.answers("GET /api/status", STATUS)
    return server


READING = [
    (("events",), {"items": [EVENT], "next_cursor": None}),
    (("incidents",), {"items": [INCIDENT], "next_cursor": None}),
    (("incident", INCIDENT["incident_id"]), DETAIL),
    (("advisory", INCIDENT["incident_id"]), ADVISORY),
    (("logs", "search"), {"items": [LOG], "next_cursor": None}),
    (("logs", "show", "12-3"), LOG),
    (("status",), STATUS),
]


@pytest.mark.parametrize(("command", "expected"), READING, ids=[" ".join(command[:2]) for command, _ in READING])
def test_every_reading_command_prints_the_answer_as_json(
    run: Any, api: Any, command: tuple[str, ...], expected: Any
) -> None:
    outcome = run(*command, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json == expected


SHOWN = [
    (("events",), ["SSH password guessing", "high", "T1110.001", "203.0.113.7", "2026-03-01 10:15:02Z", "12-3"]),
    (("incidents",), [INCIDENT["incident_id"], "critical", "88", "open", "SSH password guessing, then a login"]),
    (
        ("incident", INCIDENT["incident_id"]),
        ["×2", "why: same source ip 203.0.113.7, next stage", "credential-access → initial-access", "records 12-3"],
    ),
    (
        ("advisory", INCIDENT["incident_id"]),
        [
            "203.0.113.7 guessed passwords of root. [e1]",
            "a person must decide: an account may be in other hands",
            "T1110.001",
            "87%",
            "disruptive Block 203.0.113.7 at the firewall. [e1]",
            "Look for logins of the same source elsewhere.",
            "No record shows what the session did.",
            "4 records are not quoted",
            "withheld: it reads like an instruction",
            "Notice of the ATT&CK terms.",
            "written by",
            "llm_off",
        ],
    ),
    (("logs", "search"), ["12-3", "linux/sshd", "Failed password for root"]),
    (("logs", "show", "12-3"), ["3b3b", "ip:203.0.113.7", "sshd[1]"]),
    (("status",), ["ready", "detector-0", "lag batches 2", "loading weights", "12,345 records", "open 2"]),
]


@pytest.mark.parametrize(("command", "words"), SHOWN, ids=[" ".join(command[:2]) for command, _ in SHOWN])
def test_every_reading_command_is_readable_at_100_columns(
    run: Any, api: Any, command: tuple[str, ...], words: list[str]
) -> None:
    outcome = run(*command)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert max(len(line) for line in lines) <= 100
    flat = " ".join(outcome.out.split())
    for word in words:
        assert word in flat, f"{word!r} is not in\n{outcome.out}"


def test_filters_reach_the_server_in_its_words(run: Any, api: Any) -> None:
    assert run(
        "events", "--from", "2026-03-01", "--to", "2026-03-02T01:00:00+01:00", "-s", "high", "--rule", "r", "--entity",
        "ip:203.0.113.7", "-n", "7", "--tenant", "default",
    ).code == 0  # fmt: skip
    asked = api.asked_for("GET /api/events")[0]
    assert asked.query == {
        "from": "2026-03-01T00:00:00Z",
        "to": "2026-03-02T00:00:00Z",
        "severity": "high",
        "rule": "r",
        "entity": "ip:203.0.113.7",
        "limit": "7",
    }
    assert asked.headers["x-client-id"] == "default"


def test_a_time_can_be_so_long_ago(run: Any, api: Any) -> None:
    assert run("logs", "search", "Failed", "--from", "2h").code == 0
    query = api.asked_for("GET /api/logs")[0].query
    assert query["text"] == "Failed"
    assert query["from"].endswith("Z")


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", ""])
def test_what_is_no_time_is_a_usage_error(run: Any, api: Any, time: str) -> None:
    outcome = run("events", "--from", time)
    assert outcome.code == 2
    assert "is no time" in outcome.err


def test_the_next_page_is_offered(run: Any, server: Any) -> None:
    server.answers("GET /api/events", {"items": [EVENT], "next_cursor": "abc"})
    assert "--cursor abc" in run("events", "-n", "1").out


@pytest.mark.parametrize(
    ("command", "path", "hint"),
    [
        (("events",), "/api/events", "trustsoc send"),
        (("incidents",), "/api/incidents", "trustsoc events"),
        (("logs", "search"), "/api/logs", "--from"),
    ],
)
def test_an_empty_list_says_what_to_do_next(
    run: Any, server: Any, command: tuple[str, ...], path: str, hint: str
) -> None:
    server.answers(f"GET {path}", {"items": [], "next_cursor": None})
    assert hint in run(*command).out


HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold]x[/bold] :skull: \u202eevil\x9b31m\r\nnext"


@pytest.mark.parametrize("command", [command for command, _ in READING], ids=lambda command: " ".join(command[:2]))
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["table", "json"])
def test_no_log_text_can_drive_the_terminal(
    run: Any, server: Any, command: tuple[str, ...], as_json: tuple[str, ...]
) -> None:
    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poisoned(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [poisoned(item, key) for item in value]
        return HOSTILE if isinstance(value, str) and not key.endswith("time") and key != "next_cursor" else value

    for route, value in (
        ("/api/events", {"items": [poisoned(EVENT)], "next_cursor": None}),
        ("/api/incidents", {"items": [poisoned(INCIDENT)], "next_cursor": None}),
        (INCIDENT_PATH, poisoned(DETAIL)),
        (f"{INCIDENT_PATH}/advisory", poisoned(ADVISORY)),
        ("/api/logs", {"items": [poisoned(LOG)], "next_cursor": None}),
        ("/api/logs/12-3", poisoned(LOG)),
        ("/api/status", poisoned(STATUS)),
    ):
        server.answers(f"GET {route}", value)
    out = run(*command, *as_json).out
    assert not set(out) & set("\x1b\x07\x9b\r\u202e")
    assert "[bold]x[/bold]" in " ".join(out.split()) or "[bold]" in out


def test_a_problem_is_one_line_and_an_exit_code(run: Any, server: Any) -> None:
    server.answers("GET /api/events", {"title": "Forbidden", "status": 403, "detail": "no scope 'read'"}, status=403)
    outcome = run("events")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.strip().count("\n") == 0
    assert "403: Forbidden: no scope 'read'" in outcome.err


@pytest.mark.parametrize("command", [command for command, _ in READING], ids=lambda command: " ".join(command[:2]))
def test_nothing_running_is_exit_code_3(run: Any, directory: Any, command: tuple[str, ...]) -> None:
    stored = directory.credentials()
    stored.base_url = "http://127.0.0.1:1"
    directory.write_credentials(stored)
    outcome = run(*command)
    assert outcome.code == 3
    assert "start it with `trustsoc up`" in outcome.err
