"""Rules over the API: packs of the installation and what each tenant makes of them, for administrators."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from actors.rule_check import (
    BadPack,
    CheckEnded,
    Problem,
    RuleCatalog,
    RuleChecks,
    RulesRefused,
    unpack_catalog,
)
from actors.rule_enforcer import RuleEnforcer
from detect.record import TenantId
from detect.sigma.overlay import BadOverlay, read_overlay
from detect.sigma.pack import pack_bytes
from serve.auth import Authenticator
from serve.errors import WireError
from serve.named_tenant import named_tenant
from store.postgres import Pool, system_transaction, tenant_transaction
from store.rule_catalogs import get_catalog
from store.rule_choices import ChoiceChanged, PackChoice, RuleChoice, read_choice
from store.rule_packs import PackInUse, PackNotFound, newest_packs, pack_versions, remove_pack
from store.values import iso_time

Headers = Mapping[str, str]

_SHOWN_PROBLEMS = 200


class RulePackServices:
    """Wired once per replica. Every method asks for an administrator's key: WireError 401, 403, 404, 409, 422, 503."""

    def __init__(
        self, authenticator: Authenticator, writer_pool: Pool, enforcer: RuleEnforcer, checks: RuleChecks
    ) -> None:
        self._authenticator = authenticator
        self._writer_pool = writer_pool
        self._enforcer = enforcer
        self._checks = checks
        self._following: set[asyncio.Task[int]] = set()

    async def admit(self, headers: Headers) -> None:
        """Refuses whoever is no administrator, before a large body is read."""
        await self._authenticator.admin(headers)

    async def packs(self, headers: Headers) -> list[dict[str, Any]]:
        """The newest version of every pack."""
        await self._authenticator.admin(headers)
        async with system_transaction(self._writer_pool) as tx:
            return [pack.view() for _, pack in sorted((await newest_packs(tx)).items())]

    async def show(self, headers: Headers, name: str) -> dict[str, Any]:
        """One pack: what of its newest version does not load, and its versions, newest first."""
        await self._authenticator.admin(headers)
        async with system_transaction(self._writer_pool) as tx:
            versions = await pack_versions(tx, name)
        if not versions:
            raise WireError(404, f"no rule pack {name!r} is installed")
        problems = versions[0].problems[:_SHOWN_PROBLEMS]
        return versions[0].view() | {"problems": problems, "versions": [version.view() for version in versions]}

    async def install(self, headers: Headers, name: str, pin: str | None, body: bytes) -> dict[str, Any]:
        """Installs an archive; tenants that follow the pack get it in the background."""
        administrator = await self._authenticator.admin(headers)
        try:
            checked = await self._checks.upload(body, pin)
        except (BadPack, RulesRefused) as error:
            raise WireError(422, str(error)) from error
        except CheckEnded as error:
            raise WireError(503, str(error), retry_after_s=5) from error
        pack, new = await self._enforcer.install(name, checked, administrator.key_id)
        if new:
            self._follow()
        return pack.view() | {"new": new, "problems": pack.problems[:_SHOWN_PROBLEMS]}

    async def remove(self, headers: Headers, name: str) -> None:
        """Removes a pack that no tenant has chosen."""
        administrator = await self._authenticator.admin(headers)
        try:
            async with system_transaction(self._writer_pool) as tx:
                await remove_pack(tx, name, actor=administrator.key_id)
        except PackNotFound as error:
            raise WireError(404, str(error)) from error
        except PackInUse as error:
            raise WireError(409, str(error)) from error

    def _follow(self) -> None:
        """Begins what the housekeeping would begin within half a minute, and does after a failure."""
        task = asyncio.get_running_loop().create_task(self._enforcer.enforce_due(datetime.now(UTC)))
        self._following.add(task)
        task.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[int]) -> None:
        self._following.discard(task)
        if not task.cancelled():
            task.exception()  # the housekeeping does it again, and says what is wrong


