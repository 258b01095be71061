"""Control rows: what changes the judgement takes effect at a recorded seq of the tenant's journal."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import orjson

from detect.record import TenantId
from store.journal import Appended, JournalWriter, append_control
from store.postgres import Pool, tenant_transaction
from store.queries import sql
from store.rule_sets import put_rule_set


async def append_rules(journal: JournalWriter, tenant: TenantId, digest: str, received: datetime) -> Appended:
    """Puts a rule set in force for the tenant from this row on."""
    return await _append(journal, tenant, {"type": "rules", "digest": digest}, received)


async def append_rule_revision(
    journal: JournalWriter, tenant: TenantId, digest: str, revision: int, received: datetime
) -> Appended:
    """The same for a revision of the tenant's rules: one row, however often and by whomever it is asked for."""
    body = orjson.dumps({"type": "rules", "digest": digest}, option=orjson.OPT_SORT_KEYS)
    key = hashlib.sha256(f"rules:{revision}:{digest}".encode()).digest()
    return await append_control(journal, tenant, body, idempotency_key=key, digest=key, received=received)


async def append_tick(journal: JournalWriter, tenant: TenantId, received: datetime) -> Appended:
    """Lets time pass for a tenant that fell silent, so that its windows close."""
    return await _append(journal, tenant, {"type": "tick"}, received)


@dataclass(frozen=True, slots=True)
class LedgerGap:
    """Records that a sender's books and ours disagree about; `run` is the life of the sender's spool."""

    agent: str
    run: str
    missing: int
    excess: int
    detail: str


async def append_ledger_gap(journal: JournalWriter, tenant: TenantId, gap: LedgerGap, received: datetime) -> Appended:
    """Makes a gap known to the detector; the same gap again is a duplicate, whoever finds it and when."""
    body = orjson.dumps({"type": "ledger_gap", **asdict(gap)}, option=orjson.OPT_SORT_KEYS)
    named = orjson.dumps(["ledger_gap", gap.agent, gap.run, gap.missing, gap.excess])
    key = hashlib.sha256(named).digest()
    return await append_control(journal, tenant, body, idempotency_key=key, digest=key, received=received)


async def _append(journal: JournalWriter, tenant: TenantId, control: dict[str, str], received: datetime) -> Appended:
    body = orjson.dumps(control, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(body).digest()
    # The same change may be made again later, so the moment is part of the key.
    key = hashlib.sha256(body + received.isoformat().encode()).digest()
    return await append_control(journal, tenant, body, idempotency_key=key, digest=digest, received=received)


async def enforce_rules(
    app_pool: Pool, journal: JournalWriter, tenant: TenantId, digest: str, pack: bytes, received: datetime
) -> bool:
    """Stores the pack and puts it in force for the tenant unless the newest rules row names it already."""
    async with tenant_transaction(app_pool, tenant) as transaction:
        await put_rule_set(transaction, digest, pack)
        newest = await transaction.connection.fetchval(sql("control_rules_newest"))
    if newest == digest:
        return False
    await append_rules(journal, tenant, digest, received)
    return True


async def append_retry(
    journal: JournalWriter, tenant: TenantId, control: bytes, letter: UUID, attempts: int, received: datetime
) -> Appended:
    """Has a dead letter judged again. The same attempt is one row, however often it is asked for."""
    key = hashlib.sha256(b"retry" + letter.bytes + attempts.to_bytes(4, "big")).digest()
    # Of the attempt, not of the content: a version between two requests may write the same retry in other words.
    return await append_control(journal, tenant, control, idempotency_key=key, digest=key, received=received)
