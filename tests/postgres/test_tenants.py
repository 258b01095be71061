"""Tenants and keys: shown once, stored as a digest, refused with a reason when they are over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from store.audit import verify_audit
from store.postgres import system_transaction, tenant_transaction
from store.tenants import (
    KeyNotFound,
    KeyRefused,
    Principal,
    TenantExists,
    authenticate,
    create_admin_key,
    create_key,
    create_tenant,
    list_admin_keys,
    list_keys,
    list_tenants,
    revoke_admin_key,
    revoke_key,
    tenant_by_name,
)
from tests.postgres.fixtures import Database


async def test_a_tenant_is_made_once_with_its_first_audit_row(database: Database) -> None:
    app = await database.app()
    tenant = await create_tenant(app, "acme", actor="admin", settings={"colour": "blue"})
    with pytest.raises(TenantExists):
        await create_tenant(app, "acme", actor="admin")
    for name in ("", "Acme", "a b", "-a", "a" * 64, "a\0"):
        with pytest.raises(ValueError, match="tenant name"):
            await create_tenant(app, name, actor="admin")
    async with system_transaction(await database.writer()) as tx:
        assert [(item.id, item.name) for item in await list_tenants(tx)] == [(tenant, "acme")]
        found = await tenant_by_name(tx, "acme")
        assert found is not None
        assert found.id == tenant
        assert await tenant_by_name(tx, "nobody\0") is None
    async with tenant_transaction(app, tenant) as tx:
        assert (await verify_audit(tx)).position == 1


async def test_a_key_opens_its_tenant_and_is_not_stored(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        key = await create_key(tx, "forwarder", ["ingest", "read"], actor="admin")
    assert key.secret_text not in repr(key)
    principal = Principal(tenant, key.key_id, frozenset({"ingest", "read"}), admin=False)
    assert await authenticate(app, key.secret_text) == principal
    everything = "SELECT string_agg(t::text, ' ') FROM api_keys t"
    assert key.secret_text[-43:] not in await (await database.superuser()).fetchval(everything)
    async with tenant_transaction(app, tenant) as tx:
        [row] = await list_keys(tx)
    assert (row.key_id, row.label, row.scopes, row.revoked_at) == (key.key_id, "forwarder", ("ingest", "read"), None)


async def test_what_is_no_key_is_nobody(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        key = (await create_key(tx, "k", ["read"], actor="admin")).secret_text
    changed_secret = key[:-1] + ("A" if key[-1] != "A" else "B")
    changed_id = key[:4] + "0" * 12 + key[16:]
    for wrong in (
        "",
        "tsk_",
        "\0",
        "\ud800",
        "ü" * 60,
        changed_secret,
        changed_id,
        "tsa" + key[3:],
        key + "\n",
        " " + key,
    ):
        assert await authenticate(app, wrong) is None, wrong


async def test_a_revoked_or_expired_key_is_refused_with_its_reason(database: Database) -> None:
    app, tenant, other = await database.app(), await database.tenant(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        over = await create_key(tx, "old", ["read"], actor="a", expires_at=datetime.now(UTC) - timedelta(seconds=1))
        later = await create_key(tx, "new", ["read"], actor="a", expires_at=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(KeyRefused, match="expired") as caught:
        await authenticate(app, over.secret_text)
    assert caught.value.key_id == over.key_id
    assert await authenticate(app, later.secret_text) is not None
    async with tenant_transaction(app, other) as tx:
        with pytest.raises(KeyNotFound):
            await revoke_key(tx, later.key_id, actor="a")
    async with tenant_transaction(app, tenant) as tx:
        await revoke_key(tx, later.key_id, actor="a")
    with pytest.raises(KeyRefused, match="revoked"):
        await authenticate(app, later.secret_text)


async def test_only_the_owner_makes_administrators(database: Database) -> None:
    app = await database.app()
    owner = await asyncpg.connect(database.dsn("trustsoc_owner"))
    try:
        key = await create_admin_key(owner, "first")
        assert await authenticate(app, key.secret_text) == Principal(None, key.key_id, frozenset(), admin=True)
        for role in ("trustsoc_app", "trustsoc_writer", "trustsoc_detector"):
            pool = await database.pool(role)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with pool.acquire() as connection:
                    await create_admin_key(connection, "mine")
        assert await app.fetch("SELECT * FROM admin_keys") == [], "the app sees a key only by its digest"
        await revoke_admin_key(owner, key.key_id)
        with pytest.raises(KeyRefused, match="revoked"):
            await authenticate(app, key.secret_text)
        assert [row.key_id for row in await list_admin_keys(owner)] == [key.key_id]
        with pytest.raises(KeyNotFound):
            await revoke_admin_key(owner, "nothing")
    finally:
        await owner.close()


async def test_a_key_needs_known_scopes(database: Database) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        for scopes in ([], ["admin"], ["read", "all"]):
            with pytest.raises(ValueError, match="scopes"):
                await create_key(tx, "k", scopes, actor="a")
