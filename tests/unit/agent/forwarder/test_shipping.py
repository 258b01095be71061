"""What was acknowledged to a local sender reaches the server, whatever stands in between and whatever it answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from agent.forwarder.process import Forwarder
from agent.spool_books import Books
from cluster.certificates import CertificateAuthority
from detect.record import TenantId
from serve.peer import PeerIdentity
from tests.unit.agent.forwarder.conftest import GZIPPED, TOKEN, Host, gzipped, lines_of, running, wait_for
from tests.unit.agent.forwarder.server import KEY, TinyServer, serving

LINES = [f"line {number}" for number in range(12)]


async def sent(client: object, lines: list[str]) -> None:
    for line in lines:
        answer = await client.post("/v1/logs", content=gzipped(line), headers=GZIPPED)  # type: ignore[attr-defined]
        assert answer.status_code == 200, answer.text


async def until(server: TinyServer, records: int) -> None:
    await asyncio.to_thread(server.wait, lambda journal: journal.records() >= records, f"{records} records stored")


async def settled(forwarder: Forwarder) -> Books:
    assert await asyncio.to_thread(forwarder.spool.wait_empty, 20.0), forwarder.status.status()
    books = forwarder.spool.flush()
    assert (books.unaccounted, books.in_flight) == (0, 0)
    return books


async def test_lines_arrive_once_in_order_signed_and_in_the_run_s_name(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES)
        books = await settled(forwarder)
    assert lines_of(server.journal.bodies()) == LINES
    assert [row.key for row in server.journal.rows.values()] == [f"{books.run}-{n}" for n in range(1, 13)]
    assert {row.run for row in server.journal.rows.values()} == {books.run}
    assert (books.accepted, books.stored, books.duplicate) == (12, 12, 0)
    assert books.seen_seq == 12
    assert len({attempt.nonce for attempt in server.journal.attempts}) == 12


@pytest.mark.parametrize("fault", ["drop", "html200", "html301", "html400", "html401", "html404", "html413", "html500"])
async def test_an_answer_without_the_server_s_mark_changes_nothing(host: Host, server: TinyServer, fault: str) -> None:
    server.faults.extend([fault] * 3)
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[:2])
        books = await settled(forwarder)
    assert lines_of(server.journal.bodies()) == LINES[:2]
    assert (books.stored, books.rejected) == (2, {})
    first = server.journal.attempts[:4]
    assert {attempt.key for attempt in first} == {f"{books.run}-1"}, "one key for every attempt of a batch"
    assert len({attempt.nonce for attempt in first}) == 4, "a new nonce for each"
    assert forwarder.meter.counts()["poison_batches_total", ""] == 0


async def test_a_stranger_who_asks_for_an_hour_gets_a_retry_like_any_other(host: Host, server: TinyServer) -> None:
    server.faults.extend(["html503+3600"] * 3)
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[:1])
        assert (await settled(forwarder)).stored == 1
    assert [attempt.status for attempt in server.journal.attempts] == [503, 503, 503, 200]


async def test_an_answer_that_was_lost_makes_a_duplicate_not_a_second_batch(host: Host, server: TinyServer) -> None:
    server.faults.extend(["store_then_drop", None, "store_then_drop"])
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[:3])
        books = await settled(forwarder)
        assert await asyncio.to_thread(forwarder.bookkeeper.state)
    assert lines_of(server.journal.bodies()) == LINES[:3]
    assert (books.stored, books.duplicate, books.elsewhere) == (1, 2, 0)
    assert [verdict.balanced for verdict in server.journal.verdicts] == [True] * len(server.journal.verdicts)


@pytest.mark.parametrize("status", ["400", "413", "415", "422"])
async def test_a_batch_refused_for_ever_is_set_aside_counted_and_stated(
    host: Host, server: TinyServer, status: str
) -> None:
    server.faults.extend([None, status])
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[:3])
        books = await settled(forwarder)
        assert await asyncio.to_thread(forwarder.bookkeeper.state)
    assert lines_of(server.journal.bodies()) == [LINES[0], LINES[2]]
    assert (books.stored, books.rejected, books.unsettled) == (2, {f"http_{status}": 1}, 0)
    assert server.journal.statements[-1]["rejected"] == {f"http_{status}": 1}
    assert all(verdict.balanced for verdict in server.journal.verdicts)
    kept = host.folder / "spool" / "poison" / f"{books.run}-2"
    assert kept.with_suffix(".bin").read_bytes() == gzipped(LINES[1])
    note = json.loads(kept.with_suffix(".json").read_text())
    assert (note["status"], note["answer"], note["records"]) == (int(status), "refused by the test", 1)


async def test_a_refusal_after_an_unanswered_attempt_is_unsettled(host: Host, server: TinyServer) -> None:
    server.faults.extend(["store_then_drop", "400"])
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[:1])
        books = await settled(forwarder)
        await asyncio.to_thread(forwarder.bookkeeper.state)
    assert (books.rejected, books.unsettled) == ({"http_400": 1}, 1)
    assert all(verdict.balanced for verdict in server.journal.verdicts), "it is stored, and both books allow for it"


async def test_when_poison_is_full_the_batch_stays_in_the_spool(host: Host, server: TinyServer) -> None:
    server.always = "400"
    async with running(host.config(server.port, in_flight=1), aside_bytes=10) as (forwarder, client):
        await sent(client, LINES[:1])
        await asyncio.to_thread(wait_for, lambda: forwarder.meter.state == "failing", "the full folder noticed")
        assert forwarder.spool.books().in_flight == 1
        server.always = None
        books = await settled(forwarder)
    assert (books.stored, books.rejected) == (1, {})


async def test_a_nonce_that_was_used_is_signed_again_at_once(host: Host, server: TinyServer) -> None:
    server.faults.extend(["nonce", "nonce"])
    async with running(host.config(server.port, longest_retry_s=50.0, first_retry_s=50.0)) as (forwarder, client):
        await sent(client, LINES[:1])
        books = await settled(forwarder)
    assert books.stored == 1
    assert len({attempt.nonce for attempt in server.journal.attempts}) == 3


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0, 86400.0 * 400])
async def test_a_clock_that_is_wrong_is_corrected_by_the_server_s(
    host: Host, server: TinyServer, ahead_s: float
) -> None:
    server.clock_ahead_s = ahead_s
    config = host.config(server.port, in_flight=1, first_retry_s=50, longest_retry_s=50)
    async with running(config) as (forwarder, client):
        await sent(client, LINES[:3])
        books = await settled(forwarder)
        status = forwarder.status.status()
    assert books.stored == 3
    assert [attempt.status for attempt in server.journal.attempts] == [503, 200, 200, 200], "found out once"
    assert status["clock_offset_s"] == pytest.approx(ahead_s, abs=5)
    server.clock_ahead_s = 0.0
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[3:4])
        assert (await settled(forwarder)).stored == 4


@pytest.mark.parametrize("status", ["401", "403"])
async def test_refused_credentials_keep_everything_and_new_ones_are_found_by_themselves(
    host: Host, server: TinyServer, status: str
) -> None:
    server.keys = {"b1b2c3d4e5f6": "tss_new"}
    if status == "403":
        server.always = "403"
    async with running(host.config(server.port, refused_retry_s=0.1)) as (forwarder, client):
        await sent(client, LINES)
        await asyncio.to_thread(wait_for, lambda: forwarder.meter.state == "failing", "the refusal noticed")
        assert status in forwarder.meter.troubles()["credentials"].detail
        assert forwarder.spool.books().in_flight == 12
        server.always = None
        host.sign_with("b1b2c3d4e5f6", "tss_new")
        books = await settled(forwarder)
        assert forwarder.meter.state == "ok"
    assert sorted(lines_of(server.journal.bodies())) == sorted(LINES)
    assert books.stored == 12


async def test_a_lane_refused_with_the_old_credentials_does_not_hold_up_the_new_ones(
    host: Host, server: TinyServer
) -> None:
    """Every lane is refused once; the first of them finds the new ones, and the others find nothing new."""
    server.keys = {"b1b2c3d4e5f6": "tss_new"}
    server.together = threading.Barrier(4, lambda: host.sign_with("b1b2c3d4e5f6", "tss_new"))
    async with running(host.config(server.port, refused_retry_s=3600.0, in_flight=4)) as (forwarder, client):
        await sent(client, LINES)
        assert (await settled(forwarder)).stored == 12
    refused = [attempt for attempt in server.journal.attempts if attempt.status == 401]
    assert len(refused) == 4


async def test_refused_credentials_are_not_tried_often(host: Host, server: TinyServer) -> None:
    server.always = "401"
    async with running(host.config(server.port, refused_retry_s=60.0)) as (forwarder, client):
        await sent(client, LINES)
        await asyncio.to_thread(server.wait, lambda journal: len(journal.attempts) >= 1, "attempts")
        await asyncio.sleep(0.5)
        assert len(server.journal.attempts) <= 8, "each lane once, and what was on its way"
        assert forwarder.spool.books().in_flight == 12
        server.always = None
        forwarder.reload()
        assert (await settled(forwarder)).stored == 12


@pytest.mark.parametrize("status", ["429", "503"])
async def test_retry_after_holds_all_lanes(host: Host, server: TinyServer, status: str) -> None:
    server.faults.append(status)
    async with running(host.config(server.port, in_flight=1)) as (forwarder, client):
        await sent(client, LINES[:2])
        await settled(forwarder)
    first, second, *_ = server.journal.attempts
    assert second.at - first.at >= 0.99, "the answer asked for one second"


async def test_a_server_that_is_away_is_waited_for(host: Host, certificates: Path) -> None:
    with serving(certificates) as first:
        port, journal = first.port, first.journal
        async with running(host.config(port)) as (forwarder, client):
            await sent(client, LINES[:4])
            await until(first, 4)
            await asyncio.to_thread(first.close)
            await sent(client, LINES[4:])
            await asyncio.to_thread(wait_for, lambda: forwarder.meter.state == "degraded", "the outage noticed")
            with serving(certificates, port, journal) as second:
                await until(second, 12)
                books = await settled(forwarder)
                assert forwarder.meter.state == "ok"
    assert sorted(lines_of(journal.bodies())) == sorted(LINES)
    assert books.stored + books.duplicate == 12


async def test_what_a_stopped_forwarder_had_is_sent_by_the_next(host: Host, server: TinyServer) -> None:
    server.always = "503"
    async with running(host.config(server.port, drain_s=0.01)) as (forwarder, client):
        await sent(client, LINES)
        run = forwarder.spool.run
    assert server.journal.rows == {}
    server.always = None
    async with running(host.config(server.port)) as (forwarder, client):
        books = await settled(forwarder)
        assert forwarder.spool.run == run, "the run is the life of the spool, not of the process"
    assert sorted(lines_of(server.journal.bodies())) == sorted(LINES)
    assert books.stored == 12


async def test_a_stop_sends_what_it_can_and_states_the_books(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port, drain_s=10.0)) as (_, client):
        await sent(client, LINES)
    assert server.journal.records() == 12
    assert server.journal.statements[-1]["stored"] == 12
    assert server.journal.verdicts[-1].balanced


async def test_a_server_of_another_authority_gets_nothing(host: Host, server: TinyServer) -> None:
    config = host.config(server.port)
    stranger = replace(config, server=replace(config.server, authority=config.server.certificate))
    async with running(stranger) as (forwarder, client):
        await sent(client, LINES[:1])
        await asyncio.to_thread(wait_for, forwarder.meter.troubles, "the stranger noticed")
        assert "CERTIFICATE_VERIFY_FAILED" in forwarder.meter.troubles()["server"].detail
    assert server.journal.attempts == []


async def test_a_certificate_that_came_while_the_handshake_failed_is_found_without_a_signal(
    host: Host, server: TinyServer
) -> None:
    own = host.folder / "tls"
    shutil.copytree(host.certificates, own)
    stranger = CertificateAuthority(host.folder / "stranger")
    stranger.create(["localhost"], datetime.now(UTC))
    identity = PeerIdentity(TenantId(UUID(int=1)), "web-1")
    foreign = stranger.issue_agent("acme", identity, datetime.now(UTC))
    for suffix in (".pem", ".key"):
        shutil.copy(foreign.with_suffix(suffix), own / "agents" / f"acme.web-1{suffix}")
    async with running(Host(host.folder, own).config(server.port)) as (forwarder, client):
        await sent(client, LINES[:1])
        await asyncio.to_thread(wait_for, forwarder.meter.troubles, "the refusal noticed")
        assert forwarder.spool.books().in_flight == 1
        shutil.copytree(host.certificates / "agents", own / "agents", dirs_exist_ok=True)
        assert (await settled(forwarder)).stored == 1


async def test_the_bandwidth_cap_holds(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port, bytes_per_second=100_000, in_flight=2)) as (forwarder, client):
        began = time.monotonic()
        for _ in range(6):
            body = gzipped(os.urandom(25_000).hex())
            assert (await client.post("/v1/logs", content=body, headers=GZIPPED)).status_code == 200
        await settled(forwarder)
        seconds = time.monotonic() - began
    size = forwarder.meter.counts()["sent_bytes_total", ""]
    assert seconds >= (size - 100_000) / 100_000 * 0.9 - 0.3, f"{size} bytes in {seconds:.2f} s"


async def test_contradictory_books_begin_a_new_run_and_no_batch_counts_in_two(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port)) as (forwarder, client):
        await sent(client, LINES[:5])
        before = await settled(forwarder)
        server.ledger_answer = 409, {"type": "urn:trustsoc:problem:conflict"}
        assert not await asyncio.to_thread(forwarder.bookkeeper.state)
        server.ledger_answer = None
        await sent(client, LINES[5:])
        books = await settled(forwarder)
        assert books.run != before.run
        assert (books.accepted, books.stored) == (7, 7)
        assert await asyncio.to_thread(forwarder.bookkeeper.state)
    assert server.journal.verdicts[-1].balanced
    assert {row.run for row in server.journal.rows.values()} == {before.run, books.run}


async def test_what_a_proxy_says_of_the_books_begins_no_new_run(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port)) as (forwarder, client):
        await sent(client, LINES[:5])
        before = await settled(forwarder)
        for status, found in (
            (409, {"type": "urn:a-proxy:conflict"}),
            (200, {"taken": False}),
            (200, {"head": 10**15}),
        ):
            server.ledger_stranger = status, found
            assert not await asyncio.to_thread(forwarder.bookkeeper.state)
        books = forwarder.spool.books()
        assert (books.run, books.seen_seq) == (before.run, before.seen_seq)
        assert forwarder.meter.counts()["statements_total", "foreign"] == 3


async def test_a_gap_in_the_ledger_is_shown(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port)) as (forwarder, client):
        await sent(client, LINES)
        await settled(forwarder)
        server.journal.rows.popitem()  # the server loses what it has acknowledged
        assert await asyncio.to_thread(forwarder.bookkeeper.state)
        assert forwarder.meter.state == "failing"
        assert "lack 1 record" in forwarder.meter.troubles()["ledger"].detail
        page = (await client.get("/status")).json()
        assert page["ledger"]["balanced"] is False


async def test_the_secrets_are_in_no_page_and_no_error(host: Host, server: TinyServer) -> None:
    async with running(host.config(server.port)) as (forwarder, client):
        await sent(client, LINES[:1])
        await settled(forwarder)
        shown = (await client.get("/status")).text + (await client.get("/metrics")).text
    assert KEY.key_id in shown
    for secret in (KEY.secret, TOKEN):
        assert secret not in shown
