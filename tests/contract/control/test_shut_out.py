"""Who is kept out, at what cost, and that nobody's trouble is another tenant's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.typing import EventDict

from agent.contract import SERVER_TIME_HEADER, SigningKey
from serve.control import chores, opening
from serve.control.health_book import HealthBook
from serve.control.job_hints import JobHints
from serve.errors import WireError
from serve.ingest.syslog import sender_of
from serve.peer import PeerIdentity
from store.agents import CertificateRow, HeardHealth, get_agent, record_certificate, write_health
from store.jobs import JobFilter, search_jobs
from store.postgres import tenant_transaction
from store.signing_keys import create_signing_key
from tests.contract.control.edge import ControlEdge, Host, control_edge
from tests.postgres.fixtures import Database

PULL = "/agent/jobs/pull"


async def test_a_certificate_of_a_revoked_agent_opens_no_door_whatever_the_revocation_list_says(
    edge: ControlEdge,
) -> None:
    host = await edge.host()
    identity = PeerIdentity(edge.tenant, "web-1")
    headers = host.certified()
    assert (await edge.authenticator.tenant_principal(headers, "ingest"))[0] == edge.tenant
    assert (await sender_of(edge.authenticator, None, identity)).agent == "web-1"
    await edge.made("/api/agents/web-1/revoke", None)
    with pytest.raises(WireError) as refused:
        await edge.authenticator.tenant_principal(headers, "ingest")
    assert (refused.value.status, refused.value.reason) == (403, "agent_revoked")
    with pytest.raises(WireError):
        await sender_of(edge.authenticator, None, identity)
    # A certificate that `trustsoc cert` made for a sender that was never enrolled is as good as before.
    assert (await edge.authenticator.certificate_holder(PeerIdentity(edge.tenant, "fw-1"))).key_id == "fw-1"
    again = Host(edge, "web-1")
    assert (await again.enrol(await edge.token())).status_code == 201
    assert (await edge.authenticator.certificate_holder(identity)).key_id == "web-1"


class Body:
    """A body that knows whether somebody has asked for it."""

    def __init__(self, content: bytes) -> None:
        self.content, self.read = content, False

    async def parts(self) -> AsyncIterator[bytes]:
        self.read = True
        yield self.content


async def test_nothing_is_read_of_a_body_that_nobody_with_a_key_has_signed(edge: ControlEdge) -> None:
    host = await edge.host()
    content = b'{"wait_s":0}'
    forged = SigningKey(host.signing_key.key_id, "tss_" + "x" * 43)
    good, host.signing_key = host.signing_key, forged
    body = Body(content)
    answer = await edge.client.post(PULL, content=body.parts(), headers=host.envelope("POST", PULL, content))
    assert (answer.status_code, body.read) == (401, False)
    assert answer.json()["type"].endswith("bad-signature")
    host.signing_key = good
    answer = await edge.client.post(PULL, content=body.parts(), headers=host.envelope("POST", PULL, content))
    assert (answer.status_code, body.read) == (422, True)


async def test_an_agent_that_hammers_is_told_to_wait_and_keeps_nobody_else_from_polling(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BURST", 2.5)
    monkeypatch.setattr(opening, "REQUESTS_PER_S", 1e-6)
    async with control_edge(database, tmp_path) as edge:
        host, other = await edge.host("web-1"), await edge.host("web-2")
        answers = [await host.post(PULL, host.pulling()) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert (await other.pull())["items"] == []
        # Nobody uses up an agent's requests without its key.
        forged, other.signing_key = other.signing_key, SigningKey(other.signing_key.key_id, "tss_" + "x" * 43)
        assert {(await other.post(PULL, other.pulling())).status_code for _ in range(5)} == {401}
        other.signing_key = forged
        assert (await other.pull())["items"] == []


async def test_every_answer_to_an_agent_is_stamped_a_malformed_path_too(edge: ControlEdge) -> None:
    host = await edge.host()
    for path, status in (("/agent/policies/zz", 422), ("/agent/packages/zz", 422), (PULL, 401)):
        answer = await edge.client.request("POST" if path == PULL else "GET", path)
        assert (answer.status_code, SERVER_TIME_HEADER in answer.headers) == (status, True), path
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await host.pull())["items"] == []


async def test_words_that_cannot_be_stored_cost_no_other_tenant_its_own(
    edge: ControlEdge, database: Database, logs: list[EventDict]
) -> None:
    mine, other = edge.tenant, await database.tenant()
    await edge.host()
    await edge.use(other)
    await edge.host()
    book, now = HealthBook(edge.app), datetime.now(UTC)
    bad: Any = "bogus"
    book.note(mine, HeardHealth("web-1", now, bad, "1", {}))
    book.note(other, HeardHealth("web-1", now, "ok", "1", {}))
    assert await book.flush() == 1
    async with tenant_transaction(edge.app, other) as tx:
        found = await get_agent(tx, "web-1")
    assert found is not None
    assert found.status == "ok"
    assert [entry["tenant"] for entry in logs if entry["log_level"] == "error"] == [str(mine)]


async def test_a_name_under_which_somebody_signs_is_not_a_newcomers_to_choose(edge: ControlEdge) -> None:
    async with tenant_transaction(edge.app, edge.tenant) as tx:
        await create_signing_key(tx, "fw-1", master=1, actor="admin")
    token = await edge.token()
    refused = await Host(edge, "fw-1").enrol(token)
    assert refused.status_code == 409
    assert "signs as" in refused.json()["detail"]
    assert (await Host(edge, "web-1").enrol(token)).status_code == 201
    assert (await Host(edge, "fw-1").enrol(await edge.token(agent="fw-1"))).status_code == 201


async def due_agents(edge: ControlEdge, *agents: str) -> datetime:
    """Agents whose certificates are in their last third, the first the most urgent."""
    now = datetime.now(UTC)
    for place, agent in enumerate(agents):
        await edge.host(agent)
        async with tenant_transaction(edge.app, edge.tenant) as tx:
            ends = now + timedelta(days=200 + place)
            row = CertificateRow(f"{place + 1:x}", ends - timedelta(days=1000), ends, None)
            await record_certificate(tx, agent, row, actor="test")
            await write_health(tx, [HeardHealth(agent, now, "ok", "1", {})])
    return now


async def renewals(edge: ControlEdge, tenant: UUID) -> list[str]:
    async with tenant_transaction(edge.app, tenant) as tx:  # type: ignore[arg-type]
        page = await search_jobs(tx, JobFilter(type="CERT_ROTATE"), 100, None)
    return sorted(item["job"].agent for item in page.items)


async def test_agents_that_cannot_renew_their_certificate_do_not_stand_in_the_way_of_others(
    edge: ControlEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "_CERTIFICATES_AT_ONCE", 1)
    [chore] = [chore for chore in edge.control.chores if chore.name == "agent_certificates_due"]
    now = await due_agents(edge, "web-1", "web-2", "web-3")
    # Nobody has done it, and yet each has been told after as many rounds.
    assert [await chore.run(now) for _ in range(4)] == [1, 1, 1, 0]
    assert await renewals(edge, edge.tenant) == ["web-1", "web-2", "web-3"]


async def test_a_job_that_has_the_key_of_a_renewal_stops_the_renewals_of_nobody_else(
    edge: ControlEdge, database: Database
) -> None:
    """The key can be guessed: an operator of one tenant must not end the renewals of all that come after it."""
    [chore] = [chore for chore in edge.control.chores if chore.name == "agent_certificates_due"]
    tenants = [edge.tenant, await database.tenant()]
    for tenant in tenants:
        await edge.use(tenant)
        now = await due_agents(edge, "web-1", "web-2")
        key = f"renew:1:{int(now.timestamp()) // (7 * 24 * 3600)}"
        await edge.job(idempotency_key=key)
    assert await chore.run(now) == 2
    for tenant in tenants:
        assert await renewals(edge, tenant) == ["web-2"]


async def test_agents_and_jobs_are_counted(edge: ControlEdge) -> None:
    host = await edge.host()
    await edge.job()
    [item] = (await host.pull())["items"]
    await host.say(item)
    await edge.job()
    await host.post(PULL, {})
    [gauges] = [chore for chore in edge.control.chores if chore.name == "agent_gauges"]
    assert await gauges.run(datetime.now(UTC)) == 0
    shown = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(edge.metrics.render().decode())
        for sample in family.samples
    }
    assert shown["trustsoc_agents", "unknown"] == 1
    assert shown["trustsoc_jobs_open", "queued"] == 1
    assert shown["trustsoc_job_results_total", "succeeded"] == 1
    assert shown["trustsoc_agent_polls_waiting",] == 0
    assert shown["trustsoc_agent_requests_total", "/agent/jobs/pull", "200"] == 1
    assert shown["trustsoc_agent_requests_total", "/agent/jobs/pull", "422"] == 1
    assert shown["trustsoc_agent_requests_total", "/agent/enroll", "201"] == 1


async def test_one_tenants_polls_leave_places_for_another(edge: ControlEdge, database: Database) -> None:
    hints, other = JobHints(8), await database.tenant()
    with ExitStack() as stack:
        for number in range(6):
            stack.enter_context(hints.waiter(edge.tenant, f"web-{number}"))
        with pytest.raises(WireError) as refused:
            stack.enter_context(hints.waiter(edge.tenant, "web-7"))
        assert refused.value.status == 503
        stack.enter_context(hints.waiter(other, "web-1"))
        assert hints.waiting == 7
    with hints.waiter(edge.tenant, "web-7"):
        assert hints.waiting == 1
