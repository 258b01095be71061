"""Daily partitions of raw_logs, by the UTC day of receipt: made ahead, dropped by retention.

Both go through functions of the owner, the only changes of the schema that the app role can cause.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from store.postgres import Pool, storage_errors
from store.queries import sql


async def make_partitions(pool: Pool, first_day: date, days: int) -> int:
    """Makes the missing partitions of `days` days (1 to 400) from `first_day` on; returns how many were missing.

    Takes a pool of the app role.
    """
    with storage_errors():
        made: int = await pool.fetchval(sql("partitions_make"), first_day, days)
    return made


async def drop_partitions(pool: Pool, before_day: date) -> int:
    """Drops the partitions of all days before `before_day`, at most today; returns how many. Takes an app pool."""
    with storage_errors():
        dropped: int = await pool.fetchval(sql("partitions_drop"), before_day)
    return dropped


async def keep_partitions(pool: Pool, now: datetime, *, ahead_days: int, retention_days: int) -> tuple[int, int]:
    """The janitor's round: (made, dropped). Keeps `retention_days` whole days before today, UTC."""
    today = now.astimezone(UTC).date()
    made = await make_partitions(pool, today, ahead_days + 1)
    return made, await drop_partitions(pool, today - timedelta(days=retention_days))


def days_of(times: Iterable[datetime]) -> list[date]:
    """The distinct UTC days of times, in order."""
    return sorted({time.astimezone(UTC).date() for time in times})
