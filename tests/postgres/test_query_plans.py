"""The plans of the hot queries, on tables big enough that a planner without the right index would read them whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest_asyncio

from cluster.postgres import SUPERUSER, EmbeddedPostgres
from detect.record import TenantId
from store.bootstrap import grant_database
from store.partitions import make_partitions
from store.postgres import SystemTransaction, TenantTransaction, system_transaction, tenant_transaction
from store.queries import sql
from tests.postgres.fixtures import Database

NOW = datetime.now(UTC)
TENANTS = 8
_NAME = "trustsoc_query_plans"
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
BIG = {
    "journal", "events", "raw_logs", "incidents", "incident_events", "dead_letters", "ingest_ledger",
    "feature_rollup_1m", "agents", "jobs", "rollouts",
}  # fmt: skip
# A partition made ahead holds nothing, and reading nothing from end to end costs nothing.
EMPTY = 1.0

_SEED = """
INSERT INTO journal (tenant_id, seq, received, agent, idempotency_key, digest, kind, encoding, records, payload)
    SELECT t, n, $2::timestamptz - (5000 - n) * interval '1 minute', 'agent-' || n % 20, n::text::bytea, 'd',
        CASE WHEN n % 500 = 0 THEN 'control' ELSE 'otlp_json' END, 'identity', 1,
        CASE WHEN n % 500 = 0 THEN '{"type":"tick"}'::bytea ELSE repeat('p', 200)::bytea END
    FROM unnest($1::uuid[]) t, generate_series(1, 3000) n;
INSERT INTO events SELECT t, gen_random_uuid(), n, 0, $2::timestamptz - n * interval '1 minute', now(), 'rule', 'd',
        'r-' || n % 50, '1', 't', 'd', 'high', 50, 'a', 'o', '{}', '{}', '[]', '[]', '{}', '{}'
    FROM unnest($1::uuid[]) t, generate_series(1, 2000) n;
INSERT INTO incidents (tenant_id, incident_id, revision, title, severity, score, first_time, last_time, created_seq,
        updated_seq, event_count, entities, techniques, tactics)
    SELECT t, gen_random_uuid(), 1, 't', 'high', 50, $2::timestamptz - n * interval '1 hour',
        $2::timestamptz - n * interval '1 hour', n, n, 1, '[]', '{}', '{}'
    FROM unnest($1::uuid[]) t, generate_series(1, 1000) n;
INSERT INTO incident_events SELECT i.tenant_id, i.incident_id, e.event_id, 0, e.time, 's', 'r'
    FROM (SELECT *, row_number() OVER (PARTITION BY tenant_id) AS n FROM incidents) i
    JOIN (SELECT *, row_number() OVER (PARTITION BY tenant_id) AS n FROM events) e USING (tenant_id, n);
INSERT INTO raw_logs SELECT t, d * 10000 + n, 0, $2::timestamptz - d * interval '1 day',
        $2::timestamptz - d * interval '1 day' - n * interval '1 s', '', 9, 'a//b', '{}', 'm', '{}'
    FROM unnest($1::uuid[]) t, generate_series(0, 4) d, generate_series(1, 1000) n;
INSERT INTO dead_letters (tenant_id, seq, position, stage, subject, error, letter_id, last_seq, hour, created_at)
    SELECT t, n + 2000, 0, 'sigma', 'r', 'e', gen_random_uuid(), n, $2::timestamptz,
        $2::timestamptz - n * interval '1 minute'
    FROM unnest($1::uuid[]) t, generate_series(1, 1000) n;
INSERT INTO ingest_ledger SELECT t, 'agent-' || n, 'run', 1, 1, 0, 0, 0, 1, $2::timestamptz, $2::timestamptz
    FROM unnest($1::uuid[]) t, generate_series(1, 1000) n;
INSERT INTO feature_rollup_1m SELECT t, 'ip', 'a', $2::timestamptz - n * interval '1 minute', '{}'
    FROM unnest($1::uuid[]) t, generate_series(1, 3000) n;
