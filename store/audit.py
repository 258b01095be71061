"""The audit log: every state change as a row of an append-only hash chain per tenant.

The chain shows that a row was changed, removed or put in between; whoever owns the database can still rewrite all of
it, so the last hash is worth keeping elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from store.postgres import TenantTransaction
from store.queries import sql
from store.values import json_text, nanoseconds, text

_PAGE = 1000


class AuditChainBroken(Exception):
    """The audit log of a tenant is not what was written. `position` is the first row that does not fit."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"the audit log is broken at position {position}: {reason}")
        self.position = position
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The end of a chain that verifies: number of rows and the last hash (empty for no rows)."""

    position: int
    hash: bytes


async def append_audit(tx: TenantTransaction, actor: str, action: str, target: str, detail: dict[str, Any]) -> int:
    """Writes one row in the transaction of the change that it tells of; returns its position, from 1."""
    position: int = await tx.connection.fetchval(
        sql("audit_append"), tx.tenant, text(actor), text(action), text(target), json_text(detail)
    )
    return position


async def verify_audit(tx: TenantTransaction) -> AuditHead:
    """Recomputes the tenant's whole chain. Raises AuditChainBroken."""
    position, previous = 0, b""
    while True:
        rows = await tx.connection.fetch(sql("audit_read"), position, _PAGE)
        for row in rows:
            position += 1
            if row["position"] != position:
                raise AuditChainBroken(position, f"the next row has position {row['position']}")
            if row["previous"] != previous:
                raise AuditChainBroken(position, "it does not follow from the row before it")
            previous = _hash(row)
            if row["hash"] != previous:
                raise AuditChainBroken(position, "its content does not have its hash")
        if len(rows) < _PAGE:
            return AuditHead(position, previous)


def _hash(row: Any) -> bytes:
    seconds, micros = divmod(nanoseconds(row["at"]) // 1000, 10**6)
    parts = (
        str(row["tenant_id"]),
        str(row["position"]),
        f"{seconds}.{micros:06d}",
        row["actor"],
        row["action"],
        row["object"],
        row["detail"],
    )
    content = "".join(f"{len(part.encode())}:{part}" for part in parts)
    return hashlib.sha256(row["previous"] + content.encode()).digest()
