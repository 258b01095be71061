"""Whether a tenant's agents mask, and by which keys. Keys are derived elsewhere and never pass through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from store.audit import append_audit
from store.postgres import TenantTransaction
from store.queries import sql
from store.values import text


class NoNewerMaster(Exception):
    """A new masking key was asked for, and there is no master that the tenant has not masked by."""


@dataclass(frozen=True, slots=True)
class MaskingState:
    """Whether the tenant masks. `master` names the key that agents are given (None: there never was one), `keys` all
    that it has had, the newest first; the last change by whom and when (None: never)."""

    enabled: bool
    master: int | None
    keys: tuple[int, ...]
    changed_by: str | None
    changed_at: datetime | None

    @property
    def given(self) -> int | None:
        """The master of the key that an agent gets that is enrolled now; None for no key."""
        return self.master if self.enabled else None


async def read_masking(tx: TenantTransaction) -> MaskingState:
    """How the transaction's tenant masks; a tenant about which nothing was said does not."""
    row = await tx.connection.fetchrow(sql("masking_read"))
    if row is None:
        return MaskingState(enabled=False, master=None, keys=(), changed_by=None, changed_at=None)
    keys = tuple(int(key["master"]) for key in await tx.connection.fetch(sql("masking_keys")))
    return MaskingState(**row, keys=keys)


async def set_masking(
    tx: TenantTransaction, *, enabled: bool, newest: int, actor: str, new_key: bool = False
) -> MaskingState:
    """Switches masking. The first time the key is of the master `newest`; later it stays, unless `new_key` asks for it.

    Raises NoNewerMaster when the tenant masks by the newest already, or did.
    """
    before = await read_masking(tx)
    master = before.master
    if enabled and (new_key or master is None):
        if newest in before.keys:
            raise NoNewerMaster(f"the tenant has masked by master {newest} already")
        master = newest
    if master is None or (enabled, master) == (before.enabled, before.master):
        return before
    await tx.connection.execute(sql("masking_key_insert"), tx.tenant, master, text(actor))
    await tx.connection.execute(sql("masking_write"), tx.tenant, enabled, master, text(actor))
    await append_audit(tx, actor, "tenant.masking", f"tenant:{tx.tenant}", {"enabled": enabled, "master": master})
    return await read_masking(tx)


async def masking_of_records(tx: TenantTransaction) -> str | None:
    """How records of the tenant's agents may be masked: the masters of their keys, parted by spaces, and `clear` for
    those that mask nothing; None when nobody masks."""
    found: str | None = await tx.connection.fetchval(sql("masking_of_records"), tx.tenant)
    return found


async def note_masking_of_agent(tx: TenantTransaction, agent: str, master: int | None) -> None:
    """Writes down which key an agent was given."""
    await tx.connection.execute(sql("masking_of_agent"), agent, master)


async def agents_masking_otherwise(tx: TenantTransaction, state: MaskingState) -> int:
    """How many active agents do not mask as the tenant wants it now: they were enrolled before."""
    found: int = await tx.connection.fetchval(sql("masking_agents_otherwise"), state.given)
    return found


async def audit_reveal(
    tx: TenantTransaction, tokens: Sequence[str], *, actor: str, reason: str, candidates: int, revealed: int
) -> None:
    """Writes down who asked what `tokens` stand for, and why. `candidates` and `revealed` are numbers: what was
    suspected and what came of it is in no row."""
    detail = {"tokens": list(tokens), "reason": reason, "candidates": candidates, "revealed": revealed}
    await append_audit(tx, actor, "masking.reveal", f"tenant:{tx.tenant}", detail)
