"""Bad input over real HTTP: the exact answer, and the next good request as if nothing had happened."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.rpc.status_pb2 import Status

from tests.e2e.conftest import Tenant, lines_request

NOW = int(time.time() * 1e9)
GOOD = lines_request([(NOW, "Mar  1 10:00:00 web-1 sshd[1]: Server listening on 0.0.0.0 port 22.")])


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "message"),
    [
        (b"\x0a\xff\xff", {}, 400, 3, "protobuf"),
        (GOOD, {"content_type": "text/plain"}, 415, 3, "Content-Type"),
        (GOOD, {"content_encoding": "br"}, 415, 3, "Content-Encoding"),
        (b"\x1f\x8bnope", {"content_encoding": "gzip"}, 400, 3, "gzip"),
        (gzip.compress(bytes(70 * 2**20)), {"content_encoding": "gzip"}, 413, 8, "decompressed"),
        (GOOD, {"authorization": "Bearer nothing"}, 401, 16, "unknown"),
        (GOOD, {"authorization": "Basic eDp5"}, 401, 16, "no API key"),
        (GOOD, {"x_client_id": "somebody-else"}, 403, 7, "another tenant"),
    ],
)
def test_the_answer_is_a_status_in_the_request_s_encoding(
    tenant: Tenant, body: bytes, headers: dict[str, str], status: int, code: int, message: str
) -> None:
    answer = tenant.send(body, **headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert len(answer.content) < 4096
    refusal = Status.FromString(answer.content)
    assert refusal.code == code
    assert message in refusal.message
    assert tenant.send(GOOD).status_code == 200
    assert tenant.await_judged()["records"] == 1


def test_json_mistakes_are_answered_in_json(tenant: Tenant) -> None:
    answer = tenant.send(b'{"resourceLogs": 7}', content_type="application/json")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == 3


def test_a_body_over_the_limit_is_refused_without_being_kept(tenant: Tenant) -> None:
    answer = tenant.send(bytes(33 * 2**20))
    assert answer.status_code == 413
    assert tenant.get("/api/status")["counts"]["records"] == 0


def test_empty_bodies_are_a_success_that_stores_nothing(tenant: Tenant) -> None:
    assert tenant.send(b"").status_code == 200
    assert tenant.get("/api/status")["counts"]["records"] == 0


def test_hostile_text_is_kept_searchable_and_harmless(tenant: Tenant) -> None:
    lines = [
        "NUL \x00 in the middle",
        "right-to-left \u202e override and \U0001f525",
        'backslash \\ quote " percent % underscore _',
        "'; DROP TABLE raw_logs; --",
        "x" * 2**20,
    ]
    assert tenant.send_lines([(NOW + number, line) for number, line in enumerate(lines)]).status_code == 200
    counts = tenant.await_judged()
    assert (counts["records"], counts["dead_letters"]) == (5, 0)
    for needle in ("in the middle", "\U0001f525", 'quote " percent % under', "DROP TABLE"):
        [found] = tenant.get("/api/logs", text=needle)["items"]
        stored = tenant.get(f"/api/logs/{found['record_id']}")
        assert needle in stored["record"]["body"]
    longest = max(tenant.get("/api/logs")["items"], key=lambda item: len(item["record"]["body"]))
    assert len(longest["record"]["body"]) == 2**20


def test_lone_surrogates_in_json_do_not_lose_their_neighbours(tenant: Tenant) -> None:
    body = json.dumps(
        {
            "resourceLogs": [
                {
                    "scopeLogs": [
                        {
                            "logRecords": [
                                {"timeUnixNano": str(NOW), "body": {"stringValue": "broken \ud800 text"}},
                                {"timeUnixNano": str(NOW), "body": {"stringValue": "whole text"}},
                            ]
                        }
                    ]
                }
            ]
        }
    ).encode()
    assert tenant.send(body, content_type="application/json").status_code == 200
    assert tenant.await_judged()["records"] == 2
    assert {item["record"]["body"] for item in tenant.get("/api/logs")["items"]} == {
        "broken \ufffd text",
        "whole text",
    }


@pytest.mark.parametrize("at", [0, 1, 2**63 - 1, 2**64 - 1, pytest.param(NOW + 10**18, id="in 30 years")])
def test_odd_timestamps_are_kept_and_marked(tenant: Tenant, at: int) -> None:
    assert tenant.send_lines([(at, "an odd time")]).status_code == 200
    assert tenant.await_judged()["records"] == 1
    stored = tenant.get("/api/logs/2-0")
    assert stored["record"]["timeUnixNano"] == str(at)
    assert stored["time_mark"] == {0: "unset", 1: ""}.get(at, "future")


def test_the_same_batch_sent_fifty_times_at_once_is_stored_once(tenant: Tenant) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: tenant.send(GOOD), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-batch-seq"] for answer in answers} == {"2"}
    assert sorted(answer.headers["x-batch-duplicate"] for answer in answers).count("false") == 1
    assert tenant.await_judged()["records"] == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/events?limit=0", 422),
        ("/api/events?cursor=nonsense", 422),
        ("/api/events?from=2026-01-01T00:00:00", 422),
        ("/api/events?severity=dreadful", 422),
        ("/api/logs?entity=nothing", 422),
        ("/api/logs/1", 422),
        ("/api/logs/9999999999999999999999-0", 404),
        ("/api/incidents/not-a-uuid", 422),
        ("/api/incidents/00000000-0000-4000-8000-000000000000", 404),
        ("/api/nowhere", 404),
        ("/api/admin/tenants", 403),
    ],
)
def test_api_errors_are_problem_details(tenant: Tenant, path: str, status: int) -> None:
    answer = tenant.client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["detail"]
