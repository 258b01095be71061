"""Rule packs by digest: what a control row of the journal names, a detector must be able to load for ever."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

import msgspec

from actors.rule_cache import RuleCache
from actors.rule_cost import RuleCosts
from actors.snapshot_pace import uncollected
from detect.batch import Batch, BatchOutput
from detect.retry import RetryControl
from detect.sigma import CompiledMatcher, RuleMatcher, RuleSet, SigmaRule, unpack
from detect.sigma.codec import CompiledRules
from detect.sigma.expected_logsources import expected_logsources
from detect.sigma.scanner import FinderShelf, usable_engine
from detect.tenant import TenantDetector
from store.postgres import Pool, system_transaction_as_detector
from store.rule_sets import get_rule_set

MOST_UNUSED = 4
"""Rule sets that a detector keeps loaded though no tenant is judged by them: the next one may be."""
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


class LoadedRules:
    """A rule set with its matcher, which may serve other sets with equal rules too. A RuleMatcher: whoever matches
    with it keeps it loaded."""

    def __init__(self, rules: RuleSet, matcher: CompiledMatcher) -> None:
        self.rules = rules
        self.matcher = matcher
        self.match = matcher.match
        self.take_faults = matcher.take_faults


class RuleLibrary:
    """Loaded rule sets of one thread, shared by its tenants. `resolve` is what a tenant detector calls.

    A rule set is compiled once for all tenants that are judged by it: a matcher remembers values and decisions, not
    tenants, so sharing it changes nothing that is said. What one tenant's odd values push out of its bounded caches,
    the others compute again. Sets of which the rules are equal share a matcher too. What no tenant is judged by any
    more is dropped, apart from the last few. With a cache, what this or another process has compiled is read instead.
    """

    def __init__(
        self,
        fetch: FetchPack,
        cache: RuleCache | None = None,
        costs: RuleCosts | None = None,
        most_unused: int | None = None,
    ) -> None:
        """`most_unused`: so many of the rule sets that no tenant is judged by stay loaded; None for all."""
        self._fetch = fetch
        self._cache = cache
        self._loaded: WeakValueDictionary[str, LoadedRules] = WeakValueDictionary()
        self._recent: deque[LoadedRules] = deque(maxlen=most_unused)
        self._costs = costs

    @classmethod
    def of_detector(cls, detector_pool: Pool, costs: RuleCosts | None = None, rule_cache: str = "") -> RuleLibrary:
        """A library over the table of packs, through a pool of the detector role, and the cache in that folder; see
        RuleCache.at."""

        async def fetch(digest: str) -> bytes | None:
            async with system_transaction_as_detector(detector_pool) as transaction:
                return await get_rule_set(transaction, digest)

        return cls(fetch, RuleCache.at(rule_cache), costs, MOST_UNUSED)

    def resolve(self, digest: str) -> RuleSet:
        """The rule set of a digest; raises RuleSetMissing."""
        try:
            return self._loaded[digest].rules
        except KeyError:
            raise RuleSetMissing(digest) from None

    def matcher(self, rules: Sequence[SigmaRule]) -> RuleMatcher:
        """The matcher of a loaded rule set's rules; one of its own for any others."""
        for loaded in self._loaded.values():
            if loaded.rules.rules is rules:
                return loaded
        return CompiledMatcher(rules)

    def sample_costs(self, digest: str, outputs: Sequence[BatchOutput]) -> None:
        """Measures what rules cost on some of the records that were judged by the rule set with that digest."""
        loaded = self._loaded.get(digest)
        if self._costs is not None and loaded is not None:
            self._costs.observe(outputs, loaded.matcher)

    async def restore(self, detector: TenantDetector, state: bytes) -> float:
        """Restores a detector that resolves its rules here, with the rules its snapshot names loaded first; the
        seconds of processor time that it took. Raises what TenantDetector.restore raises."""
        try:
            return await asyncio.to_thread(_restored, detector, state)
        except RuleSetMissing as missing:
            held = await self.load(missing.digest)
        seconds = await asyncio.to_thread(_restored, detector, state)
        del held  # until here nobody but this library may have had it
        return seconds

    async def load(self, digest: str) -> LoadedRules | None:
        """Fetches and compiles a pack unless that was done before; None for an unknown digest, which stays missing.

        Who is about to put the rules in force keeps what is returned until they are.
        """
        known = self._loaded.get(digest)
        if known is None:
            known = await asyncio.to_thread(self._read, digest)
        if known is None:
            pack = await self._fetch(digest)
            if pack is None:
                return None
            known = await asyncio.to_thread(self._compile, pack)
        # Another tenant's turn may have loaded the same meanwhile.
        known = self._loaded.setdefault(digest, known)
        if known not in self._recent:
            self._recent.append(known)
        return known

    def _read(self, digest: str) -> LoadedRules | None:
        engine = usable_engine()
        with uncollected():
            compiled = None if self._cache is None else self._cache.read(digest, engine.name)
            if compiled is None:
                return None
            return self._shared(compiled.rules) or LoadedRules(
                compiled.rules, CompiledMatcher(compiled.rules.rules, FinderShelf(engine, compiled.dumps))
            )

    def _compile(self, pack: bytes) -> LoadedRules:
        from detect.sigma import load_rule_set

        rules = load_rule_set(unpack(pack))
        shared = self._shared(rules)
        made = LoadedRules(rules, CompiledMatcher(rules.rules)) if shared is None else shared
        if self._cache is not None:
            if shared is None:
                made.matcher.prepare(expected_logsources(rules.rules))
            self._cache.write(CompiledRules(made.rules, made.matcher.shelf.engine.name, made.matcher.shelf.dumps()))
        return made

    def _shared(self, rules: RuleSet) -> LoadedRules | None:
        """The rule set with the matcher of one that has equal rules, as sets do that differ only in what is folded or
        silent, or in their correlations."""
        for loaded in list(self._loaded.values()):
            if loaded.rules.rules == rules.rules:
                # The same rules once in memory, in a tuple of its own: by that `matcher` tells whose set is meant.
                return LoadedRules(replace(rules, rules=tuple(list(loaded.rules.rules))), loaded.matcher)
        return None

    async def load_for(self, batch: Batch) -> LoadedRules | None:
        """Loads what a control batch is about to put in force, so that judging it needs no waiting; see `load`."""
        if batch.kind != "control":
            return None
        try:
            named = _NAMES.decode(batch.payload)
            if named.type == "retry" and named.kind == "control":
                return await self.load_for(_RETRY.decode(batch.payload).batch())
            return await self.load(named.digest) if named.digest else None
        except (msgspec.DecodeError, ValueError):
            return None  # the detector parks such a row, with the reason


def _restored(detector: TenantDetector, state: bytes) -> float:
    began = time.thread_time()
    with uncollected():
        detector.restore(state)
    return time.thread_time() - began
