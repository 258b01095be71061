"""Rule packs by digest: what a control row of the journal names, a detector must be able to load for ever."""

from __future__ import annotations

import asyncio

import orjson

from detect.batch import Batch
from detect.sigma import RuleSet, load_rule_set, unpack
from store.postgres import Pool, system_transaction_as_detector
from store.rule_sets import get_rule_set


class RuleSetMissing(LookupError):
    """A digest that no loaded pack has; `digest` says which."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"the rule set {digest[:12]} is not stored: restore table rule_sets from a backup")
        self.digest = digest


class RuleLibrary:
    """Loaded rule sets of one process, shared by its tenants. `resolve` is what a tenant detector calls."""

    def __init__(self, detector_pool: Pool) -> None:
        self._pool = detector_pool
        self._loaded: dict[str, RuleSet] = {}

    def resolve(self, digest: str) -> RuleSet:
        """The rule set of a digest; raises RuleSetMissing."""
        try:
            return self._loaded[digest]
        except KeyError:
            raise RuleSetMissing(digest) from None

    async def load(self, digest: str) -> None:
        """Fetches and compiles a pack unless that was done before; an unknown digest stays missing."""
        if digest in self._loaded:
            return
        async with system_transaction_as_detector(self._pool) as transaction:
            pack = await get_rule_set(transaction, digest)
        if pack is not None:
            self._loaded[digest] = await asyncio.to_thread(lambda: load_rule_set(unpack(pack)))

    async def load_for(self, batch: Batch) -> None:
        """Loads what a control batch is about to put in force, so that judging it needs no waiting."""
        if batch.kind != "control":
            return
        try:
            control = orjson.loads(batch.payload)
        except orjson.JSONDecodeError:
            return
        if isinstance(control, dict) and isinstance(control.get("digest"), str):
            await self.load(control["digest"])
