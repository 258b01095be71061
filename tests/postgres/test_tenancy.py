"""Two tenants, as the app role, over every tenant table: neither reads, changes, removes or plants the other's rows."""

# ruff: noqa: S608 # table names cannot be parameters, and these are the constants below

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from detect.batch import Rollup
from detect.record import TenantId
from store.advisories import save_version
from store.detections import Snapshot, write_output
from store.holds import place_hold
from store.journal import JournalEntry, JournalWriter
from store.ledger import Rejections, StatementRow, add_rejections, write_statement
from store.masking import set_masking
from store.nonces import Nonce, NonceStore
from store.postgres import system_transaction, tenant_transaction
from store.rule_choices import read_choice
from store.shards import claim, pin
from store.signing_keys import create_signing_key
from store.tenants import create_key
from tests.postgres.agents import fill_agents
from tests.postgres.fixtures import Database
from tests.postgres.outputs import RECEIVED, TIME_NS, full_output, incident_id
from tests.postgres.test_detections import SHARD

TENANT_TABLES = (
    "tenants", "api_keys", "journal_heads", "journal", "raw_logs", "events", "feature_rollup_1m", "feature_rollup_5m",
    "feature_rollup_1h", "incidents", "incident_events", "advisories", "advisory_queue", "detector_snapshots",
    "detector_marks", "dead_letters", "audit_log", "event_folds",
    "ingest_ledger", "ingest_rejections", "ledger_statements", "signing_keys", "signing_nonces",
    "tenant_pins", "legal_holds", "journal_pruned", "tenant_rules",
    "agent_tokens", "agents", "agent_certificates", "agent_policies", "rollouts", "jobs", "job_outputs", "job_files",
    "job_file_chunks", "masking_keys", "tenant_masking",
)  # fmt: skip

# A generated column cannot be given a value, so it cannot be planted either.
PLANTED_COLUMNS = (
    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
    "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
)


async def fill(database: Database) -> TenantId:
    """A tenant with at least one row in every tenant table."""
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        await create_key(tx, "k", ["read"], actor="test")
        await create_signing_key(tx, "sender-1", master=1, actor="test")
        await place_hold(tx, "a case", None, None, actor="test")
        await read_choice(tx)
        await fill_agents(tx)
        await set_masking(tx, enabled=True, newest=1, actor="test")
    superuser = await database.superuser()
    await superuser.execute(
        "INSERT INTO journal_pruned (tenant_id, before_seq, batches, records) VALUES ($1, 1, 0, 0)", tenant
    )
    await NonceStore(await database.writer()).spend(Nonce(tenant, "key", "n" * 24, datetime.now(UTC)))
    entry = JournalEntry(tenant, "a", b"k", b"d" * 32, "otlp_json", "identity", 1, b"{}", datetime.now(UTC))
    await JournalWriter(await database.writer()).append(entry)
    async with system_transaction(await database.writer()) as tx:
        epoch = (await claim(tx, "a", [SHARD]))[SHARD]
    made = full_output(tenant, 1)
    rollups = tuple(Rollup(span, "user", "root", TIME_NS, {"count": 1.0}) for span in ("1m", "5m", "1h"))
    made = type(made)(**{name: getattr(made, name) for name in made.__struct_fields__} | {"rollups": rollups})
    await write_output(
        await database.detector(), tenant, shard=SHARD, epoch=epoch, outputs=[made], received={1: RECEIVED},
        snapshot=Snapshot(1, 1, b"s"),
    )  # fmt: skip
    async with tenant_transaction(await database.app(), tenant) as tx:
        await add_rejections(tx, [Rejections("a", "", "malformed", False, 1, 0, RECEIVED)])
        await write_statement(tx, "a", "", StatementRow(1, 1, 0, 0, {}, 1, 0, 1, 0, 0, "", RECEIVED))
        await save_version(tx, incident_id(tenant), 1, generator="t", fallback_reason=None, body={})
    async with system_transaction(await database.writer()) as tx:
        await pin(tx, tenant, changed_by="test")
    return tenant


async def test_the_list_of_tables_is_complete(database: Database) -> None:
    superuser = await database.superuser()
    found = await superuser.fetch(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
        "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition"
    )
    assert {row["relname"] for row in found} == set(TENANT_TABLES)


async def test_neither_tenant_meets_the_other_in_any_table(database: Database) -> None:
    mine, theirs = await fill(database), await fill(database)
    app, superuser = await database.app(), await database.superuser()
    for table in TENANT_TABLES:
        before = await superuser.fetch(f"SELECT t::text FROM {table} t WHERE tenant_id = $1 ORDER BY 1", theirs)
        assert before, f"{table} has no row to protect"
        async with tenant_transaction(app, mine) as tx:
            assert {row["tenant_id"] for row in await tx.connection.fetch(f"SELECT tenant_id FROM {table}")} == {mine}
            assert await tx.connection.fetch(f"SELECT 1 FROM {table} WHERE tenant_id = $1", theirs) == []
        await refused_or_nothing(
            database, mine, f"UPDATE {table} SET tenant_id = tenant_id WHERE tenant_id = $1", theirs
        )
        await refused_or_nothing(database, mine, f"DELETE FROM {table} WHERE tenant_id = $1", theirs)
        # The other's own row again, planted by me: the policy speaks before the primary key does.
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(app, mine) as tx:
                whole = await superuser.fetchval(f"SELECT row_to_json(t) FROM {table} t WHERE tenant_id = $1", theirs)
                columns = await superuser.fetchval(PLANTED_COLUMNS, table)
                plant = f"SELECT {columns} FROM json_populate_record(NULL::{table}, $1::json)"
                await tx.connection.execute(f"INSERT INTO {table} ({columns}) {plant}", whole)
        assert await superuser.fetch(f"SELECT t::text FROM {table} t WHERE tenant_id = $1 ORDER BY 1", theirs) == before


async def refused_or_nothing(database: Database, tenant: TenantId, statement: str, *arguments: object) -> None:
    try:
        async with tenant_transaction(await database.app(), tenant) as tx:
            assert (await tx.connection.execute(statement, *arguments)).endswith(" 0")
    except asyncpg.InsufficientPrivilegeError:
        return


async def test_without_a_tenant_there_is_nothing_to_see(database: Database) -> None:
    await fill(database)
    app = await database.app()
    for table in TENANT_TABLES:
        assert await app.fetch(f"SELECT 1 FROM {table}") == [], table


async def test_a_tenant_does_not_stay_on_a_pooled_connection(database: Database) -> None:
    tenant = await fill(database)
    app = await database.app()
    async with app.acquire() as connection:
        pid = connection.get_server_pid()
    async with tenant_transaction(app, tenant) as tx:
        assert tx.connection.get_server_pid() == pid
        assert await tx.connection.fetchval("SELECT count(*) FROM events") == 3
    async with app.acquire() as connection:
        assert connection.get_server_pid() == pid
        assert await connection.fetchval("SELECT count(*) FROM events") == 0


async def test_partitions_cannot_be_reached_beside_the_parent(database: Database) -> None:
    tenant = await fill(database)
    partition = f"raw_logs_{RECEIVED:%Y%m%d}"
    for pool in (await database.app(), await database.writer()):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch(f"SELECT 1 FROM {partition}")
    async with tenant_transaction(await database.app(), tenant) as tx:
        assert await tx.connection.fetchval("SELECT count(*) FROM raw_logs") == 3


async def test_the_audit_log_cannot_be_rewritten_by_the_app(database: Database) -> None:
    tenant = await fill(database)
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(await database.app(), tenant) as tx:
                await tx.connection.execute(statement)
