"""A fork of the past: the same as what is stored when nothing changed, the difference when something did, and never a
change of anything."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from actors.replay import Line, ReplayRefused, ReplayRequest, replay
from detect.record import TenantId
from store.postgres import Pool, connect_pool
from store.replay import read_only_transaction
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import BATCHES, DIGEST, append, judged, new_tenant, plan, working

RULE = """
title: Any login of the demo
id: 5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0c01
status: stable
level: low
logsource: {product: linux, service: sshd}
detection:
  words: ["Failed password"]
  condition: words
"""


async def told(pool: Pool, request: ReplayRequest) -> dict[str, Any]:
    lines = [line async for line in replay(pool, request)]
    assert lines[0]["type"] == "start"
    assert all(line["type"] == "progress" for line in lines[1:-1])
    assert lines[-2]["done"] == lines[-2]["total"]
    result: dict[str, Any] = lines[-1]
    assert result["type"] == "result"
    return result | {"snapshot": lines[0]["snapshot"]}


async def prepared(database: Database, batches: int = 20) -> TenantId:
    tenant = await new_tenant(database)
    await append(database, tenant, BATCHES[:batches])
    async with working(database, plan(snapshot_every_batches=4)):
        await judged(database, tenant, batches + 1)
    return tenant


async def contents(superuser: asyncpg.Connection) -> dict[str, Any]:
    """Every row of every table, and how often it was written."""
    names = await superuser.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    return {
        row["relname"]: await superuser.fetch(f'SELECT t::text, t.xmin::text FROM "{row["relname"]}" t ORDER BY 1')  # noqa: S608 - names of the catalogue
        for row in names
        if not row["relname"].startswith("raw_logs")
    }


async def test_nothing_differs_where_nothing_changed_and_nothing_is_written(database: Database) -> None:
    tenant = await prepared(database)
    superuser = await database.superuser()
    before = await contents(superuser)
    pool = await database.app()
    whole = await told(pool, ReplayRequest(tenant, 1))
    assert (whole["snapshot"], whole["to"]) == (0, 21)
    assert whole["same"] > 0
    later = await told(pool, ReplayRequest(tenant, 20))
    assert later["snapshot"] > 0, "it begins at a snapshot, not at the beginning"
    part = await told(pool, ReplayRequest(tenant, 5, 12))
    for result in (whole, later, part):
        assert [result[name] for name in ("missing", "new", "changed")] == [0, 0, 0], result
    assert await contents(superuser) == before


async def test_a_replay_runs_in_transactions_that_cannot_write(database: Database) -> None:
    tenant = await prepared(database, 2)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        try:
            async with read_only_transaction(await database.app(), tenant) as tx:
                await tx.connection.execute("UPDATE tenants SET settings = '{}'")
        except Exception as error:
            raise (error.__cause__ or error) from None


async def test_other_rules_show_what_they_would_have_said(database: Database) -> None:
    tenant = await prepared(database)
    pool = await database.app()
    result = await told(pool, ReplayRequest(tenant, 1, rules=(("demo.yml", RULE),)))
    assert result["new"] == 200, "one for each failed login"
    assert result["missing"] > 0, "the rules that were in force say nothing here"
    assert result["samples"]["new"][0]["title"] == "Any login of the demo"
    with pytest.raises(ReplayRefused, match="cannot be used"):
        await told(pool, ReplayRequest(tenant, 1, rules=(("broken.yml", "title: ["),)))


async def test_every_kind_of_difference_is_named_and_counted(database: Database) -> None:
    tenant = await prepared(database)
    superuser = await database.superuser()
    rows = await superuser.fetch("SELECT event_id FROM events WHERE tenant_id = $1 ORDER BY seq, event_id", tenant)
    lost, altered = rows[0]["event_id"], rows[1]["event_id"]
    await superuser.execute("DELETE FROM incident_events WHERE tenant_id = $1 AND event_id = $2", tenant, lost)
    await superuser.execute("DELETE FROM events WHERE tenant_id = $1 AND event_id = $2", tenant, lost)
    await superuser.execute("UPDATE events SET severity = 'critical', score = 99 WHERE event_id = $1", altered)
    await superuser.execute(
        "INSERT INTO events SELECT (json_populate_record(e, json_build_object('event_id', gen_random_uuid()))).*"
        " FROM events e WHERE event_id = $1",
        rows[2]["event_id"],
    )
    result = await told(await database.app(), ReplayRequest(tenant, 1))
    assert [result[name] for name in ("new", "changed", "missing")] == [1, 1, 1]
    assert result["samples"]["new"][0]["event_id"] == str(lost)
    assert result["samples"]["changed"][0]["columns"] == ["severity", "score"]


async def test_what_cannot_be_replayed_is_refused_with_what_to_ask_instead(database: Database) -> None:
    tenant = await prepared(database)
    pool = await database.app()
    for asked, words in (
        (ReplayRequest(tenant, 1, 99), "is not judged yet: the last one that is, is 21"),
        (ReplayRequest(tenant, 22), "batches go from 1 to 21"),
        (ReplayRequest(tenant, 9, 3), "nothing from 9 to 3"),
        (ReplayRequest(tenant, 1, max_batches=5), "ask for a shorter range"),
    ):
        with pytest.raises(ReplayRefused, match=words):
            await told(pool, asked)
    superuser = await database.superuser()
    await superuser.execute("DELETE FROM journal WHERE tenant_id = $1 AND seq <= 4", tenant)
    with pytest.raises(ReplayRefused, match="batch 1 was pruned: the journal is whole from batch 5 on"):
        await told(pool, ReplayRequest(tenant, 2))


async def last_line(database: Database, call: str) -> Line:
    """What the call says last in a process of its own."""
    code = (
        "import json; from datetime import UTC, datetime; from uuid import UUID;"
        "from actors.backtest import BacktestRequest, backtest_in_task;"
        f"print(json.dumps(list({call})[-1]))"
    )
    environment = os.environ | {"TRUSTSOC_APP_DSN": database.dsn("trustsoc_app")}
    task = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await task.communicate()
    line: Line = json.loads(said)
    return line


async def test_rules_that_are_gone_or_damaged_are_said_as_the_last_line(database: Database) -> None:
    tenant = await prepared(database, 2)
    since = "datetime(2026, 1, 1, tzinfo=UTC)"
    backtested = f"backtest_in_task(BacktestRequest(UUID('{tenant}'), (('a.yml', {RULE!r}),), {since}))"
    superuser = await database.superuser()
    await superuser.execute("UPDATE rule_sets SET pack = 'no pack'")
    damaged = await last_line(database, backtested)
    assert (damaged["type"], damaged["status"]) == ("error", 409)
    assert damaged["detail"] == "not a rule pack of a version that this program reads"
    await superuser.execute("DELETE FROM rule_sets")
    gone = await last_line(database, backtested)
    assert (gone["type"], gone["status"]) == ("error", 409)
    assert gone["detail"] == f"the rule set {DIGEST[:12]} is not stored: restore table rule_sets from a backup"


async def test_one_replay_of_a_tenant_at_a_time(database: Database) -> None:
    tenant, other = await prepared(database, 4), await prepared(database, 4)
    second = await connect_pool(database.dsn("trustsoc_app"), name="another replica", min_size=0, max_size=2)
    try:
        running = replay(await database.app(), ReplayRequest(tenant, 1, rows=1))
        await anext(running)
        with pytest.raises(ReplayRefused, match="under way"):
            await told(second, ReplayRequest(tenant, 1))
        assert (await told(second, ReplayRequest(other, 1)))["same"] >= 0
        await running.aclose()
        assert (await told(second, replace(ReplayRequest(tenant, 1), rows=8)))["same"] >= 0
    finally:
        await second.close()
