"""Operators: what each scope may do, approvals by a second key, rollouts, and that tenants never meet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from store.agents import HeardHealth, write_health
from store.audit import verify_audit
from store.postgres import tenant_transaction
from tests.contract.control.edge import ControlEdge
from tests.postgres.fixtures import Database

CHANGES: list[tuple[str, str, Any]] = [
    ("POST", "/api/agent-tokens", {}),
    ("DELETE", "/api/agent-tokens/0011", None),
    ("PUT", "/api/agents/web-1/labels", {"labels": {"a": "b"}}),
    ("POST", "/api/agents/web-1/revoke", None),
    ("POST", "/api/agent-policies/base", {"content": "x"}),
    ("POST", "/api/jobs", {"agent": "web-1", "type": "PING"}),
    ("POST", "/api/jobs/{job}/approve", None),
    ("POST", "/api/jobs/{job}/cancel", None),
    ("GET", "/api/jobs/{job}/file", None),
    ("POST", "/api/rollouts/{rollout}/approve", None),
    ("POST", "/api/rollouts/{rollout}/cancel", None),
]
IN_A_MONTH = (datetime.now(UTC) + timedelta(days=31)).isoformat()
LOOKS = [
    "/api/agents",
    "/api/agents/web-1",
    "/api/agent-tokens",
    "/api/agent-policies",
    "/api/agent-policies/base",
    "/api/jobs",
    "/api/jobs/{job}",
    "/api/rollouts",
    "/api/rollouts/{rollout}",
]


async def filled(edge: ControlEdge) -> dict[str, str]:
    """A tenant with one of everything, and their ids."""
    await edge.host("web-1", role="web")
    await edge.made("/api/agent-policies/base", {"content": "a: 1"})
    job = await edge.job(type="BLOCK_IP", args={"address": "192.0.2.7", "seconds": 60})
    wanted = {"labels": {"role": "web"}, "type": "RULES_RELOAD"}
    rollout = (await edge.made("/api/jobs", wanted))["rollout"]
    return {"job": job["job_id"], "rollout": rollout["rollout_id"]}


async def test_every_change_needs_the_scope_operate_and_every_look_the_scope_read(edge: ControlEdge) -> None:
    ids = await filled(edge)
    for method, path, body in CHANGES:
        for key, status in (("reader", 403), ("sender", 403), ("", 401)):
            answer = await edge.call(method, path.format(**ids), body, key)
            assert answer.status_code == status, (method, path, key, answer.text)
    for path in LOOKS:
        for key, status in (("reader", 200), ("sender", 403), ("", 401)):
            assert (await edge.call("GET", path.format(**ids), key=key)).status_code == status, (path, key)


async def test_another_tenant_meets_nothing_of_ours(edge: ControlEdge, database: Database) -> None:
    ids = await filled(edge)
    mine = edge.tenant
    async with tenant_transaction(edge.app, mine) as tx:
        before = await verify_audit(tx)
    await edge.use(await database.tenant())
    for path in LOOKS:
        answer = await edge.call("GET", path.format(**ids))
        empty = path.rpartition("/")[2] in {"agents", "agent-tokens", "agent-policies", "jobs", "rollouts"}
        assert answer.status_code == (200 if empty else 404), path
        if empty:
            assert answer.json()["items"] == []
    for method, path, body in CHANGES[1:]:
        if path != "/api/agent-policies/base":
            answer = await edge.call(method, path.format(**ids), body, "second")
            assert answer.status_code == 404, (method, path, answer.text)
    async with tenant_transaction(edge.app, mine) as tx:
        assert await verify_audit(tx) == before


async def test_what_needs_approval_waits_for_another_key(edge: ControlEdge) -> None:
    host = await edge.host()
    job = await edge.job(type="BLOCK_IP", args={"address": "192.0.2.7", "seconds": 60})
    assert (job["state"], job["args"]) == ("awaiting_approval", {"address": "192.0.2.7", "seconds": 60})
    assert (await host.pull())["items"] == []
    address = f"/api/jobs/{job['job_id']}/approve"
    own = await edge.call("POST", address)
    assert (own.status_code, own.json()["type"]) == (403, "urn:trustsoc:problem:self-approval")
    assert (await host.pull())["items"] == []
    assert (await edge.call("POST", address, key="second")).json()["state"] == "queued"
    assert (await edge.call("POST", address, key="second")).status_code == 409
    assert len((await host.pull())["items"]) == 1


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("PING", {"echo": 5}),
        ("PING", {"other": "x"}),
        ("PING", {"echo": "x" * 1025}),
        ("RULES_RELOAD", {"x": 1}),
        ("BLOCK_IP", {}),
        ("BLOCK_IP", {"address": "192.0.2.0/24", "seconds": 1}),
        ("BLOCK_IP", {"address": "not one", "seconds": 1}),
        ("BLOCK_IP", {"address": "192.0.2.1", "seconds": 0}),
        ("BLOCK_IP", {"address": "192.0.2.1", "seconds": 1.5}),
        ("COLLECT_FILE", {"path": "relative"}),
        ("COLLECT_FILE", {"path": "/a\0b"}),
        ("UPGRADE", {"version": "1.0", "digest": "x", "size": 1, "signature": "x"}),
        ("UPDATE_CONFIG", {"policy": "nobody"}),
        ("UPDATE_CONFIG", {"policy": "base", "version": 9}),
        ("UPDATE_CONFIG", {"policy": "base", "digest": "0" * 64}),
        ("FORMAT_DISK", {}),
    ],
)
async def test_jobs_whose_arguments_are_not_of_their_type_are_never_made(
    edge: ControlEdge, kind: str, args: dict[str, Any]
) -> None:
    await edge.host()
    await edge.made("/api/agent-policies/base", {"content": "a: 1"})
    answer = await edge.call("POST", "/api/jobs", {"agent": "web-1", "type": kind, "args": args})
    assert answer.status_code == 422, answer.text
    assert (await edge.call("GET", "/api/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"type": "PING"},
        {"type": "PING", "agent": "web-1", "labels": {}},
        {"type": "PING", "agent": "web-1", "lifetime_s": 5},
        {"type": "PING", "agent": "web-1", "max_attempts": 0},
        {"type": "PING", "agent": "web-1", "idempotency_key": "a b"},
        {"type": "PING", "agent": "web-1", "idempotency_key": ""},
        {"type": "PING", "agent": "web-1", "not_before": "2026-01-01T00:00:00"},
        {"type": "PING", "agent": "web-1", "not_before": "9999-12-31T23:59:59Z"},
        {"type": "PING", "agent": "web-1", "not_before": IN_A_MONTH},
        {"type": "PING", "labels": {"a b": "c"}},
        {"type": "PING", "labels": {"role": "nobody"}},
        {"type": "PING", "labels": {"role": "web"}, "waves": [50]},
        {"type": "PING", "labels": {"role": "web"}, "waves": [100, 100]},
        {"type": "PING", "labels": {"role": "web"}, "idempotency_key": "k"},
        {"type": "PING", "agent": "web-1", "more": 1},
        [],
        "x",
        None,
    ],
)
async def test_bodies_that_make_no_job(edge: ControlEdge, body: Any) -> None:
    await edge.host("web-1", role="web")
    answer = await edge.call("POST", "/api/jobs", body)
    assert answer.status_code == 422, answer.text
    assert (await edge.call("GET", "/api/jobs")).json()["items"] == []


async def test_jobs_for_whom_there_is_no_agent(edge: ControlEdge) -> None:
    assert (await edge.call("POST", "/api/jobs", {"agent": "nobody", "type": "PING"})).status_code == 404
    assert (await edge.call("GET", f"/api/jobs/{uuid4()}")).status_code == 404
    assert (await edge.call("GET", "/api/jobs/not-a-uuid")).status_code == 422


async def test_an_idempotency_key_makes_one_job(edge: ControlEdge) -> None:
    await edge.host()
    body = {"agent": "web-1", "type": "PING", "idempotency_key": "once"}
    first, again = await edge.call("POST", "/api/jobs", body), await edge.call("POST", "/api/jobs", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = await edge.call("POST", "/api/jobs", body | {"args": {"echo": "x"}})
    assert other.status_code == 409


async def test_a_job_that_nobody_has_can_be_cancelled(edge: ControlEdge) -> None:
    host = await edge.host()
    job = await edge.job()
    assert (await edge.call("POST", f"/api/jobs/{job['job_id']}/cancel")).json()["state"] == "cancelled"
    assert (await edge.call("POST", f"/api/jobs/{job['job_id']}/cancel")).status_code == 409
    held = await edge.job()
    assert len((await host.pull())["items"]) == 1
    assert (await edge.call("POST", f"/api/jobs/{held['job_id']}/cancel")).status_code == 409


async def test_a_rollout_goes_out_in_waves_and_the_sweep_lets_them_out(edge: ControlEdge) -> None:
    hosts = [await edge.host(f"web-{number}", role="web") for number in range(4)]
    wanted = {"labels": {"role": "web"}, "type": "PING", "waves": [25, 100], "gate_s": 0}
    rollout = (await edge.made("/api/jobs", wanted))["rollout"]
    assert (rollout["state"], rollout["wave"], rollout["agents"]) == ("running", 1, 4)
    [sweep] = [chore for chore in edge.control.chores if chore.name == "agent_jobs"]

    async def work() -> int:
        done = 0
        for host in hosts:
            for item in (await host.pull())["items"]:
                assert (await host.say(item)).status_code == 200
                done += 1
        return done

    assert await work() == 1
    assert await work() == 0
    assert await sweep.run(datetime.now(UTC)) == 1
    assert await work() == 3
    await sweep.run(datetime.now(UTC))
    address = f"/api/rollouts/{rollout['rollout_id']}"
    shown = (await edge.call("GET", address, key="reader")).json()
    assert (shown["state"], shown["counts"]) == ("succeeded", {"1": {"succeeded": 1}, "2": {"succeeded": 3}})
    assert await sweep.run(datetime.now(UTC)) == 0
    assert (await edge.call("POST", f"{address}/cancel")).status_code == 409


async def test_certificates_are_renewed_before_they_end_one_job_a_week(edge: ControlEdge) -> None:
    host = await edge.host()
    [chore] = [chore for chore in edge.control.chores if chore.name == "agent_certificates_due"]
    await host.pull()
    now = datetime.now(UTC)
    async with asyncio.timeout(20):
        while (await edge.call("GET", "/api/agents/web-1")).json()["last_seen"] is None:
            await asyncio.sleep(0.1)
    assert await chore.run(now) == 0
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await write_health(tx, [HeardHealth("web-1", now + timedelta(days=60, hours=-1), "ok", "1.0", {})])
    assert await chore.run(now + timedelta(days=59)) == 0
    later = now + timedelta(days=60, hours=1)
    assert await chore.run(later) == 1
    assert await chore.run(later) == 0
    [job] = (await edge.call("GET", "/api/jobs")).json()["items"]
    assert (job["type"], job["created_by"], job["state"]) == ("CERT_ROTATE", "server", "queued")
    assert await chore.run(later + timedelta(days=2)) == 0  # not heard of for a day


async def test_a_rollout_of_a_grave_type_waits_for_another_key(edge: ControlEdge) -> None:
    host = await edge.host("web-1", role="web")
    wanted = {"labels": {"role": "web"}, "type": "COLLECT_FILE", "args": {"path": "/x"}, "gate_s": 0}
    rollout = (await edge.made("/api/jobs", wanted))["rollout"]
    assert rollout["state"] == "awaiting_approval"
    address = f"/api/rollouts/{rollout['rollout_id']}/approve"
    assert (await edge.call("POST", address)).status_code == 403
    assert (await host.pull())["items"] == []
    assert (await edge.call("POST", address, key="second")).json()["state"] == "running"
    assert len((await host.pull())["items"]) == 1


async def test_agents_and_jobs_are_paged_and_filtered(edge: ControlEdge) -> None:
    for number in range(3):
        await edge.host(f"web-{number}", role="web" if number else "db")
        await edge.job(agent=f"web-{number}")
    page = (await edge.call("GET", "/api/agents?limit=2")).json()
    assert [item["agent"] for item in page["items"]] == ["web-0", "web-1"]
    rest = (await edge.call("GET", f"/api/agents?limit=2&cursor={page['next_cursor']}")).json()
    assert ([item["agent"] for item in rest["items"]], rest["next_cursor"]) == (["web-2"], None)
    found = (await edge.call("GET", "/api/agents?label=role=web&status=unknown")).json()["items"]
    assert [item["agent"] for item in found] == ["web-1", "web-2"]
    assert (await edge.call("GET", "/api/agents?label=role")).status_code == 422
    jobs = (await edge.call("GET", "/api/jobs?limit=2")).json()
    more = (await edge.call("GET", f"/api/jobs?limit=2&cursor={jobs['next_cursor']}")).json()
    assert [item["agent"] for item in jobs["items"] + more["items"]] == ["web-2", "web-1", "web-0"]
    assert len((await edge.call("GET", "/api/jobs?state=queued&agent=web-1&type=PING")).json()["items"]) == 1
    assert (await edge.call("GET", "/api/jobs?cursor=xx")).status_code == 422
    assert (await edge.call("GET", "/api/jobs?type=NOTHING")).status_code == 422


async def test_every_change_has_its_row_in_the_audit_chain(edge: ControlEdge) -> None:
    host = await edge.host()
    job = await edge.job(type="CERT_ROTATE")
    [item] = (await host.pull())["items"]
    await host.say(item, "running")
    await host.say(item)
    waits = await edge.job(type="BLOCK_IP", args={"address": "192.0.2.7", "seconds": 60})
    await edge.call("POST", f"/api/jobs/{waits['job_id']}/approve", key="second")
    await edge.call("PUT", "/api/agents/web-1/labels", {"labels": {"a": "b"}})
    await edge.call("POST", "/api/agents/web-1/revoke")
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        rows = await tx.connection.fetch("SELECT action, object FROM audit_log ORDER BY position")
        await verify_audit(tx)
    actions = [row["action"] for row in rows if row["action"].split(".")[0] in {"agent", "agent_token", "job"}]
    assert actions == [
        "agent_token.create",
        "agent.enrol",
        "agent.certificate",
        "job.create",
        "job.deliver",
        "job.running",
        "job.result",
        "job.create",
        "job.approve",
        "agent.label",
        "job.cancel",
        "agent.revoke",
    ]
    assert {row["object"] for row in rows if row["action"].startswith("job.r")} == {f"job:{job['job_id']}"}
