"""From what a tenant chose to what its detector judges by: made, checked, written down, and put in force.

Nothing is put in force that was not checked. The control row follows the note in the tenant's row, under its lock: so
two replicas never put revisions in force in the wrong order, and what one leaves half done, the next one finishes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog

from actors.control import append_rule_revision
from actors.janitor import Chore
from actors.rule_check import PackCheck, RuleCatalog, RuleChecks, RulesRefused, pack_catalog
from actors.rule_masking import RecordMasks, policy_name
from detect.record import TenantId
from detect.sigma.overlay import (
    Overlay,
    effective_sources,
    in_force,
    next_expiry,
    overlay_json,
    read_overlay,
)
from detect.sigma.pack import BadPack, pack_bytes, source_digest, starter_pack, unpack
from store.journal import JournalWriter
from store.postgres import (
    Pool,
    StorageUnavailable,
    SystemTransaction,
    TenantTransaction,
    system_transaction,
    tenant_transaction,
)
from store.rule_catalogs import has_catalog, put_catalog
from store.rule_choices import (
    DEFAULT_PACK,
    NewSet,
    PackChoice,
    RuleChoice,
    choices_due,
    mark_enforced,
    read_choice,
    refuse_rules,
    set_rules,
    write_choice,
)
from store.rule_packs import InstalledPack, NewPack, install_pack, pack_versions, resolve_pack, share_packs
from store.rule_sets import get_rule_set, put_rule_set

logger = structlog.get_logger("rules")

_EVERY_S = 30.0
_REMEMBERED = 64


_Meaning = tuple[tuple[PackChoice, ...], bytes, tuple[str, ...]]
MasksOf = Callable[[TenantTransaction], Awaitable[RecordMasks | None]]
"""How the records of the transaction's tenant are masked; None: nobody masks. What it raises, whoever asks hears."""


async def not_masked(_: TenantTransaction) -> RecordMasks | None:
    """What says that nobody masks."""
    return None


@dataclass(frozen=True, slots=True)
class PlannedSet:
    """A rule set that was made and found fit. `pack` is None when it is stored already, `catalog` when it was checked
    before."""

    new: NewSet
    pack: bytes | None
    catalog: RuleCatalog | None
    key: _Meaning


