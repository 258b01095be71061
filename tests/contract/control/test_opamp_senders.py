"""Who OpAMP hears and what it refuses: senders of a tenant, with readable messages, not too many nor too often."""

from __future__ import annotations

import asyncio
import gzip
from uuid import UUID, uuid4

import pytest

from serve.control.opamp_messages import APPLIED, FAILED, message_class
from store import opamp as instances
from tests.contract.control.edge import ControlEdge
from tests.contract.control.opamp_agent import Collector, shown, update
from tests.postgres.fixtures import Database


async def test_nobody_answers_anothers_job(edge: ControlEdge, database: Database) -> None:
    collector, other = Collector(edge), Collector(edge)
    await collector.start()
    await other.start()
    job = (await update(edge, collector.name))["job_id"]
    await collector.offered()
    await other.report(APPLIED, name=collector.hash)
    assert (await edge.shown(job))["state"] == "leased"
    # Nor with a digest that is not the job's.
    forged = bytes(32) + collector.hash[32:]
    offer = collector.hash
    await collector.report(FAILED, name=forged)
    assert (await edge.shown(job))["state"] == "leased"
    mine = edge.tenant
    reader = edge.keys["reader"]
    await edge.use(await database.tenant())
    # The same instance uid in another tenant is another agent.
    stranger = Collector(edge)
    stranger.uid = collector.uid
    await stranger.start()
    assert not (await stranger.report(APPLIED, name=offer)).HasField("remote_config")
    assert (await edge.call("GET", f"/api/jobs/{job}")).status_code == 404
    headers = {"Authorization": f"Bearer {reader}"}
    seen = (await edge.client.get(f"/api/jobs/{job}", headers=headers)).json()
    assert seen["state"] == "leased"
    listed = (await edge.call("GET", "/api/agents", key="reader")).json()["items"]
    assert [item["agent"] for item in listed] == [stranger.name]
    assert mine != edge.tenant


async def test_an_instance_of_a_certificate_is_that_agents_alone(edge: ControlEdge) -> None:
    host, other = await edge.host("web-1"), await edge.host("web-2")
    collector = Collector(edge)
    collector.headers = host.certified()
    await collector.start()
    assert (await shown(edge, collector.name))["enrolled_by"] == "agent:web-1"
    for headers in (other.certified(), {"Authorization": f"Bearer {edge.keys['sender']}"}):
        thief = Collector(edge)
        thief.uid, thief.headers = collector.uid, headers
        answer = await thief.start()
        assert len(answer.agent_identification.new_instance_uid) == 16
        assert answer.agent_identification.new_instance_uid != collector.uid
        assert not answer.HasField("remote_config")
    assert (await edge.call("POST", "/api/agents/web-1/revoke")).status_code == 200
    assert (await collector.post(collector.message().SerializeToString())).status_code == 403


async def test_an_instance_asks_for_a_name(edge: ControlEdge) -> None:
    collector = Collector(edge)
    said = collector.message(full=True)
    said.flags = 1
    answer = await collector.say(said)
    uid = UUID(bytes=answer.agent_identification.new_instance_uid)
    assert (uid.version, answer.flags, answer.instance_uid) == (7, 1, collector.uid)
    assert (await edge.call("GET", "/api/agents", key="reader")).json()["items"] == []
    collector.uid = uid.bytes
    assert (await collector.say(collector.message(full=True))).flags == 0


async def test_what_was_revoked_is_served_no_more(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    job = (await update(edge, collector.name))["job_id"]
    assert (await edge.call("POST", f"/api/agents/{collector.name}/revoke")).status_code == 200
    answer = await collector.post(collector.message(full=True).SerializeToString())
    assert (answer.status_code, answer.headers["Content-Type"]) == (403, "application/problem+json")
    assert (await edge.shown(job))["state"] == "cancelled"


async def test_only_senders_of_a_tenant_are_heard(edge: ControlEdge) -> None:
    collector = Collector(edge)
    data = collector.message(full=True).SerializeToString()
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer none"}, 401),
        ({"Authorization": f"Bearer {edge.keys['reader']}"}, 403),
        ({"Authorization": f"Bearer {edge.keys['operator']}"}, 403),
        ({"Authorization": f"Bearer {edge.keys['sender']}", "X-Client-Id": str(uuid4())}, 403),
    ):
        collector.headers = headers
        answer = await collector.post(data)
        assert answer.status_code == status, headers
        assert "X-Server-Time" in answer.headers
    assert (await edge.call("GET", "/api/agents", key="reader")).json()["items"] == []


