"""A log line becomes a cited advisory: everything real, from the OTLP request to the digest behind each citation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from bench.system import System
from cluster.intrusion import ATTACKER, intrusion
from serve.control.opamp_messages import message_class
from tests.e2e.conftest import PROTOBUF, Tenant, admin_headers, wait_for

NOW = int(time.time() * 1e9)


@pytest.fixture(scope="module")
def attacked(system: System) -> Iterator[Tenant]:
    """A tenant that saw the demo's intrusion, with its marks on every record."""
    with httpx.Client(base_url=system.base_url, headers=admin_headers(system), timeout=60) as admin:
        admin.post("/api/admin/tenants", json={"name": "attacked"}).raise_for_status()
        scopes = {"label": "x", "scopes": ["ingest", "read", "operate"]}
        key = admin.post("/api/admin/tenants/attacked/keys", json=scopes).json()["key"]
    client = httpx.Client(base_url=system.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    tenant = Tenant("attacked", key, client)
    began = datetime.now(UTC)
    at = int(began.timestamp()) * 10**9
    by_file: dict[str, list[tuple[int, str]]] = {}
    for delay, file, line in intrusion(began):
        at += int(delay * 1e9)
        by_file.setdefault(file, []).append((at, line))
    for file, lines in by_file.items():
        assert tenant.send_lines(lines, log_file_name=file, test_mark=f"mark-{file}").status_code == 200
    tenant.await_judged()
    yield tenant
    client.close()


@pytest.fixture(scope="module")
def incident(attacked: Tenant) -> dict[str, Any]:
    items = attacked.get("/api/incidents")["items"]
    assert items
    worst = max(items, key=lambda item: (item["score"], item["event_count"]))
    detail: dict[str, Any] = attacked.get(f"/api/incidents/{worst['incident_id']}")
    return detail


def test_the_intrusion_is_one_incident_with_its_stages(incident: dict[str, Any]) -> None:
    assert incident["severity"] in {"high", "critical"}
    assert {"credential-access", "persistence"} <= set(incident["tactics"])
    assert any(entity["value"] == ATTACKER for entity in incident["entities"])
    times = [member["time"] for member in incident["timeline"]]
    assert times == sorted(times)
    assert incident["event_count"] == len(incident["timeline"])


def test_every_member_says_why_it_belongs(incident: dict[str, Any]) -> None:
    for member in incident["timeline"]:
        assert len(member["reason"]) > 20, member


def test_an_event_carries_the_attributes_of_the_record_that_caused_it(
    attacked: Tenant, incident: dict[str, Any]
) -> None:
    for member in incident["timeline"]:
        event = member["event"]
        record = attacked.get(f"/api/logs/{event['record']}")
        assert event["attributes"] == record["record"]["attributes"]
        assert event["attributes"]["test.mark"].startswith("mark-")


def test_every_evidence_entry_resolves_to_a_stored_record_with_that_digest(
    attacked: Tenant, incident: dict[str, Any]
) -> None:
    checked = 0
    for member in incident["timeline"]:
        assert member["event"]["evidence"]
        for evidence in member["event"]["evidence"]:
            record = attacked.get(f"/api/logs/{evidence['record']}")
            assert record["digest"] == evidence["digest"]
            assert record["message"].startswith(evidence["message"][:500])
            checked += 1
    assert checked >= 5


@pytest.fixture(scope="module")
def advisory(attacked: Tenant, incident: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/incidents/{incident['incident_id']}/advisory"

    def written() -> dict[str, Any] | None:
        answer = attacked.client.get(path)
        return answer.json() if answer.status_code == 200 else None

    return wait_for(written, "an advisory (the first start builds the corpus)", seconds=280)


def test_the_advisory_cites_only_records_that_exist(attacked: Tenant, advisory: dict[str, Any]) -> None:
    cited = advisory["body"]["evidence"]
    assert cited
    entries = cited.values() if isinstance(cited, dict) else cited
    for entry in entries:
        assert attacked.get(f"/api/logs/{entry['record']}")["digest"] == entry["digest"]


def test_the_advisory_is_mapped_to_attack_and_names_its_source(
    incident: dict[str, Any], advisory: dict[str, Any]
) -> None:
    body = advisory["body"]
    mapped = {technique["id"] for technique in body["techniques"]}
    assert set(incident["techniques"]) & mapped
    assert "The MITRE Corporation" in body["corpus"]["notice"]


def test_searching_by_text_time_and_entity_finds_the_records(attacked: Tenant) -> None:
    by_entity = attacked.get("/api/logs", entity=f"ip:{ATTACKER}", limit=500)["items"]
    assert by_entity
    assert all(ATTACKER in item["message"] for item in by_entity)
    by_text = attacked.get("/api/logs", text=ATTACKER, limit=500)["items"]
    assert {item["record_id"] for item in by_entity} <= {item["record_id"] for item in by_text}
    nothing = attacked.get("/api/logs", **{"from": "2001-01-01T00:00:00Z", "to": "2001-01-02T00:00:00Z"})
    assert nothing == {"items": [], "next_cursor": None, "searched_to": None}


def test_pages_continue_where_the_one_before_ended(attacked: Tenant) -> None:
    whole = [item["event_id"] for item in attacked.get("/api/events", limit=500)["items"]]
    paged: list[str] = []
    cursor = None
    while True:
        page = attacked.get("/api/events", limit=2, **({"cursor": cursor} if cursor else {}))
        paged += [item["event_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == whole


def test_events_filter_by_severity_and_rule(attacked: Tenant) -> None:
    everything = attacked.get("/api/events", limit=500)["items"]
    severe = attacked.get("/api/events", severity="high", limit=500)["items"]
    assert {item["event_id"] for item in severe} == {
        item["event_id"] for item in everything if item["severity"] in {"high", "critical"}
    }
    rule = everything[0]["rule_id"]
    assert {item["rule_id"] for item in attacked.get("/api/events", rule=rule)["items"]} == {rule}


def test_a_caller_with_its_own_incident_gets_an_advisory(tenant: Tenant, advisory: dict[str, Any]) -> None:
    assert advisory  # the advisor is ready
    own = {
        "title": "Password guessing then a login",
        "severity": "high",
        "events": [
            {
                "title": "SSH password guessing",
                "severity": "high",
                "time": "2026-03-01T10:00:00Z",
                "techniques": ["T1110.001"],
                "evidence": [{"message": "Failed password for root from 203.0.113.7 port 4711 ssh2"}],
            }
        ],
    }
    answer = tenant.client.post("/advisor/analyze", json=own)
    assert answer.status_code == 200, answer.text
    assert "T1110.001" in {technique["id"] for technique in answer.json()["techniques"]}
    refused = tenant.client.post("/advisor/analyze", json={"title": 7})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"


def with_an_agent(tenant: Tenant) -> list[str]:
    """The tenant has an agent with a job and a rollout, a policy and a token; returns where each is shown."""
    uid = uuid4()
    said = message_class("AgentToServer")(instance_uid=uid.bytes, capabilities=1).SerializeToString()
    tenant.client.post("/v1/opamp", content=said, headers=PROTOBUF).raise_for_status()
    agent = f"opamp-{uid.hex}"

    def made(path: str, **body: Any) -> Any:
        answer = tenant.client.post(path, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    made("/api/agent-tokens")
    made("/api/agent-policies/base", content="receivers: {}")
    job = made("/api/jobs", agent=agent, type="PING")["job"]
    rollout = made("/api/jobs", labels={}, type="PING")["rollout"]
    shown = [f"/api/agents/{agent}", "/api/agent-policies/base"]
    return [*shown, f"/api/jobs/{job['job_id']}", f"/api/rollouts/{rollout['rollout_id']}"]


def test_another_tenant_sees_nothing_of_it(
    attacked: Tenant, incident: dict[str, Any], new_tenant: Callable[[], Tenant]
) -> None:
    stranger = new_tenant()
    managed = with_an_agent(attacked)
    lists = ("/api/agents", "/api/agent-tokens", "/api/agent-policies", "/api/jobs", "/api/rollouts")
    for path in ("/api/events", "/api/incidents", "/api/logs", *lists):
        assert attacked.get(path)["items"] != []
        assert stranger.get(path)["items"] == []
    record = incident["timeline"][0]["event"]["record"]
    for path in (
        f"/api/incidents/{incident['incident_id']}",
        f"/api/incidents/{incident['incident_id']}/advisory",
        f"/api/logs/{record}",
        *managed,
    ):
        assert attacked.client.get(path).status_code == 200
        assert stranger.client.get(path).status_code == 404
    cursor = attacked.get("/api/events", limit=1)["next_cursor"]
    assert cursor
    assert stranger.get("/api/events", cursor=cursor)["items"] == []


def test_the_language_model_costs_only_its_prose(attacked: Tenant, advisory: dict[str, Any], system: System) -> None:
    """Whatever the tiny model writes, what is shown is either guarded prose or the template with the reason why."""
    llm = system.status()["components"]["advisor"]["llm"]["state"]
    path = f"/api/incidents/{advisory['incident_id']}/advisory"
    if llm == "off":
        assert attacked.get(path)["fallback_reason"] == "llm_off"
        return

    def settled() -> dict[str, Any] | None:
        newest: dict[str, Any] = attacked.get(path)
        return None if str(newest["fallback_reason"]).startswith("pending") else newest

    newest = wait_for(settled, "the model's answer, used or refused with a reason", seconds=280)
    assert newest["version"] > advisory["version"] or newest == advisory
    assert newest["body"]["evidence"] == advisory["body"]["evidence"]
    assert newest["generator"] != "template" or newest["fallback_reason"]
