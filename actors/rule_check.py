"""Checking rules before anybody is judged by them: what loads, what does not and why. Pure, and slow for many rules.

`actors/rule_check_task.py` runs this in a process of its own, so that the edge goes on answering meanwhile.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from detect.sigma.archive import is_test_file, unpack_archive
from detect.sigma.load import load_rule_set
from detect.sigma.overlay import FILTERS_PREFIX, OVERLAY_PREFIX, RuleChanges, take_changes
from detect.sigma.pack import BadPack, pack_bytes, source_digest, unpack
from detect.sigma.rule import RuleError, RuleHeader, RuleSet, SigmaCorrelation, SigmaRule
from detect.sigma.yaml_text import BadYaml, yaml_documents

if TYPE_CHECKING:
    from actors.rule_masking import MaskedSet, RecordMasks

SHOWN: Final = 5
MAX_CATALOG_BYTES: Final = 256 << 20

RuleState = Literal["on", "silent", "off"]


class RulesRefused(ValueError):
    """Rules that are not put in force; the text names file, line and reason of the first few faults."""


class CheckEnded(RuntimeError):
    """A check came to no result, for reasons of its own and not of the rules: it may be asked for again."""


class RuleChecks(Protocol):
    """The checks, wherever they run. Raises CheckEnded besides what they raise."""

    async def rule_set(self, pack: bytes) -> RuleCatalog:
        """What check_set says."""
        ...

    async def masked(self, pack: bytes, masks: RecordMasks) -> MaskedSet:
        """What masked_set of actors/rule_masking.py says."""
        ...

    async def upload(self, data: bytes, pin: str | None) -> PackCheck:
        """What check_upload says."""
        ...


class RuleEntry(msgspec.Struct, frozen=True):
    """A rule of a tenant's set. `silent`: it feeds correlations and never alerts. `path` is below the pack's name."""

    id: str
    title: str
    kind: Literal["rule", "correlation"]
    level: str
    status: str
    state: RuleState
    pack: str
    path: str
    version: str
    techniques: tuple[str, ...]
    tags: tuple[str, ...]
    filters: tuple[str, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """A document that is not in force, or a doubt about one that is. `line` counts from 1."""

    path: str
    line: int | None
    rule_id: str | None
    reason: str

    def __str__(self) -> str:
        return str(RuleError(self.path, self.line, self.rule_id, self.reason))


class RuleCatalog(msgspec.Struct, frozen=True):
    """What a tenant's rule set holds, by rule id; what of it does not load; what looks doubtful."""

    digest: str
    rules: tuple[RuleEntry, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    def refuse_unusable(self) -> None:
        """Raises RulesRefused for a set that must not be put in force: nothing loads, or the overlay does not."""
        own = [error for error in self.errors if error.path.startswith(OVERLAY_PREFIX)]
        if own:
            raise RulesRefused(f"{len(own)} parts of the overlay cannot be used: {_shown(own)}")
        if not self.rules:
            raise RulesRefused(f"none of the rules can be used: {_shown(self.errors) or 'there are none'}")


class PackCheck(msgspec.Struct, frozen=True):
    """What an uploaded pack holds. `problems` are its documents that do not load and its files that were left out."""

    digest: str
    pack: bytes
    origin: str
    rules: int
    correlations: int
    filters: int
    problems: tuple[Problem, ...]


def pack_catalog(catalog: RuleCatalog) -> bytes:
    """The catalogue as stored: deflated JSON."""
    return zlib.compress(msgspec.json.encode(catalog), 6)


def unpack_catalog(data: bytes) -> RuleCatalog:
    """The inverse of pack_catalog. Raises ValueError."""
    try:
        plain = zlib.decompressobj().decompress(data, MAX_CATALOG_BYTES)
    except zlib.error as error:
        raise ValueError(f"the catalogue is damaged: {error}") from error
    return msgspec.json.decode(plain, type=RuleCatalog)


def check_set(pack: bytes) -> RuleCatalog:
    """The catalogue of a tenant's rule set, rules that are off included. Raises BadPack."""
    sources = unpack(pack)
    changes, others, faults = take_changes(sources)
    return catalog_of(source_digest(sources), changes, load_rule_set(others), faults)


def catalog_of(digest: str, changes: RuleChanges, full: RuleSet, faults: Sequence[RuleError]) -> RuleCatalog:
    """The catalogue of what loads of a rule set (`full`) under an overlay's changes, in which `faults` were found."""
    effective = changes.applied(full)
    errors = (*_strangers(full), *map(_problem, (*faults, *effective.errors)))
    by_id = {rule.id: rule for rule in (*full.rules, *full.correlations)}
    by_id |= {rule.id: rule for rule in (*effective.rules, *effective.correlations)}
    on = {rule.id for rule in (*effective.rules, *effective.correlations)}
    entries = (
        _entry(rule, "silent" if rule.id in effective.silent else "on" if rule.id in on else "off")
        for rule in by_id.values()
    )
    return RuleCatalog(
        digest,
        tuple(sorted(entries, key=lambda entry: entry.id)),
        errors,
        tuple(map(_problem, effective.warnings)),
    )


def check_upload(data: bytes, pin: str | None) -> PackCheck:
    """What an uploaded archive comes to. `pin` is the SHA-256 that its bytes, or what it holds, must have.

    Raises BadPack for what is no archive of rules or too large for a pack, RulesRefused when nothing of it loads or the
    pin is not met.
    """
    content = unpack_archive(data)
    origin = hashlib.sha256(data).hexdigest()
    if pin is not None and pin.lower() not in (origin, source_digest(content.sources)):
        raise RulesRefused(f"the pack is not what was pinned: its SHA-256 is {origin}")
    sources = [source for source in content.sources if not is_test_file(source[0])]
    if odd := next((path for path, _ in sources if not path.isprintable()), None):
        raise BadPack(f"the pack holds the path {ascii(odd)[:200]}, which cannot be shown: rename that file")
    pack = pack_bytes(sources)
    unpack(pack)  # an archive may hold more than a pack: what nobody can read again must not be installed
    loaded = load_rule_set(sources)
    filters = _count_filters(sources)
    left_out = (Problem(problem.path, None, None, problem.reason) for problem in content.problems)
    problems = (*left_out, *map(_problem, loaded.errors))
    if not loaded.rules and not loaded.correlations and not filters:
        raise RulesRefused(f"nothing of the pack can be used: {_shown(problems) or 'it holds no .yml or .yaml file'}")
    return PackCheck(
        source_digest(sources),
        pack,
        origin,
        len(loaded.rules),
        len(loaded.correlations),
        filters,
        problems,
    )


def changed_rules(before: RuleSet, after: RuleSet) -> frozenset[str]:
    """The ids of rules and correlations that say something else in the two sets, or stand in one of them only.

    A correlation has changed when one of its sources has. Where a rule's file is does not count.
    """
    old, new = _meanings(before), _meanings(after)
    changed = {rule_id for rule_id in old.keys() | new.keys() if old.get(rule_id) != new.get(rule_id)}
    for correlation in (*after.correlations, *before.correlations):
        if changed.intersection(correlation.sources):
            changed.add(correlation.id)
    return frozenset(changed)


def _meanings(rules: RuleSet) -> dict[str, object]:
    everything: tuple[SigmaRule | SigmaCorrelation, ...] = (*rules.rules, *rules.correlations)
    return {rule.id: (replace(rule, path=""), rule.id in rules.silent) for rule in everything}


def _entry(rule: RuleHeader, state: RuleState) -> RuleEntry:
    pack, _, path = rule.path.partition("/")
    return RuleEntry(
        rule.id,
        rule.title,
        "rule" if isinstance(rule, SigmaRule) else "correlation",
        rule.level,
        rule.status,
        state,
        pack,
        path,
        rule.version,
        rule.techniques,
        rule.tags,
        rule.filters if isinstance(rule, SigmaRule) else (),
    )


def _strangers(loaded: RuleSet) -> Iterable[Problem]:
    """Rules that stand where the overlay's filters should: nobody would look for one there."""
    for rule in (*loaded.rules, *loaded.correlations):
        if rule.path.startswith(FILTERS_PREFIX):
            yield Problem(rule.path, None, rule.id, "this is a rule, not a Sigma filter: install it in a pack")


def _count_filters(sources: Sequence[tuple[str, str]]) -> int:
    count = 0
    for _, text in sources:
        if "filter:" in text:
            with suppress(BadYaml):  # which loading has named
                for document in yaml_documents(text):
                    count += isinstance(document.content, dict) and "filter" in document.content
    return count


def _problem(error: RuleError) -> Problem:
    return Problem(error.path, error.line, error.rule_id, error.reason)


def _shown(problems: Sequence[Problem]) -> str:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(map(str, problems[:SHOWN])) + more


__all__ = [
    "BadPack", "CheckEnded", "PackCheck", "Problem", "RuleCatalog", "RuleChecks", "RuleEntry", "RulesRefused",
    "catalog_of", "changed_rules", "check_set", "check_upload", "pack_catalog", "unpack_catalog",
]  # fmt: skip
