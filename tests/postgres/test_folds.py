"""Floods through the real worker: few events are written and nothing is lost count of, whatever happens to the worker;
and a replay or backtest holds the counts against those that are stored."""

from __future__ import annotations

from typing import Any

import pytest

from actors.backtest import BacktestRequest
from actors.replay import ReplayRefused, ReplayRequest, replay
from detect.record import TenantId
from tests.postgres.fixtures import Database
from tests.postgres.test_detector_worker import BATCHES, START, append, judged, plan, working
from tests.postgres.test_rules import ANY_LOGIN, OWN, RULE, choose, enforcer_of, install, told

HITS = 10 * len(BATCHES)
ADDRESSES = 5


async def flooded(database: Database, stops: tuple[int, ...] = ()) -> TenantId:
    """Half an hour of failed logins from five addresses, folded into one event an address and hour; with a worker that
    ends at each of these batches."""
    tenant = await database.tenant()
    enforcer = await enforcer_of(database)
    await install(enforcer, "own", RULE)
    await choose(enforcer, tenant, 1, [OWN], {"fold": {"seconds": 3600}})
    await append(database, tenant, BATCHES)
    for stop in (*stops, len(BATCHES) + 2):
        async with working(database, plan(snapshot_every_batches=4)):
            await judged(database, tenant, stop)
    return tenant


async def counted(database: Database, tenant: TenantId) -> list[tuple[Any, ...]]:
    """Of each event by time: its repeats, when they were, how many places and samples of them are kept."""
    superuser = await database.superuser()
    rows = await superuser.fetch(
        "SELECT e.time, f.repeats, f.first_time, f.last_time, cardinality(f.records), jsonb_array_length(f.samples)"
        " FROM events e LEFT JOIN event_folds f USING (tenant_id, event_id) WHERE e.tenant_id = $1 ORDER BY e.time",
        tenant,
    )
    return [tuple(row) for row in rows]


async def test_counts_are_exact_after_restarts(database: Database) -> None:
    calm = await counted(database, await flooded(database))
    restless = await counted(database, await flooded(database, stops=(4, 5, 9, 17, 18, 27)))
    assert len(calm) == ADDRESSES
    assert [repeats for _, repeats, *_ in calm] == [HITS // ADDRESSES - 1] * ADDRESSES
    assert [row[4:] for row in calm] == [(HITS // ADDRESSES - 1, 20)] * ADDRESSES
    assert restless == calm


async def replayed(database: Database, request: ReplayRequest) -> dict[str, Any]:
    lines = [line async for line in replay(await database.app(), request)]
    assert lines[-1]["type"] == "result"
    return lines[-1]


async def test_a_replay_holds_repeats_against_those_that_are_stored(database: Database) -> None:
    tenant = await flooded(database)
    folded = HITS - ADDRESSES
    whole = await replayed(database, ReplayRequest(tenant, 1))
    assert [whole[name] for name in ("same", "missing", "new", "changed")] == [ADDRESSES, 0, 0, 0]
    assert whole["repeats"] == {"stored": folded, "said": folded}
    part = await replayed(database, ReplayRequest(tenant, 1, 20))
    assert [part[name] for name in ("same", "missing", "new", "changed")] == [ADDRESSES, 0, 0, 0], "a window goes on"
    superuser = await database.superuser()
    for repeats in ("repeats - 1", "repeats + 2"):
        await superuser.execute(
            f"UPDATE event_folds SET repeats = {repeats} WHERE event_id = (SELECT min(event_id::text)::uuid FROM events"  # noqa: S608
            " WHERE tenant_id = $1)",
            tenant,
        )
        result = await replayed(database, ReplayRequest(tenant, 1))
        assert (result["same"], result["changed"]) == (ADDRESSES - 1, 1)
        assert result["samples"]["changed"][0]["columns"] == ["repeats"]
    await superuser.execute("DELETE FROM event_folds WHERE tenant_id = $1", tenant)
    gone = await replayed(database, ReplayRequest(tenant, 1))
    assert (gone["changed"], gone["repeats"]) == (ADDRESSES, {"stored": 0, "said": folded})


async def test_a_backtest_counts_what_is_folded(database: Database) -> None:
    tenant = await flooded(database)
    folded = HITS - ADDRESSES
    fresh = RULE.replace(ANY_LOGIN, "5a3f6a4e-7d5a-4a57-9d6f-6b0d5f1c0c07")
    for text, repeats, counts in (
        (RULE, {"stored": folded, "said": folded}, {"same": ADDRESSES, "changed": 0, "lost": 0, "new": 0}),
        (fresh, {"stored": 0, "said": folded}, {"same": 0, "changed": 0, "lost": 0, "new": ADDRESSES}),
        (
            RULE.replace('["Failed password"]', '["from 203.0.113.1 "]'),
            {"stored": folded, "said": HITS // ADDRESSES - 1},
            {"same": 0, "changed": 1, "lost": ADDRESSES - 1, "new": 0},
        ),
    ):
        result = await told(database, BacktestRequest(tenant, (("a.yml", text),), START))
        assert {name: result[name] for name in counts} == counts
        assert result["repeats"] == repeats
        assert [rule["repeats"] for rule in result["rules"]] == [repeats]


async def test_a_rule_that_loses_only_its_repeats_is_changed(database: Database) -> None:
    tenant = await flooded(database)
    once = RULE.replace('["Failed password"]', '["Failed password"]\n  first: [":00 web-1"]').replace(
        "condition: words", "condition: words and first"
    )
    result = await told(database, BacktestRequest(tenant, (("a.yml", once),), START))
    assert result["same"] == 0
    assert result["changed"] == ADDRESSES
    assert result["repeats"] == {"stored": HITS - ADDRESSES, "said": len(BATCHES) - ADDRESSES}


async def test_a_replay_that_takes_too_long_is_ended(database: Database) -> None:
    tenant = await flooded(database)
    with pytest.raises(ReplayRefused, match="not done within 0 minutes"):
        await replayed(database, ReplayRequest(tenant, 1, longest_s=0.0))
