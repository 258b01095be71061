"""What an agent is told and what it may say: its own jobs, signed, once; everybody else gets nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.jobs import RESULT_CONTEXT, verify_keys
from serve.control.job_keys import add_job_key
from store.postgres import tenant_transaction
from store.signing_keys import revoke_signing_key
from tests.contract.control.edge import ControlEdge, control_edge
from tests.postgres.agents import end_lease
from tests.postgres.fixtures import Database


async def test_a_job_is_signed_handed_out_once_and_its_signed_result_kept(edge: ControlEdge) -> None:
    host = await edge.host()
    made = await edge.job(args={"echo": "hé"}, dry_run=True, idempotency_key="k-1")
    answer = await host.pull()
    [item] = answer["items"]
    job = host.verified(item)
    assert (str(job.id), job.type, job.args, job.dry_run) == (made["job_id"], "PING", {"echo": "hé"}, True)
    assert (job.idempotency_key, item["attempt"]) == ("k-1", 1)
    assert item["lease_until"] > answer["server_time"] + 50_000
    assert abs(answer["server_time"] - time.time() * 1000) < 10_000
    assert (await host.pull())["items"] == []
    assert (await host.say(item, "running")).json() == {"state": "running"}
    assert (await host.say(item, output="pong\n", reason="fine")).json() == {"state": "succeeded"}
    shown = await edge.shown(made["job_id"])
    assert (shown["state"], shown["reason"], shown["output"]) == ("succeeded", "fine", "pong\n")
    assert shown["envelope"] == item["job"]
    evidence = RESULT_CONTEXT + shown["result"].encode()
    host.result_key.public_key().verify(base64.b64decode(shown["result_signature"]), evidence)
    assert "lease" not in shown


async def test_a_repeated_result_is_taken_and_changes_nothing(edge: ControlEdge) -> None:
    host = await edge.host()
    made = await edge.job()
    [item] = (await host.pull())["items"]
    said = host.result(item)
    assert (await host.post("/agent/jobs/result", said)).json() == {"state": "succeeded"}
    before = await edge.shown(made["job_id"])
    assert (await host.post("/agent/jobs/result", said)).json() == {"state": "succeeded"}
    assert (await host.say(item, "failed")).json() == {"state": "succeeded"}
    assert await edge.shown(made["job_id"]) == before


async def test_another_agent_sees_nothing_of_a_job(edge: ControlEdge, database: Database) -> None:
    host, other = await edge.host("web-1"), await edge.host("web-2")
    await edge.job()
    assert (await other.pull())["items"] == []
    [item] = (await host.pull())["items"]
    assert (await other.say(item)).status_code == 404
    assert (await other.post("/agent/jobs/output", output_part(item))).status_code == 404
    # Even with the first one's words and signature.
    assert (await other.post("/agent/jobs/result", host.result(item))).status_code == 403
    mine = edge.tenant
    await edge.use(await database.tenant())
    stranger = await edge.host("web-1")
    assert (await stranger.pull())["items"] == []
    assert (await stranger.say(item)).status_code == 404
    assert (await edge.call("GET", f"/api/jobs/{json.loads(item['job'])['id']}")).status_code == 404
    assert mine != edge.tenant


async def test_results_that_are_refused(edge: ControlEdge) -> None:
    host = await edge.host()
    await edge.job()
    [item] = (await host.pull())["items"]
    good = host.result(item)
    forged = good | {"signature": base64.b64encode(Ed25519PrivateKey.generate().sign(b"x")).decode()}
    cases: list[tuple[Any, int]] = [
        (forged, 403),
        (good | {"result": good["result"].replace('"succeeded"', '"rejected"')}, 403),
        (good | {"result": good["result"].replace(":", ": ", 1)}, 422),
        (good | {"result": "{}"}, 422),
        (good | {"result": "x" * 600_000}, 422),
        (good | {"signature": "not base64"}, 403),
        (good | {"more": 1}, 422),
        (host.result(item, job=uuid4()), 404),
        (host.result(item, "running", lease=uuid4()), 409),
        (host.result(item, attempt=2), 409),
        (host.result(item, agent="web-2"), 403),
        ([], 422),
        (b"\x00", 422),
    ]
    for body, status in cases:
        answer = await host.post("/agent/jobs/result", body)
        assert answer.status_code == status, (body, answer.text)
        assert "X-Server-Time" in answer.headers
    assert (await host.post("/agent/jobs/result", good)).status_code == 200


async def test_a_lease_that_ended_gives_the_job_to_who_asks_next_and_the_first_word_counts(edge: ControlEdge) -> None:
    host = await edge.host()
    made = await edge.job()
    [first] = (await host.pull())["items"]
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await end_lease(tx, host.verified(first).id)
    [second] = (await host.pull())["items"]
    assert (second["attempt"], second["job"]) == (2, first["job"])
    assert (await host.post("/agent/jobs/output", output_part(first))).status_code == 409
    assert (await host.say(first, "running")).status_code == 409
    assert (await host.say(first)).json() == {"state": "succeeded"}
    assert (await host.say(second, "failed")).json() == {"state": "succeeded"}
    assert (await edge.shown(made["job_id"]))["attempt"] == 2


def output_part(item: dict[str, Any], offset: int = 0, data: str = "x") -> dict[str, Any]:
    return {"job": json.loads(item["job"])["id"], "lease": item["lease"], "offset": offset, "data": data}


async def test_output_streams_in_and_is_bounded(edge: ControlEdge) -> None:
    host = await edge.host()
    made = await edge.job()
    [item] = (await host.pull())["items"]
    assert (await host.post("/agent/jobs/output", output_part(item, 0, "a\n"))).json() == {
        "size": 2,
        "truncated": False,
    }
    assert (await host.post("/agent/jobs/output", output_part(item, 0, "a\n"))).json()["size"] == 2
    long = output_part(item, 2, "b" * 70_000)
    assert (await host.post("/agent/jobs/output", long)).json() == {"size": 65_536, "truncated": True}
    shown = await edge.shown(made["job_id"])
    assert (len(shown["output"]), shown["output_truncated"], shown["state"]) == (65_536, True, "leased")
    assert (await host.post("/agent/jobs/output", output_part(item, -1))).status_code == 422
    assert (await host.post("/agent/jobs/output", output_part(item, 0, "x" * 600_000))).status_code == 413


async def test_a_poll_waits_without_asking_and_is_woken_by_the_job(edge: ControlEdge) -> None:
    host = await edge.host()
    waiting = asyncio.create_task(host.pull(wait_s=20))
    while edge.control.hints.waiting == 0:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    began = time.monotonic()
    made = await edge.job()
    [item] = (await waiting)["items"]
    assert time.monotonic() - began < 3
    assert str(host.verified(item).id) == made["job_id"]
    assert edge.control.hints.waiting == 0


async def test_a_poll_ends_empty_when_its_time_is_over(edge: ControlEdge) -> None:
    host = await edge.host()
    began = time.monotonic()
    assert (await host.pull(wait_s=0.5))["items"] == []
    assert 0.4 < time.monotonic() - began < 5


async def test_a_job_of_later_is_given_when_its_time_has_come(edge: ControlEdge) -> None:
    host = await edge.host()
    begins = time.time() + 1.5
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begins)) + f".{int(begins % 1 * 1e6):06}Z"
    await edge.job(not_before=stamp)
    assert (await host.pull())["items"] == []
    [item] = (await host.pull(wait_s=20))["items"]
    assert host.verified(item)
    assert time.time() >= begins - 0.01


async def test_one_agent_has_few_places_to_wait_in(edge: ControlEdge) -> None:
    host = await edge.host()
    polls = [asyncio.create_task(host.pull(wait_s=2)) for _ in range(4)]
    while edge.control.hints.waiting < 4:
        await asyncio.sleep(0.01)
    refused = await host.post("/agent/jobs/pull", host.pulling(2))
    assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (429, True)
    await asyncio.gather(*polls)


async def test_a_replica_takes_so_many_polls_at_once(database: Database, tmp_path: Any) -> None:
    async with control_edge(database, tmp_path, agent_polls_at_once=1) as edge:
        host, other = await edge.host("web-1"), await edge.host("web-2")
        poll = asyncio.create_task(host.pull(wait_s=2))
        while edge.control.hints.waiting < 1:
            await asyncio.sleep(0.01)
        assert (await other.post("/agent/jobs/pull", other.pulling(1))).status_code == 503
        await poll


async def test_what_an_agent_says_of_itself_is_shown(edge: ControlEdge) -> None:
    host = await edge.host()
    config = {"running": "a" * 64, "attempted": "b" * 64, "state": "failed", "detail": "no such receiver"}
    await host.pull(
        status="degraded", detail="slow", lag_s=1.5, spool={"records": 7}, config=config, labels={"os": "x"}
    )
    for _ in range(100):
        shown = (await edge.call("GET", "/api/agents/web-1", key="reader")).json()
        if shown["last_seen"]:
            break
        await asyncio.sleep(0.1)
    assert (shown["status"], shown["version"], shown["health"]["config"]) == ("degraded", "1.0", config)
    assert (shown["health"]["lag_s"], shown["health"]["spool"]) == (1.5, {"records": 7})
    # Its own labels select nothing.
    assert (shown["labels"], shown["health"]["labels"]) == ({}, {"os": "x"})
    assert shown["silent_s"] < 60


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"lag_s": float("inf")},
        {"lag_s": -1},
        {"spool": {f"c{n}": 1 for n in range(65)}},
        {"spool": {"a": 2**60}},
        {"config": {"running": "zz"}},
        {"detail": "x" * 2001},
        {"labels": {"a": 1}},
        {"version": "x" * 65},
    ],
)
async def test_words_of_health_that_are_refused(edge: ControlEdge, change: dict[str, Any]) -> None:
    host = await edge.host()
    assert (await host.post("/agent/jobs/pull", host.pulling(0, 1, **change))).status_code == 422


async def test_a_request_is_good_for_one_agent_one_path_one_body_and_once(edge: ControlEdge) -> None:
    host, other = await edge.host("web-1"), await edge.host("web-2")
    path, body = "/agent/jobs/pull", json.dumps(host.pulling()).encode()

    async def sent(headers: dict[str, str], content: bytes = body, to: str = path) -> int:
        answer = await edge.client.post(to, content=content, headers=headers)
        assert "X-Server-Time" in answer.headers
        return answer.status_code

    good = host.envelope("POST", path, body)
    assert await sent(good) == 200
    assert await sent(good) == 409
    assert await sent(host.envelope("POST", path, body), body + b" ") == 400
    assert await sent(host.envelope("POST", path, body), to="/agent/jobs/output") == 401
    assert await sent(host.envelope("GET", path, body)) == 401
    assert await sent(host.envelope("POST", path, body) | {"X-Key-Id": other.signing_key.key_id}) == 401
    assert await sent(host.envelope("POST", path, body, client_id=str(uuid4()))) == 401
    for client in ("acme", f"urn:uuid:{uuid4()}", f"urn:uuid:{edge.tenant}", uuid4().hex, "{" + str(uuid4()) + "}"):
        assert await sent(host.envelope("POST", path, body, client_id=client)) == 401, client
    assert await sent(host.envelope("POST", path, body, timestamp_ms=1_600_000_000_000)) == 503
    assert await sent({}) == 401
    assert await sent({"Authorization": f"Bearer {edge.keys['operator']}"}) == 403
    assert await sent({"Authorization": f"Bearer {edge.keys['sender']}"}) == 401
    assert await sent({**host.envelope("POST", path, body), "Authorization": f"Bearer {edge.keys['sender']}"}) == 200


async def test_a_signing_key_that_is_revoked_elsewhere_is_refused_within_seconds(edge: ControlEdge) -> None:
    host = await edge.host()
    await host.pull()
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await revoke_signing_key(tx, host.signing_key.key_id, actor="admin")
    async with asyncio.timeout(10):
        while (answer := await host.post("/agent/jobs/pull", host.pulling())).status_code == 200:
            await asyncio.sleep(0.05)
    assert answer.status_code == 401


async def test_a_certificate_must_be_of_the_agent_that_signs(edge: ControlEdge) -> None:
    host = await edge.host()
    body = host.pulling()
    assert (await host.post("/agent/jobs/pull", body, **host.certified())).status_code == 200
    assert (await host.post("/agent/jobs/pull", body, **host.certified("web-2"))).status_code == 403
    assert (await host.post("/agent/jobs/pull", body, **host.certified(tenant=str(uuid4())))).status_code in {401, 403}


async def test_certificates_can_be_required(database: Database, tmp_path: Any) -> None:
    async with control_edge(database, tmp_path, agent_certificates="required") as edge:
        host = await edge.host()
        assert (await host.post("/agent/jobs/pull", host.pulling())).status_code == 401
        assert (await host.post("/agent/jobs/pull", host.pulling(), **host.certified())).status_code == 200


async def test_job_keys_rotate_by_a_statement_that_a_pinned_key_signed(edge: ControlEdge) -> None:
    host = await edge.host()
    first = (await host.pull())["job_keys"]
    assert verify_keys(first["statement"].encode(), first["signature"], host.pinned(), 0).serial == 1
    add_job_key(edge.settings.job_keys)
    async with asyncio.timeout(20):
        while (answer := await host.pull())["job_keys"] == first:
            await asyncio.sleep(0.2)
    said = answer["job_keys"]
    keys = verify_keys(said["statement"].encode(), said["signature"], host.pinned(), 1)
    assert (keys.serial, len(keys.keys)) == (2, 2)
    await edge.job()
    [item] = (await host.pull())["items"]
    newest = json.loads(item["job"])["key_id"]
    assert newest in keys.keys
    assert newest not in host.pinned()
    latecomer = await edge.host("web-2")
    assert set(latecomer.pinned()) == set(keys.keys)


async def test_no_job_is_taken_that_nobody_could_sign(edge: ControlEdge) -> None:
    host = await edge.host()
    made = await edge.job()
    for path in edge.settings.job_keys.glob("*.key"):
        path.chmod(0o644)
    async with asyncio.timeout(20):
        while (answer := await host.post("/agent/jobs/pull", host.pulling())).status_code == 200:
            for item in answer.json()["items"]:
                await host.say(item)
                made = await edge.job()
            path.touch()
            await asyncio.sleep(0.2)
    assert (answer.status_code, "job_keys" in answer.text) == (503, False)
    assert (await edge.shown(made["job_id"]))["attempt"] == 0


async def test_a_certificate_is_rotated_under_the_job_that_asks_for_it(edge: ControlEdge) -> None:
    host, other = await edge.host("web-1"), await edge.host("web-2")
    key = ec.generate_private_key(ec.SECP256R1())
    made = await edge.job(type="CERT_ROTATE")
    wanted = {"csr": host.csr(key), "job": made["job_id"]}
    assert (await host.post("/agent/certificate", wanted)).status_code == 409
    [item] = (await host.pull())["items"]
    assert (await other.post("/agent/certificate", wanted)).status_code == 404
    answer = await host.post("/agent/certificate", wanted)
    assert answer.status_code == 200
    certificate = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.json()["authority"].encode()))
    for _ in range(4):
        assert (await host.post("/agent/certificate", wanted)).status_code == 200
    assert (await host.post("/agent/certificate", wanted)).status_code == 409
    assert (await host.say(item)).status_code == 200
    assert (await host.post("/agent/certificate", wanted)).status_code == 409
    assert len((await edge.call("GET", "/api/agents/web-1")).json()["certificates"]) == 6


async def test_a_policy_is_read_by_the_agent_whose_job_names_it(edge: ControlEdge) -> None:
    host, other = await edge.host("web-1"), await edge.host("web-2")
    policy = await edge.made("/api/agent-policies/base", {"content": "receivers: {}\n"})
    made = await edge.job(type="UPDATE_CONFIG", args={"policy": "base"})
    path = f"/agent/policies/{policy['digest']}"
    assert (await host.call("GET", path)).status_code == 404
    assert (await edge.call("POST", f"/api/jobs/{made['job_id']}/approve", key="second")).status_code == 200
    [item] = (await host.pull())["items"]
    assert host.verified(item).args == {"policy": "base", "version": 1, "digest": policy["digest"]}
    answer = await host.call("GET", path)
    assert (answer.status_code, answer.content) == (200, b"receivers: {}\n")
    assert hashlib.sha256(answer.content).hexdigest() == policy["digest"]
    assert (await other.call("GET", path)).status_code == 404


async def test_packages_are_served_by_their_digest(edge: ControlEdge) -> None:
    host = await edge.host()
    folder = edge.settings.data_dir / "agent-packages"
    folder.mkdir()
    content = b"package" * 100_000
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    (edge.settings.data_dir / ("0" * 64)).write_bytes(b"elsewhere")
    answer = await host.call("GET", f"/agent/packages/{digest}")
    assert (answer.status_code, answer.content) == (200, content)
    assert (await host.call("GET", f"/agent/packages/{'0' * 64}")).status_code == 404
    assert (await edge.client.get(f"/agent/packages/{digest}")).status_code == 401


async def test_a_collected_file_arrives_whole_for_operators_alone(edge: ControlEdge) -> None:
    host = await edge.host()
    made = await edge.job(type="COLLECT_FILE", args={"path": "/var/log/x"})
    await edge.call("POST", f"/api/jobs/{made['job_id']}/approve", key="second")
    [item] = (await host.pull())["items"]
    content = bytes(range(256)) * 3000
    said = {"job": made["job_id"], "lease": item["lease"], "path": "/var/log/x", "size": len(content)}
    said |= {"digest": hashlib.sha256(content).hexdigest()}

    def part(start: int, end: int, data: bytes = content) -> dict[str, Any]:
        return said | {"offset": start, "data": base64.b64encode(data[start:end]).decode()}

    assert (await host.post("/agent/files", part(0, 524_288))).json() == {"received": 524_288, "complete": False}
    assert (await edge.call("GET", f"/api/jobs/{made['job_id']}/file")).status_code == 404
    broken = part(524_288, len(content), content[::-1])
    assert (await host.post("/agent/files", broken)).status_code == 422
    assert (await host.post("/agent/files", part(524_288, len(content)))).json()["complete"]
    assert (await host.post("/agent/files", part(0, 10) | {"data": "?"})).status_code == 422
    assert (await host.post("/agent/files", part(0, 10) | {"size": 2**30})).status_code == 422
    answer = await edge.call("GET", f"/api/jobs/{made['job_id']}/file")
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert (await edge.call("GET", f"/api/jobs/{made['job_id']}/file", key="reader")).status_code == 403
    assert (await edge.shown(made["job_id"]))["file_size"] == len(content)