async def test_bodies_that_are_refused(edge: ControlEdge) -> None:
    collector = Collector(edge)
    good = collector.message(full=True).SerializeToString()
    bomb = gzip.compress(bytes(65 * 2**20), compresslevel=9)
    gzipped = {"Content_Encoding": "gzip"}
    cases: list[tuple[bytes, dict[str, str], int]] = [
        (b"\x0a\xff", {}, 400),
        (good[:-1], {}, 400),
        (good, gzipped, 400),
        (bomb, gzipped, 413),
        (good, {"Content_Length": str(65 * 2**20)}, 413),
        (good, {"Content_Type": "application/json"}, 415),
        (good, {"Content_Type": ""}, 415),
        (good, {"Content_Encoding": "br"}, 415),
    ]
    for body, headers, status in cases:
        answer = await collector.post(body, **headers)
        assert answer.status_code == status, (body[:20], headers, answer.text)
        refused = message_class("ServerToAgent").FromString(answer.content)
        assert refused.error_response.type == 1
        assert refused.error_response.error_message
        assert "Retry-After" not in answer.headers
    for uid in (b"", b"short", bytes(16), b"x" * 17):
        collector.uid = uid
        answer = await collector.say(collector.message(full=True))
        assert (answer.error_response.type, answer.instance_uid, answer.capabilities) == (1, uid, 0)
    assert (await edge.call("GET", "/api/agents", key="reader")).json()["items"] == []


async def test_compression_both_ways(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.say(collector.message(full=True), compressed=True)
    await update(edge, collector.name, "# a comment\n" * 200)
    plain = collector.message().SerializeToString()
    answer = await collector.post(plain, Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    read = message_class("ServerToAgent").FromString(answer.content)  # httpx inflates it
    assert read.remote_config.config.config_map[""].body == b"# a comment\n" * 200


async def test_a_large_effective_configuration_is_taken(edge: ControlEdge) -> None:
    collector = Collector(edge)
    said = collector.message(full=True)
    said.effective_config.config_map.config_map[""].body = bytes(60 * 2**20)
    assert (await collector.say(said, compressed=True)).flags == 0
    kept = (await shown(edge, collector.name))["health"]["opamp"]["effective_config"]
    assert kept["bytes"] == 60 * 2**20


async def test_messages_at_once_are_taken_one_after_the_other(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    job = (await update(edge, collector.name))["job_id"]
    answers = await asyncio.gather(*(collector.say() for _ in range(10)))
    assert {answer.remote_config.config_hash for answer in answers} == {answers[0].remote_config.config_hash}
    assert answers[0].remote_config.config_hash
    assert (await edge.shown(job))["attempt"] == 1
    newcomer = Collector(edge)
    data = newcomer.message(full=True).SerializeToString()
    first = await asyncio.gather(*(newcomer.post(data) for _ in range(5)))
    assert [answer.status_code for answer in first] == [200] * 5


async def test_a_sender_without_rest_is_told_to_wait(edge: ControlEdge) -> None:
    collector, other = Collector(edge), Collector(edge)
    await collector.start()
    statuses = []
    for _ in range(40):
        answer = await collector.post(collector.message().SerializeToString())
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            break
    assert statuses[:15] == [200] * 15
    assert statuses[-1] == 429
    assert int(answer.headers["Retry-After"]) >= 30
    read = message_class("ServerToAgent").FromString(answer.content)
    assert read.error_response.type == 2
    assert read.error_response.retry_info.retry_after_nanoseconds >= 30_000_000_000
    await other.start()


async def test_a_tenant_has_so_many_instances(edge: ControlEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MOST_INSTANCES", 1)
    first, second = Collector(edge), Collector(edge)
    await first.start()
    answer = await second.post(second.message(full=True).SerializeToString())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "300")
    await first.say()
    await edge.call("POST", f"/api/agents/{first.name}/revoke")
    await second.start()


async def test_an_instances_result_key_is_nobodys(edge: ControlEdge) -> None:
    collector = Collector(edge)
    await collector.start()
    host = await edge.host("web-1")
    await edge.job(agent=collector.name, type="PING")
    # A host that signs its requests is itself, whatever it says; the collector's jobs are not its.
    assert (await host.pull())["items"] == []
    assert instances.no_result_key(collector.name) != instances.no_result_key("web-1")
    token = await edge.token()
    taken = await host.enrol(token, agent=collector.name)
    assert taken.status_code == 409
