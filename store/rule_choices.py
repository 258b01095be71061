"""Which rules a tenant wants: packs and an overlay as people chose them, and the rule set that they came to.

A change is written down first and put in force afterwards, by a control row: `enforced` behind `revision` means that
the second is still to be done, by whoever comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from detect.record import TenantId
from store.audit import append_audit
from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql
from store.values import text

DEFAULT_PACK = "starter"


class ChoiceChanged(Exception):
    """Somebody else changed the tenant's rules in the meantime."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the tenant's rules were changed in the meantime: they are at version {version} now")
        self.version = version


@dataclass(frozen=True, slots=True)
class PackChoice:
    """A pack by name: one version of it, or with None the newest, whatever it is."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class RuleChoice:
    """A tenant's row. `overlay` is JSON (detect.sigma.overlay)."""

    version: int
    packs: tuple[PackChoice, ...]
    overlay: str
    used: tuple[PackChoice, ...]
    digest: str | None
    revision: int
    enforced: int
    next_expiry: datetime | None
    refused_digest: str | None
    refused_reason: str | None
    changed_by: str
    changed_at: datetime
    masked: str | None


@dataclass(frozen=True, slots=True)
class NewSet:
    """The rule set that packs and overlay come to, and when that changes by itself. `masked` names how the records are
    masked that it is for, and by which policy; None: not at all."""

    digest: str
    used: tuple[PackChoice, ...]
    next_expiry: datetime | None
    masked: str | None = None


async def read_choice(tx: TenantTransaction, *, lock: bool = False) -> RuleChoice:
    """The tenant's choice; the starter pack without an overlay for one that never chose."""
    statement = sql("rule_choice_lock") if lock else sql("rule_choice_read")
    row = await tx.connection.fetchrow(statement)
    if row is None:
        default = _packs_json((PackChoice(DEFAULT_PACK),))
        await tx.connection.execute(sql("rule_choice_ensure"), tx.tenant, default, "trustsoc")
        row = await tx.connection.fetchrow(statement)
    values: dict[str, Any] = dict(row or {})
    for column in ("packs", "used"):
        values[column] = tuple(PackChoice(item["name"], item["digest"]) for item in orjson.loads(values[column]))
    for column in ("next_expiry", "changed_at"):
        values[column] = None if values[column] is None else values[column].astimezone(UTC)
    return RuleChoice(**values)


async def write_choice(
    tx: TenantTransaction,
    expected: int,
    packs: Sequence[PackChoice],
    overlay: bytes,
    new: NewSet,
    *,
    actor: str,
    remarks: dict[str, Any],
) -> RuleChoice:
    """Replaces packs and overlay, with the rule set that they came to, and an audit row. Raises ChoiceChanged."""
    before = await read_choice(tx, lock=True)
    if before.version != expected:
        raise ChoiceChanged(before.version)
    await tx.connection.execute(sql("rule_choice_write"), _packs_json(packs), overlay.decode(), text(actor))
    await set_rules(tx, new)
    changed = {"version": expected + 1, "packs": orjson.loads(_packs_json(packs)), "rule_set": new.digest}
    await append_audit(tx, actor, "rules.choose", f"tenant:{tx.tenant}", changed | remarks)
    return await read_choice(tx)


async def set_rules(tx: TenantTransaction, new: NewSet) -> None:
    """Notes the rule set that should be in force."""
    await tx.connection.execute(sql("rule_choice_set"), new.digest, _packs_json(new.used), new.next_expiry, new.masked)


async def refuse_rules(tx: TenantTransaction, current: RuleChoice, new: NewSet, reason: str) -> None:
    """Notes that this rule set cannot be put in force: the one before goes on. The audit log hears of a set once."""
    await tx.connection.execute(
        sql("rule_choice_refused"), new.digest, text(reason), _packs_json(new.used), new.next_expiry, new.masked
    )
    if current.refused_digest == new.digest:
        return
    detail = {"rule_set": new.digest, "reason": reason[:2000]}
    await append_audit(tx, "trustsoc", "rules.refuse", f"tenant:{tx.tenant}", detail)


async def mark_enforced(tx: TenantTransaction, choice: RuleChoice, seq: int) -> None:
    """Notes that the control row of a revision is in the journal, at `seq`."""
    await tx.connection.execute(sql("rule_choice_enforced"), choice.revision)
    detail = {"rule_set": choice.digest, "seq": seq, "packs": orjson.loads(_packs_json(choice.used))}
    await append_audit(tx, "trustsoc", "rules.enforce", f"tenant:{tx.tenant}", detail)


async def choices_due(tx: SystemTransaction, now: datetime, policy: str) -> list[TenantId]:
    """Tenants whose rules are not what they should be: a newer pack, an entry that expired, agents that mask otherwise
    than the rules were made for (or by another policy than this one), a change left half done."""
    rows = await tx.connection.fetch(sql("rule_choices_due"), now, policy)
    return [TenantId(UUID(int=row["tenant_id"].int)) for row in rows]


def _packs_json(packs: Sequence[PackChoice]) -> str:
    return orjson.dumps([{"name": pack.name, "digest": pack.digest} for pack in packs]).decode()
