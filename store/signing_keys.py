"""Signing keys: ids, agents and validity. Secrets are derived elsewhere and never pass through here."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from store.audit import append_audit
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import iso_time, text

_AGENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class SigningKeyNotFound(Exception):
    """There is no such signing key (or it is another tenant's)."""


@dataclass(frozen=True, slots=True)
class SigningKeyRow:
    """A signing key without its secret. `agent` is who signs with it, `master` the master key it derives from.

    Valid from `not_before` until `expires_at` (None: no end), unless revoked.
    """

    key_id: str
    agent: str
    master: int
    created_at: datetime
    not_before: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


async def create_signing_key(
    tx: TenantTransaction,
    agent: str,
    *,
    master: int,
    actor: str,
    not_before: datetime | None = None,
    expires_at: datetime | None = None,
) -> SigningKeyRow:
    """Makes a key of an agent of the transaction's tenant.

    Raises ValueError for an agent's name that is not 1 to 63 of a-z 0-9 . _ -, or a key that ends before it begins.
    """
    check_agent(agent)
    if expires_at is not None and not_before is not None and expires_at <= not_before:
        raise ValueError("a signing key must begin before it expires")
    key_id = secrets.token_hex(6)
    row = await tx.connection.fetchrow(
        sql("signing_key_insert"), tx.tenant, key_id, agent, master, not_before, expires_at
    )
    made = _row(row)
    await append_audit(tx, actor, "signing_key.create", _object(key_id), _detail(made))
    return made


async def rotate_signing_keys(
    tx: TenantTransaction, agent: str, *, master: int, actor: str, overlap_ends: datetime
) -> SigningKeyRow:
    """A new key for the agent, valid at once; all it had before end at `overlap_ends`, or earlier where they do.

    Raises SigningKeyNotFound when the agent has none.
    """
    if not any(row.agent == agent for row in await list_signing_keys(tx)):
        raise SigningKeyNotFound(f"the agent {agent!r} has no signing key yet")
    retired = [row["key_id"] for row in await tx.connection.fetch(sql("signing_keys_retire"), agent, overlap_ends)]
    for key_id in retired:
        detail = {"agent": agent, "expires_at": iso_time(overlap_ends)}
        await append_audit(tx, actor, "signing_key.retire", _object(key_id), detail)
    return await create_signing_key(tx, agent, master=master, actor=actor)


async def list_signing_keys(tx: TenantTransaction) -> list[SigningKeyRow]:
    """The tenant's signing keys, by agent and age."""
    return [_row(row) for row in await tx.connection.fetch(sql("signing_key_list"))]


async def get_signing_key(tx: TenantTransaction, key_id: str) -> SigningKeyRow | None:
    """The key of that id, valid or not."""
    row = await tx.connection.fetchrow(sql("signing_key_get"), text(key_id, 256))
    return None if row is None else _row(row)


async def revoke_signing_key(tx: TenantTransaction, key_id: str, *, actor: str) -> None:
    """Ends a key for ever. Raises SigningKeyNotFound."""
    if await tx.connection.fetchval(sql("signing_key_revoke"), text(key_id, 256)) is None:
        raise SigningKeyNotFound(f"this tenant has no signing key {key_id!r}")
    await append_audit(tx, actor, "signing_key.revoke", _object(key_id), {})


def check_agent(agent: str) -> None:
    """Raises ValueError for what cannot name an agent."""
    if not _AGENT.fullmatch(agent):
        raise ValueError(
            f"{agent!r} is no name of an agent: use 1 to 63 of a-z, 0-9, '.', '_', '-', first a letter or digit"
        )


def _object(key_id: str) -> str:
    return f"signing_key:{key_id}"


def _detail(row: SigningKeyRow) -> dict[str, Any]:
    expires = None if row.expires_at is None else iso_time(row.expires_at)
    return {"agent": row.agent, "master": row.master, "not_before": iso_time(row.not_before), "expires_at": expires}


def _row(row: Any) -> SigningKeyRow:
    return SigningKeyRow(**row)
