"""Quotas: what a tenant may send, kept under `quota` in its settings; what is not stated is the installation's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detect.record import TenantId
from store.audit import append_audit
from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql


class QuotaOverride(BaseModel):
    """What differs for one tenant. Null: the installation's default. 0: no limit (weight and burst_s have none)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"records_per_s": 5000, "weight": 2}]}
    )

    records_per_s: float | None = Field(default=None, ge=0, le=1e12, description="Log records a second.")
    bytes_per_s: float | None = Field(default=None, ge=0, le=1e15, description="Bytes a second, as sent.")
    burst_s: float | None = Field(
        default=None, ge=0.1, le=3600, description="Seconds of the rate that may come at once."
    )
    agent_records_per_s: float | None = Field(default=None, ge=0, le=1e12, description="The same for each agent.")
    agent_bytes_per_s: float | None = Field(default=None, ge=0, le=1e15, description="The same for each agent.")
    weight: float | None = Field(default=None, ge=0.01, le=100, description="Share of the journal under contention.")
    max_backlog: int | None = Field(default=None, ge=0, le=10**15, description="Records that may wait for judgement.")


class Quota(BaseModel):
    """What is in force for a tenant. Rates and max_backlog: 0 is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records_per_s: float = Field(default=0, ge=0)
    bytes_per_s: float = Field(default=0, ge=0)
    burst_s: float = Field(default=10, ge=0.1, le=3600)
    agent_records_per_s: float = Field(default=0, ge=0)
    agent_bytes_per_s: float = Field(default=0, ge=0)
    weight: float = Field(default=1, ge=0.01, le=100)
    max_backlog: int = Field(default=0, ge=0)

    def under(self, override: QuotaOverride) -> Quota:
        """These defaults with what the override states in their place."""
        return self.model_copy(update=override.model_dump(exclude_none=True))


async def all_overrides(tx: SystemTransaction) -> tuple[dict[TenantId, QuotaOverride], list[TenantId]]:
    """The tenants that have a quota of their own, and those whose stored quota cannot be read (by hand, perhaps)."""
    found, unreadable = {}, []
    for row in await tx.connection.fetch(sql("quota_list")):
        tenant = TenantId(UUID(int=row["tenant_id"].int))
        try:
            found[tenant] = _override(row["quota"])
        except ValidationError:
            unreadable.append(tenant)
    return found, unreadable


async def get_override(tx: TenantTransaction) -> QuotaOverride:
    """What differs for the transaction's tenant."""
    return _override(await tx.connection.fetchval(sql("quota_get")))


async def set_override(tx: TenantTransaction, override: QuotaOverride, *, actor: str) -> None:
    """Replaces what differs for the transaction's tenant, with an audit row that tells both."""
    before = await get_override(tx)
    stated = override.model_dump(exclude_none=True)
    await tx.connection.execute(sql("quota_set"), orjson.dumps(stated).decode() if stated else None)
    detail: dict[str, Any] = {"before": before.model_dump(exclude_none=True), "after": stated}
    await append_audit(tx, actor, "quota.set", f"tenant:{tx.tenant}", detail)


def _override(stored: str | None) -> QuotaOverride:
    return QuotaOverride() if stored is None else QuotaOverride.model_validate_json(stored)