INSERT INTO detector_snapshots (tenant_id, seq, epoch, format, state, received)
    SELECT t, n * 400, 1, 1, '', $2::timestamptz FROM unnest($1::uuid[]) t, generate_series(1, 7) n;
INSERT INTO agents (tenant_id, agent, labels, result_key, signing_key, version, platform, enrolled_by)
    SELECT t, 'agent-' || n, '{}', sha256('k'), 'k', '1', 'p', 'e'
    FROM unnest($1::uuid[]) t, generate_series(1, 1000) n;
INSERT INTO rollouts (tenant_id, rollout_id, state, type, labels, waves, gate_s, most_failures, lifetime_s, agents,
        created_by)
    SELECT t, gen_random_uuid(), CASE WHEN n % 500 = 0 THEN 'running' ELSE 'succeeded' END, 'PING', '{}', '{100}', 0, 0,
        60, 1, 'e' FROM unnest($1::uuid[]) t, generate_series(1, 1000) n;
INSERT INTO jobs (tenant_id, job_id, agent, type, args, dry_run, idempotency_key, state, created_by, created_at,
        issued_at, not_before, expires_at, max_attempts, lease, lease_until)
    SELECT t, gen_random_uuid(), 'agent-' || 1 + n % 1000, 'PING', '{}', false, n::text, s, 'e',
        $2::timestamptz - n * interval '1 minute', $2, $2, $2::timestamptz + interval '1 day', 3,
        CASE s WHEN 'leased' THEN gen_random_uuid() END, CASE s WHEN 'leased' THEN $2::timestamptz END
    FROM unnest($1::uuid[]) t, generate_series(1, 5000) n,
        LATERAL (SELECT CASE n % 100 WHEN 0 THEN 'queued' WHEN 1 THEN 'leased' ELSE 'succeeded' END AS s) AS stated;
