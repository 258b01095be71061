"""The loss ledger against a real database: exact under concurrency, judged, raised once, and each tenant's own."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from actors.metrics import Metrics
from detect.record import TenantId
from detect.sigma import load_rule_set
from detect.tenant import TenantDetector
from models.ewma import EwmaModel
from serve.errors import WireError
from serve.ingest.balance import SenderBooks
from serve.ingest.intake import Intake, Sender, Submission
from serve.ingest.ledger import LedgerDesk, RejectionTally
from serve.ingest.receipts import ReceiptSigner, verify_receipt
from store.journal import JournalLimits, JournalWriter, read_journal
from store.ledger import forget_runs, ledger_page, read_batch, read_books
from store.paging import InvalidCursor
from store.postgres import tenant_transaction
from tests.postgres.fixtures import Database
from tests.unit.serve.test_receipts import EXAMPLE_KEY

SIGNER = ReceiptSigner([EXAMPLE_KEY])


def submission(sender: Sender, key: str, records: int = 3) -> Submission:
    body = f"body of {key}".encode()
    digest = hashlib.sha256(body).digest()
    return Submission(sender, "otlp_protobuf", "identity", body, records, digest, key, door="otlp_http")


async def intake(database: Database, limits: JournalLimits | None = None) -> Intake:
    return Intake(JournalWriter(await database.writer(), limits), lambda _: None, Metrics(), SIGNER)


async def desk(database: Database, metrics: Metrics | None = None) -> LedgerDesk:
    writer = await database.writer()
    return LedgerDesk(await database.app(), writer, JournalWriter(writer), lambda _: None, metrics or Metrics())


async def books_of(database: Database, sender: Sender) -> tuple[int, int, int, int, int]:
    async with tenant_transaction(await database.app(), sender.tenant) as tx:
        books = await read_books(tx, sender.agent, sender.run)
    return books.stored_batches, books.stored, books.duplicate_batches, books.duplicate, books.elsewhere


async def control_rows(database: Database, tenant: TenantId) -> int:
    async with tenant_transaction(await database.app(), tenant) as tx:
        return sum(row.kind == "control" for row in await read_journal(tx, 0, 1000, 2**30))


async def test_fifty_equal_batches_at_once_are_one_batch_and_one_receipt(database: Database) -> None:
    sender = Sender(await database.tenant(), "web-1", "run-1")
    doors = [await intake(database, JournalLimits(group_rows=7)), await intake(database, JournalLimits(group_rows=5))]
    answers = await asyncio.gather(*(doors[n % 2].store(submission(sender, "the batch")) for n in range(50)))
    assert Counter(answer.duplicate for answer in answers) == {False: 1, True: 49}
    assert {answer.seq for answer in answers} == {1}
    [text] = {answer.headers["X-Receipt"] for answer in answers}
    assert not any("X-Batch-Elsewhere" in answer.headers for answer in answers)
    receipt = verify_receipt(text, SIGNER.jwks())
    assert (receipt.tenant, receipt.seq, receipt.records) == (str(sender.tenant), 1, 3)
    assert await books_of(database, sender) == (1, 3, 49, 147, 0)


async def test_the_receipt_speaks_of_the_stored_batch_and_not_of_its_repeat(database: Database) -> None:
    sender = Sender(await database.tenant(), "web-1")
    door = await intake(database)
    first = await door.store(submission(sender, "k", records=3))
    again = await door.store(replace(submission(sender, "k"), records=99, kind="otlp_json"))
    assert again.duplicate
    assert again.receipt == first.receipt
    assert await books_of(database, sender) == (1, 3, 1, 3, 0)


async def test_the_books_are_exact_under_concurrent_appends_of_runs_agents_and_tenants(database: Database) -> None:
    rng = random.Random(20260301)  # noqa: S311 - seeded on purpose
    tenants = [await database.tenant(), await database.tenant()]
    senders = [Sender(tenant, agent, run) for tenant in tenants for agent in ("a", "b") for run in ("", "r1", "r2")]
    # Runs of one agent send some of the same batches; each sends some of its own twice.
    sends = [(sender, number) for sender in senders for number in range(12) for _ in range(rng.randrange(1, 4))]
    rng.shuffle(sends)
    doors = [await intake(database, JournalLimits(group_rows=9)), await intake(database, JournalLimits(group_rows=4))]

    async def send(place: int, sender: Sender, number: int) -> tuple[Sender, int, bool, bool]:
        key = f"shared-{number}" if number < 4 else f"{sender.run}-{number}"
        answer = await doors[place % 2].store(submission(sender, key, records=number + 1))
        return sender, number + 1, answer.duplicate, answer.elsewhere

    answers = await asyncio.gather(*(send(place, *one) for place, one in enumerate(sends)))
    for sender in senders:
        mine = [answer[1:] for answer in answers if answer[0] == sender]
        new = [records for records, duplicate, _ in mine if not duplicate]
        repeats = [records for records, duplicate, _ in mine if duplicate]
        foreign = sum(records for records, _, elsewhere in mine if elsewhere)
        assert await books_of(database, sender) == (len(new), sum(new), len(repeats), sum(repeats), foreign)
    for tenant in tenants:
        async with tenant_transaction(await database.app(), tenant) as tx:
            journal = sum(row.records for row in await read_journal(tx, 0, 10_000, 2**30))
            page = await ledger_page(tx, None, 100, None)
        assert sum(row["server"]["stored_records"] for row in page.items) == journal


async def test_a_refused_batch_and_a_control_row_are_in_nobody_s_books(database: Database) -> None:
    sender = Sender(await database.tenant(), "web-1", "run-1")
    door = await intake(database)
    await door.store(submission(sender, "k"))
    with pytest.raises(WireError, match="another body"):
        await door.store(replace(submission(sender, "k"), payload=b"else", digest=bytes(32)))
    statement = SenderBooks(accepted=4, stored=3, duplicate=0, in_flight=0)
    assert not (await (await desk(database)).state(sender, statement)).balance.balanced
    assert await control_rows(database, sender.tenant) == 1
    async with tenant_transaction(await database.app(), sender.tenant) as tx:
        page = await ledger_page(tx, None, 100, None)
    assert [(row["agent"], row["server"]["stored_records"]) for row in page.items] == [("web-1", 3)]


async def test_one_record_too_many_is_a_gap_raised_once_and_again_when_it_grows(database: Database) -> None:
    sender = Sender(await database.tenant(), "web-1", "run-1")
    await (await intake(database)).store(submission(sender, "k"))
    metrics = Metrics()
    judge = await desk(database, metrics)
    balanced = SenderBooks(accepted=3, stored=3, duplicate=0, in_flight=0, seen_seq=1)
    assert (await judge.state(sender, balanced)).balance.balanced
    assert await control_rows(database, sender.tenant) == 0
    gap = replace(balanced, accepted=4, stored=4)
    for _ in range(3):
        verdict = await judge.state(sender, gap)
        assert (verdict.taken, verdict.balance.missing, verdict.balance.excess) == (True, 1, 0)
    # Another replica that finds the same gap at the same time adds nothing either.
    others = [await desk(database) for _ in range(4)]
    await asyncio.gather(*(other.state(sender, gap) for other in others))
    assert await control_rows(database, sender.tenant) == 1
    assert not (await judge.state(sender, balanced)).taken, "older than what is known"
    await judge.state(sender, replace(gap, accepted=6, stored=6))
    assert await control_rows(database, sender.tenant) == 2
    rendered = metrics.render().decode()
    assert "trustsoc_ledger_missing_records 3.0" in rendered
    assert "trustsoc_ledger_gaps 1.0" in rendered
    assert 'trustsoc_ledger_statements_total{verdict="older"} 1.0' in rendered


async def test_the_detector_makes_of_a_gap_a_record_an_event_and_an_incident(database: Database) -> None:
    sender = Sender(await database.tenant(), "a1b2", "run-1")
    await (await desk(database)).state(sender, SenderBooks(accepted=1, stored=1, duplicate=0, in_flight=0))
    async with tenant_transaction(await database.app(), sender.tenant) as tx:
        rows = await read_journal(tx, 0, 10, 2**20)

    def judged() -> list:
        rules = load_rule_set([])
        detector = TenantDetector(sender.tenant, lambda _: rules, EwmaModel)
        return [detector.observe(row.batch()) for row in rows]

    [output] = judged()
    [event], [record], [incident] = output.events, output.records, output.incidents
    assert (event.rule_id, event.severity, event.entities[0][:2]) == ("trustsoc-ledger-gap", "high", ("host", "a1b2"))
    assert event.matched == {"missing": 1, "excess": 0, "agent": "a1b2", "run": "run-1"}
    assert "of what was acknowledged, the server's books lack 1 record" in event.description
    assert event.evidence[0].ref == record.record.ref
    assert incident.title == "Log records are missing on a1b2"
    assert output.poison == ()
    assert judged() == [output], "a replay says the same"


async def test_a_batch_stored_in_the_sender_s_name_is_found(database: Database) -> None:
    sender = Sender(await database.tenant(), "web-1", "run-1")
    door, judge = await intake(database), await desk(database)
    mine = SenderBooks(accepted=3, stored=3, duplicate=0, in_flight=0, seen_seq=1)
    await door.store(submission(sender, "mine"))
    await door.store(submission(sender, "forged", records=2))
    first = await judge.state(sender, mine)
    assert first.balance.balanced, "it may be the sender's own, sent after the books were written"
    second = await judge.state(sender, replace(mine, seen_seq=first.books.head))
    assert (second.balance.missing, second.balance.excess) == (0, 2)


async def test_contradictory_counts_are_refused_and_change_nothing(database: Database) -> None:
    sender = Sender(await database.tenant(), "web-1", "run-1")
    judge = await desk(database)
    known = SenderBooks(accepted=5, stored=0, duplicate=0, in_flight=5)
    await judge.state(sender, known)
    with pytest.raises(WireError) as refused:
        await judge.state(sender, replace(known, accepted=4, rejected={"malformed": 1}))
    assert (refused.value.status, refused.value.reason) == (409, "ledger_contradiction")
    assert (await judge.state(sender, known)).balance.balanced


async def test_refusals_reach_the_books_once_and_survive_a_store_that_is_away(database: Database) -> None:
    tenant = await database.tenant()
    one, other = Sender(tenant, "web-1", "r"), Sender(tenant, "web-2")
    pool = await database.app()
    tally = RejectionTally(pool, lambda: datetime(2026, 3, 1, tzinfo=UTC))
    tally.add(one, "malformed", retryable=False)
    tally.add(one, "malformed", retryable=False, records=7)
    tally.add(other, "unavailable", retryable=True)
    superuser = await database.superuser()
    async with superuser.transaction():
        await superuser.execute("LOCK TABLE ingest_rejections IN ACCESS EXCLUSIVE MODE")
        flushing = asyncio.create_task(tally.flush())
        blocked = "SELECT pid FROM pg_stat_activity WHERE usename = 'trustsoc_app' AND wait_event_type = 'Lock'"
        while (pid := await superuser.fetchval(blocked)) is None:
            await superuser.execute("SELECT pg_stat_clear_snapshot()")
        await superuser.execute("SELECT pg_terminate_backend($1)", pid)
        await flushing
    await tally.stop()
    await tally.stop()
    async with tenant_transaction(pool, tenant) as tx:
        page = await ledger_page(tx, None, 10, None)
    assert {(row["agent"], row["run"]): row["server"]["rejections"] for row in page.items} == {
        ("web-1", "r"): [{"reason": "malformed", "retryable": False, "requests": 2, "records": 7}],
        ("web-2", ""): [{"reason": "unavailable", "retryable": True, "requests": 1, "records": 0}],
    }


async def test_the_ledger_is_paged_by_agent_and_run_and_each_tenant_s_own(database: Database) -> None:
    mine, theirs = await database.tenant(), await database.tenant()
    door, judge = await intake(database), await desk(database)
    for tenant in (mine, theirs):
        for agent in ("a", "b", "c"):
            for run in ("", "r1"):
                await door.store(submission(Sender(tenant, agent, run), f"{agent}{run}"))
    await judge.state(Sender(mine, "silent", "r"), SenderBooks(accepted=2, stored=0, duplicate=0, in_flight=2))
    async with tenant_transaction(await database.app(), mine) as tx:
        seen, cursor = [], None
        while True:
            page = await ledger_page(tx, None, 2, cursor)
            seen += [(row["agent"], row["run"]) for row in page.items]
            if (cursor := page.next_cursor) is None:
                break
        only = await ledger_page(tx, "b", 10, None)
        with pytest.raises(InvalidCursor):
            await ledger_page(tx, None, 10, "nonsense")
        batch = await read_batch(tx, 1)
    assert seen == [(agent, run) for agent in ("a", "b", "c") for run in ("", "r1")] + [("silent", "r")]
    assert [row["agent"] for row in only.items] == ["b", "b"]
    assert batch is not None
    assert (batch["agent"], batch["records"], batch["idempotency_key"]) == ("a", 3, b"key:a")


async def test_runs_that_were_silent_for_long_are_forgotten_and_no_others(database: Database) -> None:
    tenant = await database.tenant()
    door, judge = await intake(database), await desk(database)
    await door.store(submission(Sender(tenant, "sends", "r"), "k"))
    await door.store(submission(Sender(tenant, "states", "r"), "k"))
    await (await database.superuser()).execute("UPDATE ingest_ledger SET last_at = last_at - interval '500 days'")
    await judge.state(Sender(tenant, "states", "r"), SenderBooks(accepted=3, stored=3, duplicate=0, in_flight=0))
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert await forget_runs(tx, datetime.now(UTC) - timedelta(days=400)) == 1
        assert [row["agent"] for row in (await ledger_page(tx, None, 10, None)).items] == ["states"]


async def test_an_unknown_tenant_s_batch_opens_no_books(database: Database) -> None:
    stranger = Sender(TenantId(UUID(int=5)), "web-1")
    with pytest.raises(WireError, match="does not exist"):
        await (await intake(database)).store(submission(stranger, "k"))
    superuser = await database.superuser()
    assert await superuser.fetchval("SELECT count(*) FROM ingest_ledger") == 0
