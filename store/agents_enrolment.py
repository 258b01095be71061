"""Enrolment: tokens that bring in one agent each, and the one transaction that spends one and makes an agent.

Token texts: `tse_`, 12 hex digits of token id, `_`, 43 characters of a random 256-bit secret, as keys have it. Only the
SHA-256 of the text is stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from detect.record import TenantId
from store.agents import AgentRow, agent_object, agent_row, audit_cancelled_jobs, check_labels
from store.audit import append_audit
from store.postgres import Pool, TenantTransaction, key_lookup_transaction
from store.queries import sql
from store.signing_keys import check_agent, create_signing_key
from store.values import iso_time, json_text, text

_TOKEN = re.compile(r"tse_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class TokenRefused(Exception):
    """The token enrols nobody: it is unknown, spent, revoked, expired, or another agent's. It does not say which."""


class TokenNotFound(Exception):
    """The tenant has no such token that is still good."""


class AgentNameTaken(Exception):
    """There is an active agent of that name, or a sender that signs under it."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token as it is made. `secret_text` is the whole token, shown once; repr() hides it."""

    row: TokenRow
    secret_text: str

    def __repr__(self) -> str:
        return f"NewToken({self.row!r})"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token without its secret. `agent` is the only name that may use it, or None; `labels` go to the agent."""

    token_id: str
    note: str
    agent: str | None
    labels: dict[str, str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    spent_at: datetime | None
    spent_by: str | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an agent brings along: its name, the raw public key of its results, what it is."""

    agent: str
    result_key: bytes
    version: str
    platform: str


async def create_token(
    tx: TenantTransaction,
    note: str,
    labels: Mapping[str, str],
    expires_at: datetime,
    *,
    actor: str,
    agent: str | None = None,
) -> NewToken:
    """Makes a token that enrols one agent until `expires_at`. Raises ValueError for a bad name or label."""
    if agent is not None:
        check_agent(agent)
    kept = check_labels(labels)
    token_id = secrets.token_hex(6)
    secret_text = f"tse_{token_id}_{secrets.token_urlsafe(32)}"
    row = await tx.connection.fetchrow(
        sql("agent_token_insert"),
        tx.tenant,
        token_id,
        _digest(secret_text),
        text(note, 256),
        agent,
        json_text(kept),
        text(actor),
        expires_at,
    )
    made = _token(row)
    detail = {"note": made.note, "agent": agent, "labels": kept, "expires_at": iso_time(made.expires_at)}
    await append_audit(tx, actor, "agent_token.create", _object(token_id), detail)
    return NewToken(made, secret_text)


async def list_tokens(tx: TenantTransaction) -> list[TokenRow]:
    """The tenant's tokens, the newest first, at most 1,000."""
    return [_token(row) for row in await tx.connection.fetch(sql("agent_token_list"))]


async def revoke_token(tx: TenantTransaction, token_id: str, *, actor: str) -> None:
    """Ends a token that nobody has used. Raises TokenNotFound."""
    if await tx.connection.fetchval(sql("agent_token_revoke"), text(token_id, 256)) is None:
        raise TokenNotFound(f"this tenant has no token {token_id!r} that could still be used")
    await append_audit(tx, actor, "agent_token.revoke", _object(token_id), {})


async def tenant_of_token(pool: Pool, token: str) -> tuple[TenantId, str]:
    """Whose the token is, and its id, good or not any more. Raises TokenRefused for one that never was.

    The lookup is by the digest of a 256-bit secret, so what its timing could tell is of no use to a guesser.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise TokenRefused("this is no enrolment token")
    digest = _digest(token)
    async with key_lookup_transaction(pool, digest) as connection:
        row = await connection.fetchrow(sql("agent_token_lookup"), digest)
    if row is None or row["token_id"] != match[1]:
        raise TokenRefused("the enrolment token is unknown, spent or expired")
    return TenantId(UUID(int=row["tenant_id"].int)), match[1]


async def enrol_agent(tx: TenantTransaction, token_id: str, enrolment: Enrolment, *, master: int) -> AgentRow:
    """Spends the token and makes the agent with a signing key, or does neither.

    Raises TokenRefused, AgentNameTaken, ValueError for a bad name or key. `master` is what the key derives from.
    """
    check_agent(enrolment.agent)
    spent = await tx.connection.fetchrow(sql("agent_token_spend"), token_id, enrolment.agent)
    if spent is None:
        raise TokenRefused("the enrolment token is unknown, spent or expired")
    actor = f"token:{token_id}"
    # The name's rows before the audit chain, which everybody who holds one of them asks for next.
    if await tx.connection.fetchval(sql("agent_hold"), enrolment.agent) == "active":
        raise _taken(enrolment.agent)
    orphaned = await tx.connection.fetch(sql("agent_jobs_cancel"), enrolment.agent)
    if not spent["named"] and await tx.connection.fetch(sql("agent_signing_keys"), enrolment.agent):
        # Its books in the ledger and its place among the senders would be the newcomer's.
        taken = f"somebody signs as {enrolment.agent!r} already: choose another name, or have a token made for this one"
        raise AgentNameTaken(taken)
    key = await create_signing_key(tx, enrolment.agent, master=master, actor=actor)
    row = await tx.connection.fetchrow(
        sql("agent_enrol"),
        tx.tenant,
        enrolment.agent,
        spent["labels"],
        enrolment.result_key,
        key.key_id,
        text(enrolment.version, 64),
        text(enrolment.platform, 256),
        actor,
    )
    if row is None:
        raise _taken(enrolment.agent)
    made = agent_row(row)
    await audit_cancelled_jobs(tx, orphaned, actor)
    detail = {
        "labels": orjson.loads(spent["labels"]),
        "signing_key": key.key_id,
        "result_key": enrolment.result_key.hex(),
        "token_made_by": spent["created_by"],
    }
    await append_audit(tx, actor, "agent.enrol", agent_object(enrolment.agent), detail)
    return made


def _taken(agent: str) -> AgentNameTaken:
    return AgentNameTaken(f"there is an agent named {agent!r} already: choose another name, or revoke it")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()


def _object(token_id: str) -> str:
    return f"agent_token:{token_id}"


def _token(row: Any) -> TokenRow:
    return TokenRow(**{**row, "labels": orjson.loads(row["labels"])})
