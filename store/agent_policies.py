"""Policies: configurations for the collectors of agents, by name and version. A version never changes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from store.audit import append_audit
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import text

MOST_BYTES = 262_144
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class PolicyNotFound(Exception):
    """The tenant has no such policy or version."""


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A version of a policy without its text. `digest` is the SHA-256 of the text's UTF-8 in hex, `bytes` its size."""

    name: str
    version: int
    digest: str
    bytes: int
    created_by: str
    created_at: datetime


async def add_policy(tx: TenantTransaction, name: str, content: str, *, actor: str) -> PolicyRow:
    """The next version of a policy; the newest itself when the text is the same as its text.

    Raises ValueError for a bad name and for a text that is empty, over 256 KiB, or holds what a column cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a policy: use 1 to 63 of a-z, 0-9, '.', '_', '-'")
    if "\0" in content:
        raise ValueError("a policy holds no U+0000")
    try:
        encoded = content.encode()
    except UnicodeEncodeError as error:
        raise ValueError("a policy is text in UTF-8") from error
    if not 1 <= len(encoded) <= MOST_BYTES:
        raise ValueError(f"a policy has 1 to {MOST_BYTES} bytes, not {len(encoded)}")
    digest = hashlib.sha256(encoded).hexdigest()
    await tx.connection.execute(sql("agent_policy_lock"), str(tx.tenant), name)
    newest = await tx.connection.fetchrow(sql("agent_policy_newest"), name)
    if newest is not None and newest["digest"] == digest:
        return PolicyRow(**newest)
    [row] = await tx.connection.fetch(sql("agent_policy_insert"), tx.tenant, name, digest, content, text(actor))
    made = PolicyRow(**dict(row))
    await append_audit(tx, actor, "agent_policy.create", f"agent_policy:{name}:{made.version}", {"digest": digest})
    return made


async def list_policies(tx: TenantTransaction) -> list[PolicyRow]:
    """Every version by name, the newest first, at most 1,000."""
    return [PolicyRow(**row) for row in await tx.connection.fetch(sql("agent_policy_list"))]


async def get_policy(tx: TenantTransaction, name: str, version: int = 0) -> tuple[PolicyRow, str]:
    """A version of a policy and its text; version 0 is the newest. Raises PolicyNotFound."""
    row = await tx.connection.fetchrow(sql("agent_policy_get"), text(name, 256), version)
    if row is None:
        raise PolicyNotFound(f"there is no policy {name!r}" + (f" of version {version}" if version else ""))
    columns: dict[str, Any] = dict(row)
    content: str = columns.pop("content")
    return PolicyRow(**columns), content


async def policy_for_agent(tx: TenantTransaction, digest: str, agent: str) -> str:
    """The text of that digest, where a job that the agent was handed names it. Raises PolicyNotFound."""
    content: str | None = await tx.connection.fetchval(sql("agent_policy_for_job"), text(digest, 64), agent)
    if content is None:
        raise PolicyNotFound(f"no job of this agent names a policy of digest {digest}")
    return content
