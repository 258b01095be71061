"""What a rule set holds, by its digest, and how often each rule of a tenant hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from store.detection_rows import rule_id_text
from store.postgres import TenantTransaction
from store.queries import sql
from store.search import time_bounded


@dataclass(frozen=True, slots=True)
class RuleHits:
    """Events of a rule since some time, and the time of the last one ever."""

    hits: int
    last_hit: datetime | None


async def has_catalog(tx: TenantTransaction, digest: str) -> bool:
    """Whether a rule set has been checked before."""
    return bool(await tx.connection.fetchval(sql("rule_catalog_exists"), digest))


async def get_catalog(tx: TenantTransaction, digest: str) -> bytes | None:
    """The catalogue of a rule set, as put_catalog got it."""
    found: bytes | None = await tx.connection.fetchval(sql("rule_catalog_read"), digest)
    return found


async def put_catalog(tx: TenantTransaction, digest: str, catalog: bytes) -> None:
    """Keeps the catalogue of a stored rule set; the first one stands."""
    await tx.connection.execute(sql("rule_catalog_insert"), digest, catalog)


async def rule_hits(tx: TenantTransaction, rule_ids: Sequence[str], since: datetime) -> dict[str, RuleHits]:
    """How often each of these rules hit (by event time). Raises SearchTimedOut."""
    stored = {rule_id: rule_id_text(rule_id) for rule_id in rule_ids}
    async with time_bounded(tx):
        rows = await tx.connection.fetch(sql("rule_hits"), sorted(set(stored.values())), since)
    found = {
        row["rule_id"]: RuleHits(row["hits"], None if row["last_hit"] is None else row["last_hit"].astimezone(UTC))
        for row in rows
    }
    return {rule_id: found[name] for rule_id, name in stored.items()}
