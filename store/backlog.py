"""What is durable and not judged yet, per tenant: the figures that tell whether more should come in."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from detect.record import TenantId
from store.postgres import SystemTransaction
from store.queries import sql


@dataclass(frozen=True, slots=True)
class Backlog:
    """Batches behind the mark, exact; records and bytes estimated from the oldest of them when there are many."""

    mark: int
    batches: int
    records: int
    bytes: int


async def backlogs(tx: SystemTransaction, sample: int) -> dict[TenantId, Backlog]:
    """The tenants that are behind. Records and bytes are exact up to `sample` batches a tenant."""
    found = {}
    for row in await tx.connection.fetch(sql("admission_backlog"), sample):
        # Batches that were pruned or that are being stored count as the rest do.
        scale = row["batches"] / row["counted"] if row["counted"] else 0.0
        found[TenantId(UUID(int=row["tenant_id"].int))] = Backlog(
            row["mark"], row["batches"], round(row["records"] * scale), round(row["bytes"] * scale)
        )
    return found