UPDATE detector_marks SET seq = 2900;
UPDATE journal_heads SET last_seq = 3000;
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a plan."""

    kind: str
    relation: str
    index: str
    cost: float


class Plan:
    """A plan as a flat list of nodes, in the order of EXPLAIN."""

    def __init__(self, document: str) -> None:
        self.text = document
        self.nodes = list(_nodes(orjson.loads(document)[0]["Plan"]))

    @property
    def indexes(self) -> set[str]:
        return {node.index for node in self.nodes if node.index}

    @property
    def partitions(self) -> set[str]:
        return {node.relation for node in self.nodes if node.relation.startswith("raw_logs_")}

    @property
    def sorts(self) -> bool:
        return any(node.kind in {"Sort", "Incremental Sort"} for node in self.nodes)

    def read_whole(self) -> set[str]:
        """The big tables that the plan reads from end to end."""
        return {
            node.relation
            for node in self.nodes
            if node.kind == "Seq Scan"
            and node.cost > EMPTY
            and (node.relation in BIG or node.relation.startswith("raw_logs_"))
        }


def _nodes(plan: dict[str, Any]) -> Iterator[Node]:
    yield Node(plan["Node Type"], plan.get("Relation Name", ""), plan.get("Index Name", ""), plan["Total Cost"])
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@pytest_asyncio.fixture(scope="module")
async def seeded(postgres_server: EmbeddedPostgres, database_template: str) -> AsyncIterator[tuple[Database, TenantId]]:
    """One database for all of these tests, which leave it as it is but for what they roll back or prune."""
    superuser = await asyncpg.connect(postgres_server.dsn(SUPERUSER))
    await superuser.execute(f'CREATE DATABASE "{_NAME}" TEMPLATE "{database_template}" OWNER trustsoc_owner')
    await grant_database(superuser, _NAME)
    database = Database(postgres_server, _NAME)
    tenants = [await database.tenant() for _ in range(TENANTS)]
    await make_partitions(await database.app(), NOW.date() - timedelta(days=6), 8)
    seeding = await database.superuser()
    for statement in filter(None, (part.strip() for part in _SEED.split(";\n"))):
        arguments = [value for mark, value in (("$1", tenants), ("$2", NOW)) if mark in statement]
        await seeding.execute(statement, *arguments)
    await seeding.execute("ANALYZE")
    yield database, tenants[3]
    await database.close()
    await superuser.execute(f'DROP DATABASE "{_NAME}" WITH (FORCE)')
    await superuser.close()


async def plan(tx: TenantTransaction | SystemTransaction, name: str, *arguments: object) -> Plan:
    return Plan(await tx.connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql(name)}", *arguments))


async def incident_of(database: Database, tenant: TenantId) -> UUID:
    found = "SELECT incident_id FROM incidents WHERE tenant_id = $1 LIMIT 1"
    identifier: UUID = await (await database.superuser()).fetchval(found, tenant)
    return identifier


async def test_the_questions_of_analysts_and_detectors_walk_an_index(seeded: tuple[Database, TenantId]) -> None:
    database, tenant = seeded
    incident, high = await incident_of(database, tenant), ["high"]
    day = NOW - timedelta(hours=1)
    logs = (day, LAST, day - timedelta(days=1), None, None, LAST, 2**60, 0, 50, 50_000)
    cases: dict[str, tuple[tuple[object, ...], str, bool]] = {
        # name: arguments, an index that must be used, whether rows must come in its order without a sort
        "journal_read": ((5, 64, 2**20), "journal_pkey", True),
        "control_rules_newest": ((), "journal_control", False),
        "batch_read": ((5,), "journal_pkey", True),
        "dead_letter_batch": ((5,), "journal_pkey", True),
        "search_events": ((FIRST, LAST, high, None, None, None, None, LAST, uuid4(), 50), "events_by_time", True),
        "search_event": ((uuid4(),), "events_pkey", True),
        "search_incidents": ((FIRST, LAST, high, None, LAST, uuid4(), 50), "incidents_by_time", True),
        "search_incident": ((incident,), "incidents_pkey", True),
        "search_timeline": ((incident, 100), "incident_events_pkey", False),
        "search_logs": (logs, f"raw_logs_{NOW:%Y%m%d}_tenant_id_time_seq_position_idx", True),
        "search_record": ((5, 0), f"raw_logs_{NOW:%Y%m%d}_pkey", True),
        "dead_letter_list": ((None, None, LAST, uuid4(), 50), "dead_letters_by_time", True),
        "dead_letter_read": ((uuid4(),), "dead_letters_letter", True),
        "ledger_books_read": (("agent-1", "run"), "ingest_ledger_pkey", True),
    }
    async with tenant_transaction(await database.app(), tenant) as tx:
        for name, (arguments, index, ordered) in cases.items():
            found = await plan(tx, name, *arguments)
            assert found.read_whole() == set(), f"{name}\n{found.text}"
            assert index in found.indexes, f"{name}\n{found.text}"
            assert not (ordered and found.sorts), f"{name}\n{found.text}"


async def test_the_questions_of_agents_and_operators_walk_an_index(seeded: tuple[Database, TenantId]) -> None:
    database, tenant = seeded
    cases: dict[str, tuple[tuple[object, ...], str, bool]] = {
        "jobs_lease": (("agent-1", 16, 60.0), "jobs_open_by_agent", False),
        "job_delivered": ((uuid4(), "agent-1"), "jobs_pkey", True),
        "job_get": ((uuid4(),), "jobs_pkey", True),
        "job_by_idempotency_key": (("agent-1", "1"), "jobs_tenant_id_agent_idempotency_key_key", True),
        "job_page": ((LAST, uuid4(), None, None, None, None, 50), "jobs_by_time", True),
        "agent_jobs_cancel": (("agent-1",), "jobs_open_by_agent", True),
        "agent_get": (("agent-1",), "agents_pkey", True),
        "agent_page": (("agent-1", None, None, 50), "agents_pkey", True),
        "jobs_give_back": ((200,), "jobs_open_by_lease", True),
        "jobs_expire": ((200,), "jobs_open_by_expiry", True),
        "rollouts_open": ((), "rollouts_open", False),
        "rollout_page": ((LAST, uuid4(), 50), "rollouts_by_time", True),
    }
    async with tenant_transaction(await database.app(), tenant) as tx:
        for name, (arguments, index, ordered) in cases.items():
            found = await plan(tx, name, *arguments)
            assert found.read_whole() == set(), f"{name}\n{found.text}"
            assert index in found.indexes, f"{name}\n{found.text}"
            assert not (ordered and found.sorts), f"{name}\n{found.text}"
        assert await scans(tx.connection, sql("agent_standing"), tenant, "agent-1") == {}


async def test_the_sweep_of_jobs_finds_its_tenants_without_reading_any_table_whole(
    seeded: tuple[Database, TenantId],
) -> None:
    database, _ = seeded
    async with system_transaction(await database.writer()) as tx:
        for name, arguments in (("tenants_with_due_jobs", (NOW,)), ("jobs_by_state", ())):
            found = await plan(tx, name, *arguments)
            assert found.read_whole() == set(), f"{name}\n{found.text}"


async def test_a_search_of_logs_opens_only_the_days_that_can_hold_its_range(
    seeded: tuple[Database, TenantId],
) -> None:
    database, tenant = seeded
    start = NOW - timedelta(hours=1)
    async with tenant_transaction(await database.app(), tenant) as tx:
        found = await plan(
            tx, "search_logs", start, LAST, start - timedelta(days=1), "%x%", None, LAST, 2**60, 0, 50, 50_000
        )
    # A day of slack for what was stamped ahead of its receipt, and the days made ahead.
    expected = {NOW.date() + timedelta(days=offset) for offset in (-1, 0, 1)}
    if start.date() < NOW.date():
        expected.add(NOW.date() - timedelta(days=2))
    assert found.partitions == {f"raw_logs_{day:%Y%m%d}" for day in expected}


async def test_routing_never_reads_the_journal(seeded: tuple[Database, TenantId]) -> None:
    database, _ = seeded
    async with system_transaction(await database.writer()) as tx:
        found = await plan(tx, "journal_behind")
    assert not {node.relation for node in found.nodes} & BIG


async def scans(connection: asyncpg.Connection, call: str, *arguments: object) -> dict[str, int]:
    """The big tables that a call reads from end to end, with the rows read: EXPLAIN does not look into functions."""
    before = await _rows_scanned(connection)
    await connection.fetch(call, *arguments)
    after = await _rows_scanned(connection)
    return {name: rows - before.get(name, 0) for name, rows in after.items() if rows > before.get(name, 0)}


async def _rows_scanned(connection: asyncpg.Connection) -> dict[str, int]:
    # What this session has not handed over yet, which is that of this transaction and of those just before.
    rows = await connection.fetch("SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables")
    return {
        row["relname"]: row["seq_tup_read"] for row in rows if row["relname"] in BIG or "raw_logs_" in row["relname"]
    }


async def test_the_functions_that_append_and_prune_read_no_table_whole(seeded: tuple[Database, TenantId]) -> None:
    database, tenant = seeded
    old = NOW - timedelta(days=1)
    async with tenant_transaction(await database.app(), tenant) as tx:
        for name, arguments in (
            ("journal_prune", (old, 0, 1000)),
            ("rollups_prune", ("1m", old, 1000)),
            ("raw_logs_prune", (NOW.date() - timedelta(days=2), 1000)),
        ):
            assert await scans(tx.connection, sql(name), *arguments) == {}, name
        assert await tx.connection.fetchval("SELECT batches FROM journal_pruned"), "there was something to do"
    columns = ([tenant], ["agent-1"], [b"new"], [b"d"], ["otlp_json"], ["identity"], [1], [b"p"], [NOW], [""])
    async with system_transaction(await database.writer()) as system:
        assert await scans(system.connection, sql("journal_append"), *columns) == {}


async def test_a_plan_that_reads_a_table_whole_is_noticed(seeded: tuple[Database, TenantId]) -> None:
    """That the tests above can fail at all."""
    superuser = await seeded[0].superuser()
    found = Plan(await superuser.fetchval("EXPLAIN (FORMAT JSON) SELECT * FROM events WHERE detector = 'x'"))
    assert found.read_whole() == {"events"}
    async with superuser.transaction():
        assert await scans(superuser, "SELECT count(*) FROM events WHERE detector = 'x'") == {"events": TENANTS * 2000}