class RuleEnforcer:
    """Puts the rules of tenants in force. Several replicas may do so at once."""

    def __init__(
        self,
        app_pool: Pool,
        writer_pool: Pool,
        journal: JournalWriter,
        checks: RuleChecks,
        hint: Callable[[TenantId], None] = lambda _: None,
        masks_of: MasksOf = not_masked,
    ) -> None:
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._journal = journal
        self._checks = checks
        self._hint = hint
        self._masks_of = masks_of
        # Most tenants choose alike: which rule set a choice comes to is computed once.
        self._known: OrderedDict[_Meaning, str] = OrderedDict()

    async def install_starter(self, actor: str) -> None:
        """Installs the pack that ships with the program, unless its newest version is that one."""
        sources = await asyncio.to_thread(starter_pack)
        async with system_transaction(self._writer_pool) as tx:
            versions = await pack_versions(tx, DEFAULT_PACK, 1)
        if not versions or versions[0].digest != source_digest(sources):
            await self.install(DEFAULT_PACK, await self._checks.upload(pack_bytes(sources), None), actor)

    async def install(self, name: str, checked: PackCheck, actor: str) -> tuple[InstalledPack, bool]:
        """Installs a checked pack; False when its newest version is the same. `enforce_due` brings it to tenants."""
        problems = tuple(
            {"path": fault.path, "line": fault.line, "rule_id": fault.rule_id, "reason": fault.reason}
            for fault in checked.problems
        )
        new = NewPack(
            name,
            checked.digest,
            checked.pack,
            checked.origin,
            checked.rules,
            checked.correlations,
            checked.filters,
            len(problems),
            problems,
        )
        async with system_transaction(self._writer_pool) as tx:
            return await install_pack(tx, new, actor=actor)

    async def plan(self, tenant: TenantId, packs: Sequence[PackChoice], overlay: Overlay, now: datetime) -> PlannedSet:
        """What packs and overlay come to, for records as the tenant's agents mask them. Raises PackNotFound,
        RulesRefused, CheckEnded, StorageUnavailable."""
        async with tenant_transaction(self._app_pool, tenant) as tx:
            masks = await self._masks_of(tx)
        try:
            new, pack, key = await self._made(packs, overlay, masks, now)
        except BadPack as error:
            raise RulesRefused(str(error)) from error
        try:
            if masks is not None and pack is not None:
                pack, catalog = await self._checks.masked(pack, masks)
                new = replace(new, digest=catalog.digest)
                catalog.refuse_unusable()
                return PlannedSet(new, pack, catalog, key)
            async with tenant_transaction(self._app_pool, tenant) as tx:
                checked = await has_catalog(tx, new.digest)
            if checked:
                return PlannedSet(new, pack, None, key)
            catalog = await self._checks.rule_set(pack if pack is not None else await self._stored(new.digest))
            catalog.refuse_unusable()
        except (BadPack, RulesRefused) as error:  # several packs together may be too large for one
            raise UnusableSet(new, str(error)) from error
        return PlannedSet(new, pack, catalog, key)

    async def choose(
        self,
        tenant: TenantId,
        expected: int,
        packs: Sequence[PackChoice],
        overlay: Overlay,
        *,
        actor: str,
        remarks: dict[str, Any],
        now: datetime,
    ) -> RuleChoice:
        """Replaces a tenant's packs and overlay and puts them in force. Raises ChoiceChanged and what `plan` raises."""
        planned = await self.plan(tenant, packs, overlay, now)
        async with tenant_transaction(self._app_pool, tenant) as tx:
            # The tenant's lock first, and no connection of the journal's: who has the lock needs one to end.
            await read_choice(tx, lock=True)
            await share_packs(tx)
            for pack in packs:  # which nobody removes until this is written
                await resolve_pack(tx, pack.name, pack.digest)
            await self._store(tx, planned)
            document = overlay_json(overlay)
            await write_choice(tx, expected, packs, document, planned.new, actor=actor, remarks=remarks)
        self._remember(planned)
        return await self._put_in_force(tenant, now)

    async def enforce(self, tenant: TenantId, now: datetime) -> None:
        """Makes the tenant's rule set anew, as of `now`, and puts it in force unless it is."""
        async with tenant_transaction(self._app_pool, tenant) as tx:
            choice = await read_choice(tx)
        overlay = read_overlay(choice.overlay)
        try:
            planned = await self.plan(tenant, choice.packs, overlay, now)
        except UnusableSet as error:
            logger.warning("rules refused: those before go on", tenant=str(tenant), error=str(error))
            await self._refuse(tenant, choice, error)
            await self._put_in_force(tenant, now)  # those before, if that was left half done
            return
        async with tenant_transaction(self._app_pool, tenant) as tx:
            current = await read_choice(tx, lock=True)
            if current.version != choice.version:
                return  # somebody changed it meanwhile, and has done this
            await self._store(tx, planned)
            await set_rules(tx, planned.new)
        self._remember(planned)
        await self._put_in_force(tenant, now)

    async def enforce_due(self, now: datetime) -> int:
        """Does what is due: newer packs, expired entries, changes left half done. Returns for how many tenants."""
        async with system_transaction(self._writer_pool) as tx:
            due = await choices_due(tx, now, policy_name())
        for tenant in due:
            try:
                await self.enforce(tenant, now)
            except StorageUnavailable:
                raise
            except Exception:  # one tenant's trouble, whatever it is, is no other's
                logger.exception("rules not made: those before go on", tenant=str(tenant))
        return len(due)

    async def enforce_everywhere(self, actor: str, now: datetime) -> None:
        """At start-up: the program's own starter pack, and a rule set for every tenant that has none."""
        await self.install_starter(actor)
        await self.enforce_due(now)

    def chore(self) -> Chore:
        """The housekeeping that follows packs and lets entries expire."""
        return Chore("rules_due", _EVERY_S, self.enforce_due)

    async def _made(
        self, packs: Sequence[PackChoice], overlay: Overlay, masks: RecordMasks | None, now: datetime
    ) -> tuple[NewSet, bytes | None, _Meaning]:
        """The rule set by what is known of it, or its pack, whose literals are as the rules write them."""
        async with system_transaction(self._writer_pool) as tx:
            found = [PackChoice(pack.name, await resolve_pack(tx, pack.name, pack.digest)) for pack in packs]
            used = tuple(sorted(found, key=lambda pack: pack.name))
            key = (used, overlay_json(in_force(overlay, now)), () if masks is None else masks.meaning)
            known = self._known.get(key)
            blobs = {} if known is not None else {pack.name: await _pack_of(tx, pack) for pack in used}
        expiry, masked = next_expiry(overlay, now), None if masks is None else masks.state
        if known is not None:
            return NewSet(known, used, expiry, masked), None, key
        digest, made = await asyncio.to_thread(_merged, blobs, overlay, now)
        return NewSet(digest, used, expiry, masked), made, key

    async def _stored(self, digest: str) -> bytes:
        async with system_transaction(self._writer_pool) as tx:
            pack = await get_rule_set(tx, digest)
        if pack is None:
            raise LookupError(f"the rule set {digest[:12]} is not stored: restore table rule_sets from a backup")
        return pack

    async def _put_in_force(self, tenant: TenantId, now: datetime) -> RuleChoice:
        async with tenant_transaction(self._app_pool, tenant) as tx:
            choice = await read_choice(tx, lock=True)
            if choice.enforced < choice.revision and choice.digest is not None:
                appended = await append_rule_revision(self._journal, tenant, choice.digest, choice.revision, now)
                await mark_enforced(tx, choice, appended.seq)
                choice = await read_choice(tx)
        self._hint(tenant)
        return choice

    async def _store(self, tx: TenantTransaction, planned: PlannedSet) -> None:
        if planned.pack is not None:
            await put_rule_set(tx, planned.new.digest, planned.pack)
        if planned.catalog is not None:
            await put_catalog(tx, planned.new.digest, await asyncio.to_thread(pack_catalog, planned.catalog))

    def _remember(self, planned: PlannedSet) -> None:
        """From here on the set is stored and checked, so that the next tenant who chose alike needs neither."""
        self._known[planned.key] = planned.new.digest
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _refuse(self, tenant: TenantId, choice: RuleChoice, error: UnusableSet) -> None:
        async with tenant_transaction(self._app_pool, tenant) as tx:
            current = await read_choice(tx, lock=True)
            if current.version == choice.version:
                await refuse_rules(tx, current, error.new, str(error))


class UnusableSet(RulesRefused):
    """A rule set that nobody is to be judged by; `new` says which."""

    def __init__(self, new: NewSet, reason: str) -> None:
        super().__init__(reason)
        self.new = new


async def _pack_of(tx: SystemTransaction, pack: PackChoice) -> bytes:
    found = await get_rule_set(tx, pack.digest or "")
    if found is None:
        raise LookupError(f"the rule pack {pack.name!r} is not stored: restore table rule_sets from a backup")
    return found


def _merged(blobs: dict[str, bytes], overlay: Overlay, now: datetime) -> tuple[str, bytes]:
    sources = effective_sources({name: unpack(blob) for name, blob in blobs.items()}, overlay, now)
    return source_digest(sources), pack_bytes(sources)
