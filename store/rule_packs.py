"""Rule packs of the installation: what administrators installed under a name, version after version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql
from store.rule_choices import DEFAULT_PACK
from store.rule_sets import put_rule_set
from store.values import iso_time, json_text, text

VERSIONS_SHOWN = 50
_PROBLEMS_KEPT = 1000


class PackNotFound(Exception):
    """No pack of that name, or none of that digest, is installed."""


class PackInUse(Exception):
    """Tenants have chosen the pack (the text names some), or new ones begin with it."""


@dataclass(frozen=True, slots=True)
class NewPack:
    """What is about to be installed: sources as pack bytes under their digest, and what a check found in them.

    `problems` are objects with path, line, rule_id and reason; `broken` counts all of them.
    """

    name: str
    digest: str
    pack: bytes
    origin: str
    rules: int
    correlations: int
    filters: int
    broken: int
    problems: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class InstalledPack:
    """One installation. `revision` grows with every one, over all packs."""

    revision: int
    name: str
    digest: str
    origin: str
    rules: int
    correlations: int
    filters: int
    broken: int
    problems: tuple[dict[str, Any], ...]
    installed_by: str
    installed_at: datetime

    def view(self) -> dict[str, Any]:
        """Ready for JSON, without the problems."""
        names = ("name", "digest", "origin", "rules", "correlations", "filters", "broken", "installed_by")
        return {name: getattr(self, name) for name in names} | {"installed_at": iso_time(self.installed_at)}


async def install_pack(tx: SystemTransaction, new: NewPack, *, actor: str) -> tuple[InstalledPack, bool]:
    """Installs a version; tenants that follow the pack get it from the next housekeeping on.

    The newest version again changes nothing, and is False.
    """
    await tx.connection.execute(sql("rule_packs_lock"))
    versions = await pack_versions(tx, new.name, 1)
    if versions and versions[0].digest == new.digest:
        return versions[0], False
    await put_rule_set(tx, new.digest, new.pack)
    counts = (new.rules, new.correlations, new.filters, new.broken)
    problems = json_text(list(new.problems[:_PROBLEMS_KEPT]))
    row = await tx.connection.fetchrow(
        sql("rule_pack_insert"), new.name, new.digest, text(new.origin), *counts, problems, text(actor)
    )
    return _pack(row), True


async def newest_packs(tx: SystemTransaction) -> dict[str, InstalledPack]:
    """The version of every pack that tenants follow, by name, without problems."""
    return {row["name"]: _pack(row) for row in await tx.connection.fetch(sql("rule_packs_newest"))}


async def pack_versions(
    tx: TenantTransaction | SystemTransaction, name: str, limit: int = VERSIONS_SHOWN
) -> list[InstalledPack]:
    """The installations of a pack, newest first."""
    return [_pack(row) for row in await tx.connection.fetch(sql("rule_pack_versions"), name, limit)]


async def share_packs(tx: TenantTransaction | SystemTransaction) -> None:
    """Until the transaction ends nobody installs or removes a pack."""
    await tx.connection.execute(sql("rule_packs_share"))


async def resolve_pack(tx: TenantTransaction | SystemTransaction, name: str, digest: str | None) -> str:
    """The digest of a pack: the newest, or the one that is asked for. Raises PackNotFound."""
    if digest is not None:
        if not await tx.connection.fetchval(sql("rule_pack_exists"), name, digest):
            raise PackNotFound(f"no version {digest[:12]} of the rule pack {name!r} is installed")
        return digest
    versions = await pack_versions(tx, name, 1)
    if not versions:
        raise PackNotFound(f"no rule pack {name!r} is installed")
    return versions[0].digest


async def remove_pack(tx: SystemTransaction, name: str, *, actor: str) -> None:
    """Removes all versions of a pack from the list; rule sets made of it stay. Raises PackNotFound, PackInUse."""
    if name == DEFAULT_PACK:
        raise PackInUse(f"the rule pack {name!r} is what new tenants begin with")
    await tx.connection.execute(sql("rule_packs_lock"))
    users = [row["name"] for row in await tx.connection.fetch(sql("rule_pack_users"), name)]
    if users:
        shown = ", ".join(users[:5]) + (" and others" if len(users) > 5 else "")
        raise PackInUse(f"the rule pack {name!r} is used by {shown}: choose other packs for them first")
    if await tx.connection.execute(sql("rule_pack_remove"), name, text(actor)) == "UPDATE 0":
        raise PackNotFound(f"no rule pack {name!r} is installed")


def _pack(row: asyncpg.Record | None) -> InstalledPack:
    values: dict[str, Any] = dict(row or {})
    values["problems"] = tuple(orjson.loads(values["problems"]))
    values["installed_at"] = values["installed_at"].astimezone(UTC)
    return InstalledPack(**values)
