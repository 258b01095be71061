"""A tenant's masking setting: its key stays until somebody asks for another, and nobody takes a key's number away."""

from __future__ import annotations

import asyncpg
import pytest

from store.audit import verify_audit
from store.masking import (
    MaskingState,
    NoNewerMaster,
    agents_masking_otherwise,
    note_masking_of_agent,
    read_masking,
    set_masking,
)
from store.postgres import tenant_transaction
from store.tenants import create_key
from tests.postgres.agents import enrol
from tests.postgres.fixtures import Database

NEVER = MaskingState(enabled=False, master=None, keys=(), changed_by=None, changed_at=None)


async def test_the_first_key_stays_whatever_masters_there_are(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        assert await read_masking(tx) == NEVER
        assert await set_masking(tx, enabled=False, newest=1, actor="a") == NEVER
        first = await set_masking(tx, enabled=True, newest=2, actor="a")
    assert (first.given, first.keys, first.changed_by) == (2, (2,), "a")
    async with tenant_transaction(app, tenant) as tx:
        assert await set_masking(tx, enabled=True, newest=3, actor="b") == first
        off = await set_masking(tx, enabled=False, newest=0, actor="b")
        assert (off.master, off.given, off.changed_by) == (2, None, "b")
    async with tenant_transaction(app, tenant) as tx:
        on = await set_masking(tx, enabled=True, newest=3, actor="b")
        assert (on.master, on.given, on.keys) == (2, 2, (2,))
        assert (await verify_audit(tx)).position == 1 + 3  # the tenant, and what changed something


async def test_a_new_key_needs_a_master_that_was_not_used(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    for newest in (1, 2):
        async with tenant_transaction(app, tenant) as tx:
            state = await set_masking(tx, enabled=True, newest=newest, actor="a", new_key=True)
    assert (state.master, state.keys) == (2, (2, 1))
    async with tenant_transaction(app, tenant) as tx:
        for newest in (1, 2):
            with pytest.raises(NoNewerMaster, match=f"master {newest}"):
                await set_masking(tx, enabled=True, newest=newest, actor="a", new_key=True)
        assert await read_masking(tx) == state


async def test_agents_that_mask_otherwise_are_counted(database: Database) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        for agent, master in (("plain", None), ("old", 1), ("new", 2)):
            await enrol(tx, agent)
            await note_masking_of_agent(tx, agent, master)
        counts = []
        for newest in (1, 2):
            state = await set_masking(tx, enabled=True, newest=newest, actor="a", new_key=True)
            counts.append(await agents_masking_otherwise(tx, state))
        off = await set_masking(tx, enabled=False, newest=0, actor="a")
        counts.append(await agents_masking_otherwise(tx, off))
    assert counts == [2, 2, 2]
    async with tenant_transaction(app, await database.tenant()) as tx:
        assert await agents_masking_otherwise(tx, NEVER) == 0


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM masking_keys", "UPDATE masking_keys SET made_by = 'me'", "DELETE FROM tenant_masking"],
)
async def test_a_key_that_was_used_stays_known(database: Database, statement: str) -> None:
    app, tenant = await database.app(), await database.tenant()
    async with tenant_transaction(app, tenant) as tx:
        await set_masking(tx, enabled=True, newest=1, actor="a")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with tenant_transaction(app, tenant) as tx:
            await tx.connection.execute(statement)


async def test_a_key_may_have_the_scope_reveal(database: Database) -> None:
    async with tenant_transaction(await database.app(), await database.tenant()) as tx:
        await create_key(tx, "analyst", ["reveal"], actor="test")
