"""Receipts and the loss ledger of the whole system: proven with public keys alone; one record too many is found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from uuid import UUID

import httpx

from agent.contract import SERVER_TIME_HEADER
from bench.system import System
from detect.record import TenantId
from serve.ingest.receipts import batch_id, verify_receipt
from tests.e2e.conftest import Tenant, lines_request, wait_for

LINES = [(1_772_600_000_000_000_000 + number, f"line {number}") for number in range(3)]


def gap_metrics(system: System) -> dict[str, float]:
    lines = httpx.get(f"{system.base_url}/metrics", timeout=30).text.splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines) if "_ledger_" in name}


def test_a_receipt_proves_the_batch_with_the_published_keys_alone(system: System, tenant: Tenant) -> None:
    body = lines_request(LINES)
    first = tenant.send(body, x_idempotency_key="batch-1", x_agent_run="run-1")
    again = tenant.send(body, x_idempotency_key="batch-1", x_agent_run="run-1")
    other = tenant.send(body, x_idempotency_key="batch-1", x_agent_run="run-2")
    assert first.headers["X-Receipt"] == again.headers["X-Receipt"] == other.headers["X-Receipt"]
    assert ("X-Batch-Elsewhere" in again.headers, "X-Batch-Elsewhere" in other.headers) == (False, True)
    published = httpx.get(f"{system.base_url}/.well-known/jwks.json", timeout=30).json()
    receipt = verify_receipt(first.headers["X-Receipt"], published)
    assert (receipt.seq, receipt.records) == (int(first.headers["X-Batch-Seq"]), 3)
    assert receipt.digest == hashlib.sha256(body).hexdigest()
    agent = tenant.key.split("_")[1]
    named = batch_id(TenantId(UUID(receipt.tenant)), agent, b"key:batch-1", hashlib.sha256(body).digest())
    assert receipt.batch == str(named), "a sender can compute it"
    stored = tenant.get(f"/api/batches/{receipt.seq}")
    claims = {"tenant": receipt.tenant, "batch": receipt.batch, "digest": receipt.digest, "records": 3}
    assert stored | claims == stored
    assert (stored["agent"], stored["run"]) == (agent, "run-1")


def test_a_batch_is_shown_to_its_own_tenant_only(new_tenant: Callable[[], Tenant]) -> None:
    mine, theirs = new_tenant(), new_tenant()
    seq = int(mine.send(lines_request(LINES)).headers["X-Batch-Seq"])
    assert mine.client.get(f"/api/batches/{seq}").status_code == 200
    assert theirs.client.get(f"/api/batches/{seq}").status_code == 404
    assert theirs.get("/api/ledger")["items"] == []


def test_one_record_too_many_raises_an_event_an_incident_and_the_metric(system: System, tenant: Tenant) -> None:
    sent = tenant.send(lines_request(LINES), x_agent_run="spool-1")
    books = {"run": "spool-1", "accepted": 3, "stored": 3, "duplicate": 0, "in_flight": 0}
    books["seen_seq"] = int(sent.headers["X-Batch-Seq"])
    good = tenant.client.post("/ingest/ledger", json=books).json()
    assert (good["taken"], good["balanced"], good["server"]["stored"]) == (True, True, 3)
    before = gap_metrics(system)["trustsoc_ledger_missing_records"]
    bad = tenant.client.post("/ingest/ledger", json=books | {"accepted": 4, "stored": 4}).json()
    assert (bad["balanced"], bad["missing"], bad["excess"]) == (False, 1, 0)

    def raised() -> list:
        return tenant.get("/api/events", rule="trustsoc-ledger-gap")["items"]

    [event] = wait_for(raised, "the event of the gap", 30)
    assert (event["severity"], event["matched"]["missing"], event["matched"]["run"]) == ("high", 1, "spool-1")
    evidence = tenant.get(f"/api/logs/{event['evidence'][0]['record']}")
    assert evidence["digest"] == event["evidence"][0]["digest"]
    assert "1 missing" in evidence["message"]
    [incident] = tenant.get("/api/incidents")["items"]
    assert incident["title"].startswith("Log records are missing")
    wait_for(lambda: gap_metrics(system)["trustsoc_ledger_missing_records"] >= before + 1, "the metric", 60)
    tenant.client.post("/ingest/ledger", json=books | {"accepted": 4, "stored": 4})
    tenant.await_judged()
    assert len(raised()) == 1, "a gap of one size is one event"


def test_refusals_are_in_the_sender_s_books_by_reason(tenant: Tenant) -> None:
    assert tenant.send(b"\xff", x_agent_run="r").status_code == 400
    assert tenant.send(lines_request(LINES), content_encoding="br", x_agent_run="r").status_code == 415
    assert tenant.send(lines_request(LINES), x_agent_run="no spaces").status_code == 400

    def refused() -> list:
        return [refusal for row in tenant.get("/api/ledger")["items"] for refusal in row["server"]["rejections"]]

    [malformed] = wait_for(refused, "the refusals in the ledger", 30)
    assert malformed == {"reason": "malformed", "retryable": False, "requests": 1, "records": 0}


def test_a_statement_needs_the_right_key_form_and_size(tenant: Tenant) -> None:
    books = {"run": "r", "accepted": 0, "stored": 0, "duplicate": 0, "in_flight": 0}
    post = tenant.client.post
    assert post("/ingest/ledger", json=books, headers={"Authorization": "Bearer nobody"}).status_code == 401
    for wrong in ({"run": "a b"}, {"run": ""}, {"accepted": -1}, {"accepted": 2**54}, {"accepted": "1"}, {"more": 1}):
        answer = post("/ingest/ledger", json=books | wrong)
        assert answer.status_code == 422, wrong
        assert next(iter(wrong)) in answer.json()["detail"]
        assert SERVER_TIME_HEADER in answer.headers
    assert post("/ingest/ledger", content=b"{" + b" " * 70_000).status_code == 413
    taken = post("/ingest/ledger", json=books | {"accepted": 2, "in_flight": 2})
    assert (taken.json()["balanced"], SERVER_TIME_HEADER in taken.headers) == (True, True)
    assert post("/ingest/ledger", json=books | {"accepted": 1, "rejected": {"x": 1}}).status_code == 409
