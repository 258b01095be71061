"""Rule packs by digest, so that a replay judges with the rules that were in force."""

from __future__ import annotations

from detect.sigma.pack import BadPack, unpack
from store.postgres import SystemTransaction, TenantTransaction
from store.queries import sql


class RuleSetConflict(Exception):
    """A digest is stored with another pack than the one given: one of the two was not computed from its bytes."""


async def put_rule_set(tx: TenantTransaction | SystemTransaction, digest: str, pack: bytes) -> bool:
    """Stores a pack under its digest; False when it is stored already. Raises RuleSetConflict."""
    if await tx.connection.execute(sql("rule_set_insert"), digest, pack) == "INSERT 0 1":
        return True
    stored = await get_rule_set(tx, digest)
    if stored != pack and not _same_sources(stored or b"", pack):
        raise RuleSetConflict(f"the digest {digest} belongs to another rule pack")
    return False


def _same_sources(stored: bytes, pack: bytes) -> bool:
    """Another zlib deflates the same sources to other bytes."""
    try:
        return unpack(stored) == unpack(pack)
    except BadPack:
        return False


async def get_rule_set(tx: TenantTransaction | SystemTransaction, digest: str) -> bytes | None:
    """The pack of a digest."""
    pack: bytes | None = await tx.connection.fetchval(sql("rule_set_read"), digest)
    return pack
