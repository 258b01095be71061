"""OpAMP over plain HTTP: collectors of any maker are listed, offered configurations, and say what became of them."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import pytest

from serve.control.opamp_messages import APPLIED, APPLYING, FAILED
from store.audit import verify_audit
from store.postgres import tenant_transaction
from tests.contract.control.edge import ControlEdge
from tests.contract.control.opamp_agent import CAPABILITIES, POLICY, Collector, shown, update
from tests.postgres.agents import end_lease


async def test_an_instance_is_listed_with_what_it_says(edge: ControlEdge) -> None:
    collector = Collector(edge)
    answer = await collector.start()
    assert (answer.instance_uid, answer.capabilities, answer.flags) == (collector.uid, 7, 0)
    assert not answer.HasField("error_response")
    assert not answer.HasField("remote_config")
    [item] = (await edge.call("GET", "/api/agents", key="reader")).json()["items"]
    assert (item["agent"], item["status"], item["version"]) == (collector.name, "ok", "0.137.0")
    assert (item["state"], item["platform"], item["signing_key"]) == ("active", "linux", "")
    assert item["silent_s"] < 60
    said = item["health"]
    assert said["started_at"] == 1_765_400_000_000
    assert said["opamp"]["instance_uid"] == str(UUID(bytes=collector.uid))
    assert said["opamp"]["description"]["service.name"] == "otelcol-contrib"
    effective = b"receivers: {password: hunter2}"
    assert said["opamp"]["effective_config"]["digest"] == hashlib.sha256(effective).hexdigest()
    assert "hunter2" not in str(item)
    assert (await edge.call("PUT", f"/api/agents/{collector.name}/labels", {"labels": {"a": "b"}})).status_code == 200


async def test_missed_messages_and_unknown_instances_are_asked_for_everything(edge: ControlEdge) -> None:
    collector = Collector(edge)
    assert (await collector.say()).flags == 1
    assert (await collector.say(collector.message(full=True))).flags == 0
    assert (await collector.say()).flags == 0
    collector.sequence += 3
    assert (await collector.say()).flags == 1
    assert (await collector.say(collector.message(full=True))).flags == 0
    repeated = collector.message()
    assert (await collector.say(repeated)).flags == 0
    assert (await collector.say(repeated)).flags == 0
    assert (await shown(edge, collector.name))["version"] == "0.137.0"


async def test_a_policy_is_offered_until_the_instance_has_it(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    job = await update(edge, collector.name)
    assert await collector.offered() == POLICY
    # Not acknowledged: offered again, under the same lease.
    assert await collector.offered() == POLICY
    before = await edge.shown(job["job_id"])
    assert (before["state"], before["attempt"], before["key_id"]) == ("leased", 1, "opamp")
    assert not (await collector.report(APPLYING)).HasField("remote_config")
    assert (await edge.shown(job["job_id"]))["state"] == "running"
    config = (await shown(edge, collector.name))["health"]["config"]
    digest = hashlib.sha256(POLICY.encode()).hexdigest()
    assert config == {"running": "", "attempted": digest, "state": "applying", "detail": ""}
    await collector.report(APPLIED)
    after = await edge.shown(job["job_id"])
    assert (after["state"], after["reason"]) == ("succeeded", "")
    config = (await shown(edge, collector.name))["health"]["config"]
    assert config == {"running": digest, "attempted": digest, "state": "applied", "detail": ""}
    assert await collector.offered() == ""
    # Evidence says that it is OpAMP's, and that nobody signed it.
    assert '"protocol":"opamp"' in after["result"]
    assert after["result_signature"] == ""
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await verify_audit(tx)


async def test_a_failure_is_the_jobs_and_another_job_tries_the_same_policy_again(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    first = await update(edge, collector.name)
    assert await collector.offered() == POLICY
    failed = collector.hash
    await collector.report(FAILED, "no such receiver\0")
    ended = await edge.shown(first["job_id"])
    assert (ended["state"], ended["reason"]) == ("failed", "remote_config_failed")
    assert ended["detail"].startswith("no such receiver")
    assert (await shown(edge, collector.name))["health"]["config"]["state"] == "failed"
    assert await collector.offered() == ""
    second = await update(edge, collector.name)
    assert await collector.offered() == POLICY
    assert collector.hash != failed
    await collector.report(APPLIED)
    assert (await edge.shown(second["job_id"]))["state"] == "succeeded"
    # What it said of the first stays said of the first.
    assert (await edge.shown(first["job_id"]))["state"] == "failed"
    third = await update(edge, collector.name)
    assert await collector.offered() == ""
    ended = await edge.shown(third["job_id"])
    assert (ended["state"], ended["detail"]) == ("succeeded", "this configuration runs already")


async def test_an_instance_that_lost_its_configuration_gets_it_again(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    await update(edge, collector.name)
    await collector.offered()
    await collector.report(APPLIED)
    settled, collector.hash, collector.status = collector.hash, b"", 0
    answer = await collector.say(collector.message(full=True))
    assert answer.remote_config.config_hash == settled
    assert answer.remote_config.config.config_map[""].body == POLICY.encode()
    assert not (await collector.report(APPLIED, name=settled)).HasField("remote_config")


async def end_leases(edge: ControlEdge, job: str) -> None:
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await end_lease(tx, UUID(job))


async def test_silence_gives_the_job_back_and_a_late_word_still_counts(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    job = (await update(edge, collector.name))["job_id"]
    assert await collector.offered() == POLICY
    offer = collector.hash
    await end_leases(edge, job)
    assert await collector.offered() == POLICY
    assert (collector.hash, (await edge.shown(job))["attempt"]) == (offer, 2)
    await end_leases(edge, job)
    # It is at work, which it says after its lease: it gets another, and keeps it by polling alone.
    await collector.report(APPLYING)
    now = await edge.shown(job)
    assert (now["state"], now["attempt"]) == ("running", 3)
    first = now["lease_until"]
    await collector.say()
    assert (await edge.shown(job))["lease_until"] > first
    await end_leases(edge, job)
    await collector.report(APPLIED)
    assert (await edge.shown(job))["state"] == "succeeded"


@pytest.mark.parametrize(
    ("wanted", "capabilities", "reason"),
    [
        ({"type": "PING"}, CAPABILITIES, "unknown_type"),
        ({"type": "RULES_RELOAD"}, CAPABILITIES, "unknown_type"),
        ({"type": "UPDATE_CONFIG", "args": {"policy": "base"}, "dry_run": True}, CAPABILITIES, "no_dry_run"),
        ({"type": "UPDATE_CONFIG", "args": {"policy": "base"}}, 0x1 | 0x800, "unsupported"),
        ({"type": "UPDATE_CONFIG", "args": {"policy": "base"}}, 0x1 | 0x2, "unsupported"),
    ],
)
async def test_what_opamp_cannot_carry_is_rejected_and_what_comes_after_is_not_held_up(
    edge: ControlEdge, wanted: dict[str, Any], capabilities: int, reason: str
) -> None:
    collector = Collector(edge, capabilities)
    await collector.start()
    await edge.made("/api/agent-policies/base", {"content": POLICY})
    job = await edge.job(agent=collector.name, **wanted)
    if job["state"] == "awaiting_approval":
        await edge.made(f"/api/jobs/{job['job_id']}/approve", None, key="second")
    after = await update(edge, collector.name)
    offered = await collector.offered()
    ended = await edge.shown(job["job_id"])
    assert (ended["state"], ended["reason"]) == ("rejected", reason)
    assert bool(offered) is (capabilities == CAPABILITIES)
    assert (await edge.shown(after["job_id"]))["state"] == ("leased" if offered else "rejected")


@pytest.mark.parametrize("ending", [("succeeded", APPLIED), ("failed", FAILED)])
@pytest.mark.parametrize("says_running", [True, False])
@pytest.mark.parametrize("lapses", [0, 1])
async def test_jobs_go_through_the_states_of_those_of_our_own_agent(
    edge: ControlEdge, ending: tuple[str, int], says_running: bool, lapses: int
) -> None:
    """The same story told by an agent of our own and by a collector: after each step the same state and attempt."""
    host, collector = await edge.host("web-1"), Collector(edge)
    await collector.start()
    ours, theirs = (await update(edge, "web-1"))["job_id"], (await update(edge, collector.name))["job_id"]

    async def same(state: str, attempt: int) -> None:
        seen = [await edge.shown(job) for job in (ours, theirs)]
        assert [(item["state"], item["attempt"]) for item in seen] == [(state, attempt)] * 2, seen

    [item] = (await host.pull())["items"]
    await collector.offered()
    await same("leased", 1)
    for attempt in range(2, lapses + 2):
        await end_leases(edge, ours)
        await end_leases(edge, theirs)
        [item] = (await host.pull())["items"]
        await collector.offered()
        await same("leased", attempt)
    if says_running:
        await host.say(item, "running")
        await collector.report(APPLYING)
        await same("running", lapses + 1)
    await host.say(item, ending[0])
    await collector.report(ending[1])
    await same(ending[0], lapses + 1)
    # A final word is final.
    await host.say(item, "failed" if ending[0] == "succeeded" else "succeeded")
    await collector.report(FAILED if ending[1] == APPLIED else APPLIED)
    await same(ending[0], lapses + 1)
    ended = [await edge.shown(job) for job in (ours, theirs)]
    assert ended[0]["lease_until"] is ended[1]["lease_until"] is None


async def test_a_rollout_reaches_instances_by_the_operators_labels(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    await edge.call("PUT", f"/api/agents/{collector.name}/labels", {"labels": {"role": "edge"}})
    await edge.made("/api/agent-policies/base", {"content": POLICY})
    wanted = {"labels": {"role": "edge"}, "type": "UPDATE_CONFIG", "args": {"policy": "base"}, "waves": [100]}
    rollout = (await edge.made("/api/jobs", wanted))["rollout"]
    assert await collector.offered() == ""
    await edge.made(f"/api/rollouts/{rollout['rollout_id']}/approve", None, key="second")
    assert await collector.offered() == POLICY
    await collector.report(APPLIED)
    counts = (await edge.call("GET", f"/api/rollouts/{rollout['rollout_id']}")).json()["counts"]
    assert counts == {"1": {"succeeded": 1}}
