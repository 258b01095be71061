"""Nonces are spent once across replicas, signing keys belong to one tenant, and every change has its audit row."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from detect.record import TenantId
from store.audit import verify_audit
from store.nonces import Nonce, NonceStore, sweep_nonces
from store.postgres import StorageUnavailable, connect_pool, tenant_transaction
from store.signing_keys import (
    SigningKeyNotFound,
    create_signing_key,
    get_signing_key,
    list_signing_keys,
    revoke_signing_key,
    rotate_signing_keys,
)
from tests.postgres.fixtures import Database

NOW = datetime.now(UTC)
LATER = NOW + timedelta(minutes=6)


def nonce(tenant: TenantId, key_id: str = "key", text: str = "n" * 24, expires: datetime = LATER) -> Nonce:
    return Nonce(tenant, key_id, text, expires)


async def test_of_fifty_equal_nonces_at_once_one_is_spent(database: Database) -> None:
    tenant = await database.tenant()
    pools = [await connect_pool(database.dsn("trustsoc_writer"), name=f"replica {n}", max_size=2) for n in range(5)]
    replicas = [NonceStore(pool) for pool in pools]
    try:
        outcomes = await asyncio.gather(*(replicas[n % 5].spend(nonce(tenant)) for n in range(50)))
    finally:
        for pool in pools:
            await pool.close()
    assert sorted(outcomes) == [False] * 49 + [True]


async def test_of_many_nonces_at_once_each_is_spent_once(database: Database) -> None:
    """Two replicas get the same nonces in opposite orders: no nonce is spent twice or by nobody, and none waits."""
    tenants = [await database.tenant() for _ in range(3)]
    pools = [await connect_pool(database.dsn("trustsoc_writer"), name=f"replica {n}", max_size=2) for n in range(2)]
    one, other = (NonceStore(pool) for pool in pools)
    given = [nonce(tenants[n % 3], text=f"nonce-{n:020}") for n in range(600)]
    try:
        first, second = await asyncio.gather(
            asyncio.gather(*(one.spend(item) for item in given)),
            asyncio.gather(*(other.spend(item) for item in reversed(given))),
        )
    finally:
        for pool in pools:
            await pool.close()
    assert [a + b for a, b in zip(first, reversed(second), strict=True)] == [1] * 600


async def test_a_nonce_is_of_one_key_of_one_tenant(database: Database) -> None:
    store, mine, theirs = NonceStore(await database.writer()), await database.tenant(), await database.tenant()
    assert await store.spend(nonce(mine))
    assert await store.spend(nonce(theirs))
    assert await store.spend(nonce(mine, key_id="other"))
    assert not await store.spend(nonce(mine))
    async with tenant_transaction(await database.app(), mine) as tx:
        rows = await tx.connection.fetch("SELECT tenant_id FROM signing_nonces")
    assert [row["tenant_id"] for row in rows] == [mine, mine]


async def test_expired_nonces_are_forgotten_and_others_are_not(database: Database) -> None:
    tenants, writer = [await database.tenant(), await database.tenant()], await database.writer()
    store = NonceStore(writer)
    for tenant in tenants:
        assert await store.spend(nonce(tenant, text="expired-nonce-1234", expires=NOW))
        assert await store.spend(nonce(tenant))
    assert await sweep_nonces(writer, NOW + timedelta(seconds=1)) == 2
    assert await sweep_nonces(writer, NOW + timedelta(seconds=1)) == 0
    for tenant in tenants:
        assert not await store.spend(nonce(tenant))
        assert await store.spend(nonce(tenant, text="expired-nonce-1234", expires=NOW))


async def test_the_app_neither_spends_nor_forgets(database: Database) -> None:
    tenant = await database.tenant()
    await NonceStore(await database.writer()).spend(nonce(tenant))
    for statement in (
        "DELETE FROM signing_nonces",
        "UPDATE signing_nonces SET expires = now()",
        "INSERT INTO signing_nonces SELECT tenant_id, 'k', 'n', now() FROM signing_nonces",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_transaction(await database.app(), tenant) as tx:
                await tx.connection.execute(statement)


async def test_the_sweep_reads_by_expiry(database: Database) -> None:
    superuser = await database.superuser()
    await superuser.execute(
        "INSERT INTO signing_nonces SELECT gen_random_uuid(), 'k', 'nonce-' || n, now() + n * interval '1 s' "
        "FROM generate_series(1, 20000) AS n"
    )
    await superuser.execute("ANALYZE signing_nonces")
    plan = await superuser.fetch(
        "EXPLAIN SELECT tenant_id, key_id, nonce FROM signing_nonces WHERE expires < now() ORDER BY expires LIMIT 100"
    )
    assert "signing_nonces_by_expiry" in " ".join(row[0] for row in plan)


async def test_a_lost_connection_may_pass_and_the_next_nonce_is_taken(database: Database) -> None:
    pool = await connect_pool(database.dsn("trustsoc_writer"), name="lost", max_size=1)
    store, tenant, superuser = NonceStore(pool), await database.tenant(), await database.superuser()
    lost = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'lost'"
    try:
        assert await store.spend(nonce(tenant))
        assert await superuser.fetchval(lost)
        with contextlib.suppress(StorageUnavailable):
            await store.spend(nonce(tenant, text="nobody-knows-whether"))
        assert await store.spend(nonce(tenant, text="after-it-came-back"))
        assert not await store.spend(nonce(tenant))
    finally:
        await pool.close()
    with pytest.raises(StorageUnavailable):
        await store.spend(nonce(tenant, text="after-it-was-closed"))


async def test_a_rotation_lets_the_old_key_go_on_for_the_overlap(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        old = await create_signing_key(tx, "web-1", master=1, actor="admin")
        short = await create_signing_key(tx, "web-1", master=1, actor="admin", expires_at=NOW + timedelta(minutes=1))
        other = await create_signing_key(tx, "web-2", master=1, actor="admin")
    assert old.expires_at is None
    async with tenant_transaction(app, tenant) as tx:
        new = await rotate_signing_keys(tx, "web-1", master=2, actor="admin", overlap_ends=LATER)
    async with tenant_transaction(app, tenant) as tx:
        ends = {row.key_id: row.expires_at for row in await list_signing_keys(tx)}
        assert (await verify_audit(tx)).position == 1 + 3 + 2  # the tenant, three keys, one retired, one made
    assert ends == {old.key_id: LATER, short.key_id: short.expires_at, other.key_id: None, new.key_id: None}
    assert new.master == 2


async def test_keys_are_revoked_for_ever_and_found_by_their_own_tenant_only(database: Database) -> None:
    app, tenant, stranger = await database.app(), await database.tenant(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        key = await create_signing_key(tx, "web-1", master=1, actor="admin")
    async with tenant_transaction(app, stranger) as tx:
        assert await get_signing_key(tx, key.key_id) is None
        with pytest.raises(SigningKeyNotFound):
            await revoke_signing_key(tx, key.key_id, actor="admin")
        with pytest.raises(SigningKeyNotFound, match="web-1"):
            await rotate_signing_keys(tx, "web-1", master=1, actor="admin", overlap_ends=LATER)
    async with tenant_transaction(app, tenant) as tx:
        await revoke_signing_key(tx, key.key_id, actor="admin")
        first = await get_signing_key(tx, key.key_id)
    async with tenant_transaction(app, tenant) as tx:
        await revoke_signing_key(tx, key.key_id, actor="admin")
        again = await get_signing_key(tx, key.key_id)
    assert first is not None
    assert first.revoked_at is not None
    assert again == first
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with tenant_transaction(app, tenant) as tx:
            await tx.connection.execute("UPDATE signing_keys SET agent = 'web-2'")


async def test_names_and_times_that_make_no_key(database: Database) -> None:
    tenant = await database.tenant()
    async with tenant_transaction(await database.app(), tenant) as tx:
        for agent in ("", "Web", "a b", "-a", "a" * 64, "a\0"):
            with pytest.raises(ValueError, match="name of an agent"):
                await create_signing_key(tx, agent, master=1, actor="admin")
        with pytest.raises(ValueError, match="before it expires"):
            await create_signing_key(tx, "a", master=1, actor="admin", not_before=LATER, expires_at=LATER)