class TenantRuleServices:
    """Wired once per replica. Every method asks for an administrator's key: WireError 401, 403, 404, 409, 422, 503."""

    def __init__(self, authenticator: Authenticator, app_pool: Pool, writer_pool: Pool, enforcer: RuleEnforcer) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._enforcer = enforcer

    async def show(self, headers: Headers, name: str) -> dict[str, Any]:
        """A tenant's packs and overlay, and what they came to."""
        await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        return await self._view(name, tenant)

    async def choose(
        self, headers: Headers, name: str, version: int, packs: Sequence[PackChoice], overlay: dict[str, Any]
    ) -> dict[str, Any]:
        """Replaces them, if they are at `version`; what cannot be used changes nothing."""
        administrator = await self._authenticator.admin(headers)
        tenant = (await named_tenant(self._writer_pool, name)).id
        if len({pack.name for pack in packs}) != len(packs):
            raise WireError(422, "packs: a pack can be chosen once")
        try:
            document = orjson.dumps(overlay)
            read = read_overlay(document)
            remarks = {"rules": len(read.rules), "filters": len(read.filters), "lists": len(read.lists)}
            await self._enforcer.choose(
                tenant,
                version,
                packs,
                read,
                actor=administrator.key_id,
                remarks={"overlay": remarks | {"document": overlay if len(document) < _AUDITED_BYTES else None}},
                now=datetime.now(UTC),
            )
        except BadOverlay as error:
            raise WireError(422, f"overlay: {error}") from error
        except (RulesRefused, PackNotFound, orjson.JSONEncodeError) as error:
            raise WireError(422, str(error)) from error
        except ChoiceChanged as error:
            raise WireError(409, f"{error}: read them again") from error
        except CheckEnded as error:
            raise WireError(503, str(error), retry_after_s=5) from error
        return await self._view(name, tenant)

    async def _view(self, name: str, tenant: TenantId) -> dict[str, Any]:
        async with tenant_transaction(self._app_pool, tenant) as tx:
            choice = await read_choice(tx)
            stored = None if choice.digest is None else await get_catalog(tx, choice.digest)
        catalog = None if stored is None else await asyncio.to_thread(unpack_catalog, stored)
        return _choice_view(name, choice) | _catalog_view(choice, catalog)


_AUDITED_BYTES = 100_000


def _choice_view(name: str, choice: RuleChoice) -> dict[str, Any]:
    used = {pack.name: pack.digest for pack in choice.used}
    return {
        "tenant": name,
        "version": choice.version,
        "packs": [{"name": pack.name, "digest": pack.digest, "used": used.get(pack.name)} for pack in choice.packs],
        "overlay": orjson.loads(choice.overlay),
        "rule_set": choice.digest,
        "in_force": choice.digest is not None and choice.enforced == choice.revision,
        "next_expiry": None if choice.next_expiry is None else iso_time(choice.next_expiry),
        "refused": choice.refused_reason,
        "changed_by": choice.changed_by,
        "changed_at": iso_time(choice.changed_at),
    }


def _catalog_view(choice: RuleChoice, catalog: RuleCatalog | None) -> dict[str, Any]:
    """How many rules are what, what does not load, and overlay entries of rules that are not there."""
    if catalog is None:
        return {"counts": {"on": 0, "silent": 0, "off": 0, "broken": 0}, "problems": [], "unknown_rules": []}
    states = [rule.state for rule in catalog.rules]
    known = {rule.id for rule in catalog.rules}
    entries = read_overlay(choice.overlay).rules
    return {
        "counts": {state: states.count(state) for state in ("on", "silent", "off")} | {"broken": len(catalog.errors)},
        "problems": [problem_view(error) for error in catalog.errors[:_SHOWN_PROBLEMS]],
        "unknown_rules": sorted(entries.keys() - known)[:_SHOWN_PROBLEMS],
    }


def problem_view(problem: Problem) -> dict[str, Any]:
    """A problem ready for JSON."""
    return {"path": problem.path, "line": problem.line, "rule_id": problem.rule_id, "reason": problem.reason}


def archive_of_files(files: Sequence[tuple[str, str]]) -> bytes:
    """Single rule files as one archive. Raises WireError 422 for names that occur twice."""
    if len({name for name, _ in files}) != len(files):
        raise WireError(422, "files: a name occurs twice")
    return pack_bytes(files)
