"""Rule packs by digest: what a control row of the journal names, a detector must be able to load for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from actors.snapshot_pace import uncollected
from detect.batch import Batch
from detect.retry import RetryControl
from detect.sigma import CompiledMatcher, RuleMatcher, RuleSet, SigmaRule, load_rule_set, unpack
from detect.tenant import TenantDetector
from store.postgres import Pool, system_transaction_as_detector
from store.rule_sets import get_rule_set

FetchPack = Callable[[str], Awaitable[bytes | None]]


class RuleSetMissing(LookupError):
    """A digest that no loaded pack has; `digest` says which."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"the rule set {digest[:12]} is not stored: restore table rule_sets from a backup")
        self.digest = digest


class _Names(msgspec.Struct, frozen=True):
    """What of a control row says which rules it is about."""

    type: str = ""
    digest: str = ""
    kind: str = ""


_NAMES = msgspec.json.Decoder(_Names)
_RETRY = msgspec.json.Decoder(RetryControl)


class RuleLibrary:
    """Loaded rule sets of one thread, shared by its tenants. `resolve` is what a tenant detector calls.

    A rule set is compiled once for all tenants that are judged by it: a matcher remembers values and decisions, not
    tenants, so sharing it changes nothing that is said. What one tenant's odd values push out of its bounded caches,
    the others compute again.
    """

    def __init__(self, fetch: FetchPack) -> None:
        self._fetch = fetch
        self._loaded: dict[str, RuleSet] = {}
        self._matchers: dict[str, CompiledMatcher] = {}

    @classmethod
    def of_detector(cls, detector_pool: Pool) -> RuleLibrary:
        """A library over the table of packs, through a pool of the detector role."""

        async def fetch(digest: str) -> bytes | None:
            async with system_transaction_as_detector(detector_pool) as transaction:
                return await get_rule_set(transaction, digest)

        return cls(fetch)

    def resolve(self, digest: str) -> RuleSet:
        """The rule set of a digest; raises RuleSetMissing."""
        try:
            return self._loaded[digest]
        except KeyError:
            raise RuleSetMissing(digest) from None

    def matcher(self, rules: Sequence[SigmaRule]) -> RuleMatcher:
        """The matcher of a loaded rule set's rules; one of its own for any others."""
        for digest, loaded in self._loaded.items():
            if loaded.rules is rules:
                return self._matchers.setdefault(digest, CompiledMatcher(rules))
        return CompiledMatcher(rules)

    async def restore(self, detector: TenantDetector, state: bytes) -> float:
        """Restores a detector that resolves its rules here, with the rules its snapshot names loaded first; the
        seconds of processor time that it took. Raises what TenantDetector.restore raises."""
        try:
            return await asyncio.to_thread(_restored, detector, state)
        except RuleSetMissing as missing:
            await self.load(missing.digest)
        return await asyncio.to_thread(_restored, detector, state)

    async def load(self, digest: str) -> None:
        """Fetches and compiles a pack unless that was done before; an unknown digest stays missing."""
        if digest in self._loaded:
            return
        pack = await self._fetch(digest)
        if pack is not None:
            self._loaded[digest] = await asyncio.to_thread(lambda: load_rule_set(unpack(pack)))

    async def load_for(self, batch: Batch) -> None:
        """Loads what a control batch is about to put in force, so that judging it needs no waiting."""
        if batch.kind != "control":
            return
        try:
            named = _NAMES.decode(batch.payload)
            if named.type == "retry" and named.kind == "control":
                await self.load_for(_RETRY.decode(batch.payload).batch())
            elif named.digest:
                await self.load(named.digest)
        except (msgspec.DecodeError, ValueError):
            return  # the detector parks such a row, with the reason


def _restored(detector: TenantDetector, state: bytes) -> float:
    began = time.thread_time()
    with uncollected():
        detector.restore(state)
    return time.thread_time() - began
