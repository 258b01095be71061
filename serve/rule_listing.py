"""The rules of a tenant for its own readers: what is in force, from which pack, and how often it hit."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from actors.rule_check import RuleCatalog, RuleEntry, RuleState, unpack_catalog
from detect.event import SEVERITIES, Severity
from detect.sigma.overlay import in_force, read_overlay
from detect.sigma.pack import unpack
from serve.auth import Authenticator
from serve.errors import WireError
from serve.rule_services import problem_view
from store.paging import InvalidCursor
from store.postgres import Pool, TenantTransaction, tenant_transaction
from store.rule_catalogs import RuleHits, get_catalog, rule_hits
from store.rule_choices import RuleChoice, read_choice
from store.rule_sets import get_rule_set
from store.values import iso_time

Headers = Mapping[str, str]

_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """Which rules. `text` is looked for in id, title and tags, letter case aside; hits are those of `days`; `doubtful`:
    only those about which there are doubts."""

    text: str | None = None
    pack: str | None = None
    state: RuleState | None = None
    level_at_least: Severity = "informational"
    days: int = 7
    doubtful: bool = False

    def takes(self, rule: RuleEntry) -> bool:
        """Whether the rule is among them."""
        wanted = (self.text or "").lower()
        return (
            (self.pack is None or rule.pack == self.pack)
            and (self.state is None or rule.state == self.state)
            and SEVERITIES.index(_severity(rule.level)) >= SEVERITIES.index(self.level_at_least)
            and any(wanted in part.lower() for part in (rule.id, rule.title, *rule.tags))
        )


class RuleListing:
    """Wired once per replica. Needs a tenant's key with `read`: WireError 401, 403, 404, 422, 503."""

    def __init__(self, authenticator: Authenticator, app_pool: Pool) -> None:
        self._authenticator = authenticator
        self._app_pool = app_pool
        self._catalogs: OrderedDict[str, RuleCatalog] = OrderedDict()

    async def rules(self, headers: Headers, wanted: RuleFilter, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of rules in the order of their ids."""
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        after = _after(cursor)
        async with tenant_transaction(self._app_pool, tenant) as tx:
            _, catalog = await self._catalog(tx)
            doubts = _doubts(catalog)
            found = (
                [] if catalog is None else [rule for rule in catalog.rules if wanted.takes(rule) and rule.id > after]
            )
            if wanted.doubtful:
                found = [rule for rule in found if rule.id in doubts]
            page = found[:limit]
            hits = await rule_hits(tx, [rule.id for rule in page], datetime.now(UTC) - timedelta(days=wanted.days))
        more = len(found) > limit
        return {
            "items": [_view(rule, hits.get(rule.id), doubts) for rule in page],
            "next_cursor": _cursor(page[-1].id) if more else None,
            "rule_set": None if catalog is None else catalog.digest,
        }

    async def rule(self, headers: Headers, rule_id: str, days: int) -> dict[str, Any]:
        """One rule with its source, what the overlay says of it, and doubts about it."""
        tenant, _ = await self._authenticator.tenant_principal(headers, "read")
        async with tenant_transaction(self._app_pool, tenant) as tx:
            choice, catalog = await self._catalog(tx)
            rule = _find(catalog, rule_id)
            hits = await rule_hits(tx, [rule.id], datetime.now(UTC) - timedelta(days=days))
            pack = await get_rule_set(tx, choice.digest or "")
        source = "" if pack is None else await asyncio.to_thread(_source, pack, f"{rule.pack}/{rule.path}")
        problems = () if catalog is None else (*catalog.errors, *catalog.warnings)
        entry = orjson.loads(choice.overlay).get("rules", {}).get(rule.id)
        live = in_force(read_overlay(choice.overlay), datetime.now(UTC)).rules
        return _view(rule, hits.get(rule.id), _doubts(catalog)) | {
            "source": source,
            "problems": [problem_view(problem) for problem in problems if problem.rule_id == rule.id],
            "overlay": entry if rule.id in live else None,
            "filters": list(rule.filters),
        }

    async def _catalog(self, tx: TenantTransaction) -> tuple[RuleChoice, RuleCatalog | None]:
        choice = await read_choice(tx)
        if choice.digest is None:
            return choice, None
        known = self._catalogs.get(choice.digest)
        if known is None:
            stored = await get_catalog(tx, choice.digest)
            if stored is None:
                return choice, None
            known = await asyncio.to_thread(unpack_catalog, stored)
            self._catalogs[choice.digest] = known
            while len(self._catalogs) > _REMEMBERED:
                self._catalogs.popitem(last=False)
        return choice, known


def _find(catalog: RuleCatalog | None, rule_id: str) -> RuleEntry:
    for rule in () if catalog is None else catalog.rules:
        if rule.id == rule_id:
            return rule
    for error in () if catalog is None else catalog.errors:
        if error.rule_id == rule_id:
            raise WireError(404, f"the rule is not in force: {error}")
    raise WireError(404, f"there is no rule {rule_id!r}")


def _source(pack: bytes, path: str) -> str:
    return next((text for name, text in unpack(pack) if name == path), "")


def _severity(level: str) -> Severity:
    return next((severity for severity in SEVERITIES if severity == level), "medium")


def _doubts(catalog: RuleCatalog | None) -> dict[str, list[str]]:
    """By rule, what may keep it from finding what it is for."""
    doubts: dict[str, list[str]] = {}
    for warning in () if catalog is None else catalog.warnings:
        if warning.rule_id is not None:
            doubts.setdefault(warning.rule_id, []).append(warning.reason)
    return doubts


def _view(rule: RuleEntry, hits: RuleHits | None, doubts: dict[str, list[str]]) -> dict[str, Any]:
    names = ("id", "title", "kind", "level", "status", "state", "pack", "path", "version")
    return {name: getattr(rule, name) for name in names} | {
        "enabled": rule.state != "off",
        "techniques": list(rule.techniques),
        "doubts": doubts.get(rule.id, []),
        "hits": 0 if hits is None else hits.hits,
        "last_hit": None if hits is None or hits.last_hit is None else iso_time(hits.last_hit),
    }


def _cursor(rule_id: str) -> str:
    return base64.urlsafe_b64encode(rule_id.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


def _after(cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error):
        raise InvalidCursor from None
