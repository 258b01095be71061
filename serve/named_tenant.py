"""A tenant by the name that an administrator gives, for every service that changes something of one."""

from __future__ import annotations

from serve.errors import WireError
from store.postgres import Pool, system_transaction
from store.tenants import Tenant, tenant_by_name


async def named_tenant(writer_pool: Pool, name: str) -> Tenant:
    """The tenant of that name; WireError 404."""
    async with system_transaction(writer_pool) as transaction:
        found = await tenant_by_name(transaction, name)
    if found is None:
        raise WireError(404, f"there is no tenant {name!r}")
    return found
