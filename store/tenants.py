"""Tenants and keys. A key's text is shown once; only the SHA-256 of the whole text is stored.

Key texts: `tsk_` (a tenant's) or `tsa_` (an administrator's), 12 hex digits of key id, `_`, 43 characters of a random
256-bit secret. A hash without salt or stretching is enough for a secret that nobody can guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast, get_args
from uuid import UUID, uuid4

import asyncpg

from detect.record import TenantId
from store.audit import append_audit
from store.postgres import (
    Connection,
    Pool,
    SystemTransaction,
    TenantTransaction,
    key_lookup_transaction,
    tenant_transaction,
)
from store.queries import sql
from store.values import json_text, text

Scope = Literal["ingest", "read", "write", "operate", "reveal"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_KEY = re.compile(r"ts([ka])_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class TenantExists(Exception):
    """The name of a tenant is taken."""


class TenantNotFound(Exception):
    """There is no such tenant."""


class KeyNotFound(Exception):
    """There is no such key (or it is another tenant's)."""


class KeyRefused(Exception):
    """A key that was good once and is not any more. `reason` says why; `key_id` is safe to log."""

    def __init__(self, reason: Literal["revoked", "expired"], key_id: str) -> None:
        super().__init__(f"the key {key_id} is {reason}")
        self.reason = reason
        self.key_id = key_id


@dataclass(frozen=True, slots=True)
class Tenant:
    id: TenantId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is made. `secret_text` is the whole key, shown once; repr() hides it."""

    key_id: str
    secret_text: str

    def __repr__(self) -> str:
        return f"NewKey(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is listed. Scopes are empty for an administrator's key."""

    key_id: str
    label: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a caller is. An administrator has no tenant and no scopes."""

    tenant: TenantId | None
    key_id: str
    scopes: frozenset[Scope]
    admin: bool


async def create_tenant(
    pool: Pool, name: str, *, actor: str, settings: dict[str, Any] | None = None, tenant: TenantId | None = None
) -> TenantId:
    """Makes a tenant with its journal head, its detector mark and the first row of its audit log.

    Raises ValueError for a name that is not 1 to 63 of a-z 0-9 . _ - (first a letter or digit), TenantExists.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no tenant name: use 1 to 63 of a-z, 0-9, '.', '_', '-', first a letter or digit")
    tenant = tenant or TenantId(uuid4())
    async with tenant_transaction(pool, tenant) as tx:
        try:
            await tx.connection.execute(sql("tenant_insert"), tenant, name, json_text(settings or {}))
        except asyncpg.UniqueViolationError:
            raise TenantExists(f"there is a tenant named {name!r} (or with this id) already") from None
        await tx.connection.execute(sql("tenant_head_insert"), tenant)
        await tx.connection.execute(sql("tenant_mark_insert"), tenant)
        await append_audit(tx, actor, "tenant.create", f"tenant:{tenant}", {"name": name})
    return tenant


async def list_tenants(tx: SystemTransaction) -> list[Tenant]:
    """All tenants by name."""
    return [_tenant(row) for row in await tx.connection.fetch(sql("tenant_list"))]


async def own_tenant(tx: TenantTransaction) -> Tenant:
    """The tenant of the transaction. Raises TenantNotFound."""
    row = await tx.connection.fetchrow(sql("tenant_list"))
    if row is None:
        raise TenantNotFound(f"there is no tenant {tx.tenant}")
    return _tenant(row)


async def tenant_by_name(tx: SystemTransaction, name: str) -> Tenant | None:
    """The tenant of that name."""
    row = await tx.connection.fetchrow(sql("tenant_by_name"), text(name, 256))
    return None if row is None else _tenant(row)


async def create_key(
    tx: TenantTransaction, label: str, scopes: Sequence[Scope], *, actor: str, expires_at: datetime | None = None
) -> NewKey:
    """Makes a key of the transaction's tenant. Raises ValueError for no scope or an unknown one."""
    if not scopes or not set(scopes) <= set(SCOPES):
        raise ValueError(f"a key needs one or more of the scopes {', '.join(SCOPES)}")
    key = _new_key("k")
    await tx.connection.execute(
        sql("key_insert"),
        tx.tenant,
        key.key_id,
        text(label, 256),
        _digest(key.secret_text),
        sorted(set(scopes)),
        expires_at,
    )
    await append_audit(
        tx, actor, "key.create", f"key:{key.key_id}", {"label": text(label, 256), "scopes": sorted(set(scopes))}
    )
    return key


async def list_keys(tx: TenantTransaction) -> list[KeyRow]:
    """The tenant's keys, oldest first."""
    return [KeyRow(**{**row, "scopes": tuple(row["scopes"])}) for row in await tx.connection.fetch(sql("key_list"))]


async def revoke_key(tx: TenantTransaction, key_id: str, *, actor: str) -> None:
    """Ends a key for ever. Raises KeyNotFound."""
    if await tx.connection.fetchval(sql("key_revoke"), text(key_id, 256)) is None:
        raise KeyNotFound(f"this tenant has no key {key_id!r}")
    await append_audit(tx, actor, "key.revoke", f"key:{key_id}", {})


async def create_admin_key(owner: Connection, label: str) -> NewKey:
    """Makes an administrator's key. Needs a connection of trustsoc_owner: the policy lets no other role do it."""
    key = _new_key("a")
    await owner.execute(sql("admin_key_insert"), key.key_id, text(label, 256), _digest(key.secret_text))
    return key


async def list_admin_keys(owner: Connection) -> list[KeyRow]:
    """The administrators' keys, oldest first. Needs a connection of trustsoc_owner."""
    return [KeyRow(**row, scopes=(), expires_at=None) for row in await owner.fetch(sql("admin_key_list"))]


async def revoke_admin_key(owner: Connection, key_id: str) -> None:
    """Ends an administrator's key. Needs a connection of trustsoc_owner. Raises KeyNotFound."""
    if await owner.fetchval(sql("admin_key_revoke"), text(key_id, 256)) is None:
        raise KeyNotFound(f"there is no administrator's key {key_id!r}")


async def authenticate(pool: Pool, key_text: str) -> Principal | None:
    """Who holds this key, through a pool of the app role; None for a text that never was a key.

    Raises KeyRefused for a revoked or expired key, StorageUnavailable. The lookup is by the digest of a 256-bit secret,
    so what its timing could tell is of no use to a guesser.
    """
    match = _KEY.fullmatch(key_text)
    if match is None:
        return None
    kind, key_id = match.groups()
    digest = _digest(key_text)
    async with key_lookup_transaction(pool, digest) as connection:
        row = await connection.fetchrow(sql("key_lookup" if kind == "k" else "admin_key_lookup"), digest)
    if row is None or row["key_id"] != key_id or not hmac.compare_digest(row["digest"], digest):
        return None
    if row["revoked"]:
        raise KeyRefused("revoked", key_id)
    if kind == "a":
        return Principal(None, key_id, frozenset(), admin=True)
    if row["expired"]:
        raise KeyRefused("expired", key_id)
    scopes = frozenset(cast("Sequence[Scope]", row["scopes"]))
    return Principal(TenantId(UUID(int=row["tenant_id"].int)), key_id, scopes, admin=False)


def _new_key(kind: Literal["k", "a"]) -> NewKey:
    key_id = secrets.token_hex(6)
    return NewKey(key_id, f"ts{kind}_{key_id}_{secrets.token_urlsafe(32)}")


def _digest(key_text: str) -> bytes:
    return hashlib.sha256(key_text.encode("ascii")).digest()


def _tenant(row: Any) -> Tenant:
    return Tenant(TenantId(UUID(int=row["tenant_id"].int)), row["name"], row["created_at"])
