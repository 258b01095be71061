"""Dead letters from the failing record to the settled row, through the API's services and a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from detect.batch import Poison
from detect.normalize.normalizer import Normalizer
from detect.record import LogRecord, NormalizedRecord, TenantId
from serve.dead_letter_services import CORRECTS, DeadLetterServices
from serve.errors import WireError
from store.dead_letters import PER_SUBJECT, list_letters
from store.detections import write_output
from store.journal import JournalEntry, JournalWriter
from store.postgres import system_transaction, tenant_transaction
from store.search import LogFilter, search_logs
from store.shards import claim
from store.tenants import Principal
from tests.postgres.fixtures import Database
from tests.postgres.outputs import RECEIVED, output
from tests.postgres.test_detector_worker import (
    BATCHES,
    START,
    append,
    judged,
    new_tenant,
    plan,
    until,
    verdict,
    working,
)

SHARD = 3
HEADERS = {"authorization": "Bearer test"}


class OneTenant:
    """Stands for a key that was checked: the services see its tenant, and that the scope was asked for."""

    def __init__(self, tenant: TenantId) -> None:
        self.tenant = tenant
        self.scopes: list[str] = []

    async def tenant_principal(self, _: Any, scope: str) -> tuple[TenantId, Principal]:
        self.scopes.append(scope)
        return self.tenant, Principal(self.tenant, "key-1", frozenset({"read", "write"}), admin=False)


async def services(database: Database, tenant: TenantId) -> DeadLetterServices:
    journal = JournalWriter(await database.writer())
    return DeadLetterServices(OneTenant(tenant), await database.app(), journal, lambda _: None)  # type: ignore[arg-type]


@contextmanager
def unreadable(word: str) -> Iterator[None]:
    """A version with a defect: its normaliser fails on records with this word."""
    real = Normalizer.normalize

    def failing(self: Normalizer, record: LogRecord) -> NormalizedRecord:
        if word in str(record.body):
            raise RuntimeError(f"cannot read \x1b[31m{word}")
        return real(self, record)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Normalizer, "normalize", failing)
        yield


async def only_letter(database: Database, tenant: TenantId, state: str = "open") -> dict[str, Any]:
    async with tenant_transaction(await database.app(), tenant) as tx:
        page = await list_letters(tx, state, None, 10)  # type: ignore[arg-type]
    [letter] = page.items
    return letter


async def settled(database: Database, tenant: TenantId, letter_id: str, state: str) -> dict[str, Any]:
    async def reached() -> bool:
        superuser = await database.superuser()
        return bool(
            await superuser.fetchval("SELECT state = $2 FROM dead_letters WHERE letter_id = $1", letter_id, state)
        )

    await until(reached)
    return await only_letter(database, tenant, state)


async def test_a_retry_after_the_defect_was_mended_says_what_a_sound_version_would_have_said(
    database: Database,
) -> None:
    sound, tenant = await new_tenant(database), await new_tenant(database)
    await append(database, sound, BATCHES[:6])
    async with working(database, plan()):
        await judged(database, sound, 7)

    await append(database, tenant, BATCHES[:6])
    with unreadable("40003"):  # one record of each batch
        async with working(database, plan()):
            await judged(database, tenant, 7)
    api = await services(database, tenant)
    async with tenant_transaction(await database.app(), tenant) as tx:
        letters = (await list_letters(tx, "open", None, 100)).items
    assert {(letter["seq"], letter["position"], letter["stage"]) for letter in letters} == {
        (seq, 3, "normalize") for seq in range(2, 8)
    }
    shown = await api.show(HEADERS, UUID(letters[0]["letter_id"]))
    assert "40003" in shown["records"][0]["body"]
    async with working(database, plan()):
        for letter in letters:
            first = await api.retry(HEADERS, UUID(letter["letter_id"]))
            again = await api.retry(HEADERS, UUID(letter["letter_id"]))
            assert (first["state"], again["retry_seq"]) == ("retrying", first["retry_seq"]) or again[
                "state"
            ] == "retried"
        superuser = await database.superuser()

        async def all_retried() -> bool:
            count = "SELECT count(*) FROM dead_letters WHERE tenant_id = $1 AND state = 'retried'"
            return int(await superuser.fetchval(count, tenant)) == 6

        await until(all_retried)
        assert (await api.retry(HEADERS, UUID(letters[0]["letter_id"])))["state"] == "retried"
    expected, actual = await verdict(database, sound), await verdict(database, tenant)
    kinds = [{(row[0], row[2]) for row in found["events"]} for found in (expected, actual)]
    assert kinds[0] and kinds[0] == kinds[1], "the same rules speak about the same batches"
    assert len(actual["records"]) == len(expected["records"]) == 60
    head = await superuser.fetchval("SELECT last_seq FROM journal_heads WHERE tenant_id = $1", tenant)
    assert head == 7 + 6, "one control row for each letter, however often it was asked for"
    audit = await superuser.fetch(
        "SELECT actor, action FROM audit_log WHERE tenant_id = $1 AND action LIKE 'dead%'", tenant
    )
    assert [tuple(row) for row in audit] == [("key-1", "dead_letter.retrying")] * 6


async def test_a_retry_that_fails_again_opens_the_letter_again_and_can_be_repeated(database: Database) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:1])
    api = await services(database, tenant)
    with unreadable("40003"):
        async with working(database, plan()):
            await judged(database, tenant, 2)
            letter = await only_letter(database, tenant)
            await api.retry(HEADERS, UUID(letter["letter_id"]))
            await judged(database, tenant, 3)
    letter = await only_letter(database, tenant)
    assert (letter["state"], letter["attempts"]) == ("open", 1)
    async with working(database, plan()):
        await api.retry(HEADERS, UUID(letter["letter_id"]))
        letter = await settled(database, tenant, letter["letter_id"], "retried")
    assert (letter["attempts"], letter["settled_by"], letter["retry_seq"]) == (2, "key-1", 4)


async def test_a_batch_that_nobody_could_decode_is_shown_harmlessly_and_replaced_by_a_corrected_one(
    database: Database,
) -> None:
    tenant = await new_tenant(database)
    broken = b"\xff\x1b[2J not protobuf"
    entry = JournalEntry(tenant, "agent", b"broken", b"d" * 32, "otlp_protobuf", "identity", 1, broken, START)
    await JournalWriter(await database.writer()).append(entry)
    api = await services(database, tenant)
    async with working(database, plan()):
        await judged(database, tenant, 2)
        letter = await only_letter(database, tenant)
        letter_id = UUID(letter["letter_id"])
        shown = await api.show(HEADERS, letter_id)
        assert (shown["head"], shown["head_bytes"]) == ("\\xff\\x1b[2J not protobuf", len(broken))
        with pytest.raises(WireError, match="send it again corrected"):
            await api.request(HEADERS, letter_id)
        with pytest.raises(WireError, match="cannot be read"):
            await api.fix(HEADERS, letter_id, b"{]")
        record = {"body": {"stringValue": "the corrected line"}, "timeUnixNano": str(int(START.timestamp()) * 10**9)}
        document = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
        fixed = await api.fix(HEADERS, letter_id, orjson.dumps(document))
        assert fixed["state"] == "fixed"
        await judged(database, tenant, 3)
    with pytest.raises(WireError, match="is fixed"):
        await api.retry(HEADERS, letter_id)
    found = await search(database, tenant)
    [stored] = [row for row in found if row["message"] == "the corrected line"]
    assert stored["record"]["attributes"][CORRECTS] == "2"


async def search(database: Database, tenant: TenantId) -> list[dict[str, Any]]:
    async with tenant_transaction(await database.app(), tenant) as tx:
        wanted = LogFilter(START - timedelta(days=2), START + timedelta(days=2))
        return (await search_logs(tx, wanted, 500)).items


async def test_records_can_be_fetched_corrected_and_sent_back(database: Database) -> None:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:1])
    api = await services(database, tenant)
    with unreadable("40003"):
        async with working(database, plan()):
            await judged(database, tenant, 2)
    letter = await only_letter(database, tenant)
    document = await api.request(HEADERS, UUID(letter["letter_id"]))
    assert b"port 40003" in document
    async with working(database, plan()):
        await api.fix(HEADERS, UUID(letter["letter_id"]), document.replace(b"port 40003", b"port 50003"))
        await judged(database, tenant, 3)
    [stored] = [row for row in await search(database, tenant) if "50003" in row["message"]]
    assert (stored["seq"], stored["record"]["attributes"][CORRECTS]) == (3, "2-3")


async def test_a_letter_is_discarded_once_with_its_reason_in_the_audit_log(database: Database) -> None:
    tenant = await parked(database, [Poison(1, 0, "normalize", "record", "odd")])
    api = await services(database, tenant)
    letter = await only_letter(database, tenant)
    for _ in range(2):
        discarded = await api.discard(HEADERS, UUID(letter["letter_id"]), "a test host")
        assert discarded["state"] == "discarded"
    superuser = await database.superuser()
    audit = await superuser.fetch(
        "SELECT detail FROM audit_log WHERE tenant_id = $1 AND action = 'dead_letter.discarded'", tenant
    )
    assert [orjson.loads(row["detail"])["reason"] for row in audit] == ["a test host"]
    with pytest.raises(WireError, match="is discarded"):
        await api.retry(HEADERS, UUID(letter["letter_id"]))
    with pytest.raises(WireError, match="no dead letter"):
        await api.show(HEADERS, uuid4())


async def test_a_rule_that_fails_on_everything_makes_few_rows_and_exact_numbers(database: Database) -> None:
    tenant = await database.tenant()
    async with system_transaction(await database.writer()) as tx:
        epoch = (await claim(tx, "a", [SHARD]))[SHARD]
    for seq in range(1, 31):
        poison = tuple(Poison(seq, place, "normalize", "record", "odd") for place in range(100))
        await store(database, tenant, epoch, seq, poison)
    superuser = await database.superuser()
    rows = await superuser.fetch("SELECT folded, count, seq, last_seq FROM dead_letters WHERE tenant_id = $1", tenant)
    assert len(rows) == PER_SUBJECT + 1
    assert sum(row["count"] for row in rows) == 3000
    [fold] = [row for row in rows if row["folded"]]
    assert (fold["seq"], fold["last_seq"]) == (1, 30)
    api = await services(database, tenant)
    page = await api.list(HEADERS, "open", None, 1, None)
    while not page["items"][0]["folded"]:
        page = await api.list(HEADERS, "open", None, 1, page["next_cursor"])
    with pytest.raises(WireError, match="replay --from 1 --to 30"):
        await api.retry(HEADERS, UUID(page["items"][0]["letter_id"]))


async def test_neither_tenant_sees_or_settles_the_others_letters(database: Database) -> None:
    mine, theirs = await database.tenant(), await parked(database, [Poison(1, 0, "normalize", "record", "odd")])
    letter = await only_letter(database, theirs)
    api = await services(database, mine)
    assert (await api.list(HEADERS, None, None, 10, None))["items"] == []
    for attempt in (api.show, api.retry, api.request):
        with pytest.raises(WireError, match="no dead letter"):
            await attempt(HEADERS, UUID(letter["letter_id"]))
    with pytest.raises(WireError, match="no dead letter"):
        await api.discard(HEADERS, UUID(letter["letter_id"]), "")
    assert (await only_letter(database, theirs))["state"] == "open"


async def parked(database: Database, poison: list[Poison]) -> TenantId:
    tenant = await database.tenant()
    async with system_transaction(await database.writer()) as tx:
        epoch = (await claim(tx, "a", [SHARD]))[SHARD]
    await store(database, tenant, epoch, 1, tuple(poison))
    return tenant


async def store(database: Database, tenant: TenantId, epoch: int, seq: int, poison: tuple[Poison, ...]) -> None:
    await write_output(
        await database.detector(), tenant, shard=SHARD, epoch=epoch, outputs=[output(seq, poison=poison)],
        received={seq: RECEIVED},
    )  # fmt: skip
