"""Daily partitions of raw_logs, by the UTC day of receipt: made ahead, dropped by retention.

Both go through functions of the owner, the only changes of the schema that the app role can cause.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

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
    """Drops the days before `before_day`, at most today, that no tenant's own retention and no legal hold keeps.

    Returns how many. Takes a pool of the app role.
    """
    with storage_errors():
        dropped: int = await pool.fetchval(sql("partitions_drop"), before_day)
    return dropped


def days_of(times: Iterable[datetime]) -> list[date]:
    """The distinct UTC days of times, in order."""
    return sorted({time.astimezone(UTC).date() for time in times})
