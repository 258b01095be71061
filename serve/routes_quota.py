"""Quotas over the API: an administrator sets a tenant's, a tenant's key sees its own and what it used."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from detect.record import TenantId
from serve.errors import WireError
from serve.ingest.gate import Gate
from serve.named_tenant import named_tenant
from serve.openapi import refusals
from serve.schemas import Model
from serve.services import EdgeServices
from store.postgres import tenant_transaction
from store.quotas import Quota, QuotaOverride, get_override, set_override


class QuotaModel(Model):
    """`in_force` is what holds: the tenant's own where it states something, else the installation's default."""

    tenant: str
    own: QuotaOverride
    in_force: Quota


class UsageModel(Model):
    """What the replica that answers saw since it started; each replica grants its part of a rate."""

    replicas: int = Field(description="Replicas that share the quota evenly.")
    records: int
    bytes: int
    refused_requests: int
    requests_in_flight: int
    retry_after_s: float = Field(description="Seconds until the tenant's rates let a request in; 0: now.")
    backlog_batches: int = Field(description="Durable and not judged yet, on the whole installation.")
    backlog_records: int = Field(description="The same in records, estimated.")


class OwnQuotaModel(Model):
    """A tenant's quota and its use."""

    in_force: Quota
    use: UsageModel


def quota_routes(services: EdgeServices, gate: Gate) -> APIRouter:
    """GET and PUT of a tenant's quota for administrators, GET of its own for a tenant."""
    router = APIRouter(prefix="/api", responses=refusals())

    def answer(name: str, own: QuotaOverride) -> QuotaModel:
        return QuotaModel(tenant=name, own=own, in_force=gate.room.defaults.under(own))

    @router.get("/admin/tenants/{name}/quota", tags=["administration"])
    async def quota(request: Request, name: str) -> QuotaModel:
        """What a tenant may send."""
        await services.authenticator.admin(request.headers)
        tenant = await named_tenant(services.writer_pool, name)
        async with tenant_transaction(services.app_pool, tenant.id) as transaction:
            return answer(name, await get_override(transaction))

    @router.put("/admin/tenants/{name}/quota", tags=["administration"])
    async def put_quota(request: Request, name: str, own: QuotaOverride) -> QuotaModel:
        """Replaces the tenant's own quota; what is left out is the default again. In force within seconds."""
        administrator = await services.authenticator.admin(request.headers)
        tenant = await named_tenant(services.writer_pool, name)
        async with tenant_transaction(services.app_pool, tenant.id) as transaction:
            await set_override(transaction, own, actor=administrator.key_id)
        await gate.poll.poll()
        return answer(name, own)

    @router.get("/quota", tags=["operations"])
    async def own_quota(request: Request) -> OwnQuotaModel:
        """The quota of the key's tenant, and its use. Any key of the tenant may ask."""
        principal = await services.authenticator.principal(request.headers)
        if principal.tenant is None:
            raise WireError(403, "an administrator's key has no quota: ask /api/admin/tenants/NAME/quota")
        tenant = TenantId(principal.tenant)
        return OwnQuotaModel(in_force=gate.room.quota(tenant), use=UsageModel(**_use(gate, tenant)))

    return router


def _use(gate: Gate, tenant: TenantId) -> dict[str, Any]:
    usage, backlog = gate.admission.usage(tenant), gate.room.backlog(tenant)
    return {
        "replicas": gate.replicas,
        "records": usage.records,
        "bytes": usage.bytes,
        "refused_requests": usage.refused_requests,
        "requests_in_flight": usage.requests_in_flight,
        "retry_after_s": usage.retry_after_s,
        "backlog_batches": backlog.batches,
        "backlog_records": backlog.records,
    }
