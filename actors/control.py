"""Control rows: what changes the judgement takes effect at a recorded seq of the tenant's journal."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import orjson

from detect.record import TenantId
from store.journal import Appended, JournalWriter, append_control


async def append_rule_revision(
    journal: JournalWriter, tenant: TenantId, digest: str, revision: int, received: datetime
) -> Appended:
    """Puts a revision of the tenant's rules in force from this row on: one row, however often and by whomever it is
    asked for."""
    body = orjson.dumps({"type": "rules", "digest": digest}, option=orjson.OPT_SORT_KEYS)
    key = hashlib.sha256(f"rules:{revision}:{digest}".encode()).digest()
    return await append_control(journal, tenant, body, idempotency_key=key, digest=key, received=received)


async def append_tick(journal: JournalWriter, tenant: TenantId, received: datetime) -> Appended:
    """Lets time pass for a tenant that fell silent, so that its windows close."""
    body = orjson.dumps({"type": "tick"})
    digest = hashlib.sha256(body).digest()
    # Time passes again and again, so the moment is part of the key.
    key = hashlib.sha256(body + received.isoformat().encode()).digest()
    return await append_control(journal, tenant, body, idempotency_key=key, digest=digest, received=received)


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


async def append_retry(
    journal: JournalWriter, tenant: TenantId, control: bytes, letter: UUID, attempts: int, received: datetime
) -> Appended:
    """Has a dead letter judged again. The same attempt is one row, however often it is asked for."""
    key = hashlib.sha256(b"retry" + letter.bytes + attempts.to_bytes(4, "big")).digest()
    # Of the attempt, not of the content: a version between two requests may write the same retry in other words.
    return await append_control(journal, tenant, control, idempotency_key=key, digest=key, received=received)
