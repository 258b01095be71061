"""The janitor's chores on a real store: each does its work, and none can stop the others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from actors.housekeeping import RetentionPlan, store_chores
from actors.janitor import Chore, Janitor
from actors.metrics import Metrics
from store.postgres import StorageUnavailable
from tests.postgres.fixtures import Database


async def test_one_failing_chore_does_not_stop_the_others(database: Database) -> None:
    async def broken(_: datetime) -> int:
        raise RuntimeError("a defect")

    async def postponed(_: datetime) -> int:
        raise StorageUnavailable("away", 2.0)

    metrics = Metrics()
    chores = store_chores(await database.app(), await database.writer(), RetentionPlan())
    await database.tenant()
    janitor = Janitor([Chore("broken", 60, broken), Chore("postponed", 60, postponed), *chores], metrics)
    done = await janitor.sweep()
    assert done == {"broken": False, "postponed": False} | {chore.name: True for chore in chores}
    today = datetime.now(UTC).date()
    superuser = await database.superuser()
    assert await superuser.fetchval("SELECT to_regclass($1)", f"raw_logs_{today:%Y%m%d}") is not None
    text = metrics.render().decode()
    assert 'trustsoc_janitor_failures_total{chore="broken"} 1.0' in text
    assert 'trustsoc_janitor_rows_total{chore="partitions_ahead"} 4.0' in text
    assert 'trustsoc_janitor_last_success_seconds{chore="journal_past_replay"}' in text
    assert await janitor.sweep() == {}, "nothing is due yet"


def test_two_chores_cannot_have_one_name() -> None:
    async def nothing(_: datetime) -> int:
        return 0

    with pytest.raises(ValueError, match="same name"):
        Janitor([Chore("a", 1, nothing), Chore("a", 1, nothing)], Metrics())
