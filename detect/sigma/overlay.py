"""What a tenant changes about the rules of its packs: a document of its own, applied when the rule set is loaded.

Packs and overlay become the sources of one rule set: the packs below their names, the overlay below a path that no
pack can have. So whoever loads the set by its digest gets the overlay with it: detectors, snapshots, replays and
backups know nothing of overlays, and the judgement stays a function of the journal. Who asked for an entry, why and
until when is not part of the sources: a set whose meaning is the same has the same digest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from detect.event import SEVERITIES, Severity
from detect.fold import LONGEST_SECONDS, FoldWindow
from detect.record import EntityKind
from detect.sigma.identity import canonical_reference
from detect.sigma.rule import RuleError, RuleHeader, RuleSet, SigmaCorrelation, SigmaRule, silenced_by

Sources = Sequence[tuple[str, str]]
Status = Literal["stable", "test", "experimental", "deprecated", "unsupported"]

OVERLAY_PREFIX: Final = "!overlay/"
"""Before every other path, so that what the overlay says counts where a pack says it too."""
CHANGES_PATH: Final = f"{OVERLAY_PREFIX}changes.json"
LISTS_PATH: Final = f"{OVERLAY_PREFIX}lists.yml"
FILTERS_PREFIX: Final = f"{OVERLAY_PREFIX}filters/"
TRIAL_PREFIX: Final = "!backtest/"

_Text = Annotated[str, Meta(max_length=2000)]
_Id = Annotated[str, Meta(min_length=1, max_length=1024)]
_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
_Utc = Annotated[datetime, Meta(tz=True)]
_Header = TypeVar("_Header", SigmaRule, SigmaCorrelation)


class BadOverlay(ValueError):
    """A document that is no overlay; the text says where and why."""


class FoldChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How floods are folded, see detect.fold.FoldWindow; no seconds: not at all."""

    seconds: Annotated[int, Meta(ge=0, le=LONGEST_SECONDS)] = FoldWindow().seconds
    by: Annotated[tuple[EntityKind, ...], Meta(max_length=10)] = FoldWindow().by

    def window(self) -> FoldWindow:
        """What a rule set says of it."""
        return FoldWindow(self.seconds, self.by)


class RuleChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What differs for one rule. `silent`: it feeds correlations and never alerts. `fold`: how its floods are folded.
    After `expires` it is forgotten."""

    enabled: bool | None = None
    level: Severity | None = None
    status: Status | None = None
    silent: bool = False
    owner: _Text = ""
    reason: _Text = ""
    expires: _Utc | None = None
    fold: FoldChoice | None = None


class TuningFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A Sigma filter, with who answers for it. After `expires` it is forgotten."""

    text: Annotated[str, Meta(max_length=1 << 17)]
    owner: Annotated[str, Meta(min_length=1, max_length=2000)]
    reason: Annotated[str, Meta(min_length=1, max_length=2000)]
    expires: _Utc | None = None


class ValueList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The values of a placeholder of rules (`%name%` with `expand`). After `expires` it is forgotten."""

    values: Annotated[tuple[_Text, ...], Meta(max_length=10_000)]
    owner: _Text = ""
    reason: _Text = ""
    expires: _Utc | None = None


_Entry = TypeVar("_Entry", RuleChange, TuningFilter, ValueList)


class RuleSelection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which rules are on where no entry says it: from a level on, of some statuses (empty: of all)."""

    least_level: Severity = "informational"
    statuses: tuple[Status, ...] = ()

    def takes(self, rule: RuleHeader) -> bool:
        """Whether the rule is on by its level and status."""
        severe = SEVERITIES.index(rule.level) >= SEVERITIES.index(self.least_level)
        return severe and (not self.statuses or rule.status in self.statuses)


class Overlay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole document: entries by rule id, filters and lists by name; `fold` is for rules whose entry has none."""

    selection: RuleSelection = RuleSelection()
    rules: Annotated[dict[_Id, RuleChange], Meta(max_length=20_000)] = {}
    filters: Annotated[dict[_Name, TuningFilter], Meta(max_length=1000)] = {}
    lists: Annotated[dict[_Text, ValueList], Meta(max_length=1000)] = {}
    fold: FoldChoice | None = None


def read_overlay(document: bytes | str) -> Overlay:
    """An overlay from JSON, its rule ids as rules are known by them. Raises BadOverlay."""
    try:
        overlay = msgspec.json.decode(document, type=Overlay)
    except msgspec.DecodeError as error:
        raise BadOverlay(str(error)) from error
    rules: dict[str, RuleChange] = {}
    for stated, change in overlay.rules.items():
        if rules.setdefault(canonical_reference(stated), change) is not change:
            raise BadOverlay(f"the rule {stated} has two entries")
    return msgspec.structs.replace(overlay, rules=rules)


def overlay_json(overlay: Overlay) -> bytes:
    """The inverse of read_overlay: equal overlays give equal bytes."""
    return msgspec.json.encode(overlay, order="deterministic")


def in_force(overlay: Overlay, now: datetime) -> Overlay:
    """The overlay without what has expired by `now`."""

    def kept(entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
        return {name: entry for name, entry in entries.items() if entry.expires is None or entry.expires > now}

    return msgspec.structs.replace(
        overlay, rules=kept(overlay.rules), filters=kept(overlay.filters), lists=kept(overlay.lists)
    )


def next_expiry(overlay: Overlay, now: datetime) -> datetime | None:
    """When the overlay next changes by itself; None when it never will."""
    entries: tuple[RuleChange | TuningFilter | ValueList, ...] = (
        *overlay.rules.values(),
        *overlay.filters.values(),
        *overlay.lists.values(),
    )
    return min((entry.expires for entry in entries if entry.expires is not None and entry.expires > now), default=None)


def effective_sources(packs: Mapping[str, Sources], overlay: Overlay, now: datetime) -> list[tuple[str, str]]:
    """The sources of a tenant's rule set: packs by name and the overlay as it is in force at `now`, sorted by path.

    Neither the order of the packs nor what is only remarked (owner, reason, expiry) changes them.
    """
    overlay = in_force(overlay, now)
    sources = [(f"{name}/{path}", text) for name, pack in packs.items() for path, text in pack]
    changes = RuleChanges.of(overlay)
    if changes != RuleChanges():
        sources.append((CHANGES_PATH, msgspec.json.encode(changes, order="deterministic").decode()))
    if overlay.lists:
        lists = {name: sorted(set(held.values)) for name, held in sorted(overlay.lists.items())}
        sources.append((LISTS_PATH, json.dumps({"placeholders": lists}, ensure_ascii=False)))
    sources += [(f"{FILTERS_PREFIX}{name}.yml", held.text) for name, held in overlay.filters.items()]
    return sorted(sources)


class RuleChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What of an overlay a rule set is changed by once it is loaded; filters and lists are loaded with it."""

    selection: RuleSelection = RuleSelection()
    rules: dict[str, RuleChange] = {}
    fold: FoldChoice | None = None

    @classmethod
    def of(cls, overlay: Overlay) -> RuleChanges:
        """The entries that change something, without remarks."""
        selection = overlay.selection
        if selection.statuses:
            statuses = tuple(sorted(set(selection.statuses)))
            selection = RuleSelection(selection.least_level, statuses)
        chosen = selection != RuleSelection()
        rules = {}
        for rule_id, change in overlay.rules.items():
            # Where nothing is left out, to be on is nothing special.
            enabled = None if change.enabled and not chosen else change.enabled
            meant = RuleChange(enabled, change.level, change.status, change.silent, fold=change.fold)
            if meant != RuleChange():
                rules[rule_id] = meant
        return cls(selection, rules, overlay.fold)

    def applied(self, loaded: RuleSet) -> RuleSet:
        """The rule set as the overlay wants it.

        A rule that is disabled is not judged by any more; correlations that need it are named in `errors`. One that
        the selection leaves out still feeds the correlations that are on, in silence. A rule that was silent for the
        sake of correlations that are gone speaks for itself again.
        """
        if self == RuleChanges():
            return loaded
        rules = tuple(map(self._changed, loaded.rules))
        correlations = tuple(map(self._changed, loaded.correlations))
        gone, errors = self._gone(correlations)
        needed: set[str] = set()
        for correlation in reversed(correlations):
            if correlation.id not in gone and (self._wants(correlation) or correlation.id in needed):
                needed.update(correlation.sources)
        kept = {
            rule.id: self._wants(rule)
            for rule in (*rules, *correlations)
            if rule.id not in gone and (self._wants(rule) or rule.id in needed)
        }
        quiet = {rule_id for rule_id, wanted in kept.items() if not wanted or self._change(rule_id).silent}
        standing = tuple(rule for rule in correlations if rule.id in kept)
        return dataclasses.replace(
            loaded,
            rules=tuple(rule for rule in rules if rule.id in kept),
            correlations=standing,
            errors=(*loaded.errors, *errors),
            silent=silenced_by(standing) | quiet,
            fold=None if self.fold is None else self.fold.window(),
            folds={rule_id: change.fold.window() for rule_id, change in self.rules.items() if change.fold is not None},
        )

    def _gone(self, correlations: Sequence[SigmaCorrelation]) -> tuple[set[str], list[RuleError]]:
        """What is disabled, and the correlations that therefore cannot work, in the order of their references."""
        gone = {rule_id for rule_id, change in self.rules.items() if change.enabled is False}
        errors = []
        for correlation in correlations:
            missing = [source for source in correlation.sources if source in gone]
            if missing and correlation.id not in gone:
                gone.add(correlation.id)
                reason = f"refers to rules that the overlay disables: {', '.join(missing)}"
                errors.append(RuleError(correlation.path, None, correlation.id, reason))
        return gone, errors

    def _change(self, rule_id: str) -> RuleChange:
        return self.rules.get(rule_id, RuleChange())

    def _wants(self, rule: RuleHeader) -> bool:
        enabled = self._change(rule.id).enabled
        return self.selection.takes(rule) if enabled is None else enabled

    def _changed(self, rule: _Header) -> _Header:
        change = self.rules.get(rule.id)
        if change is None or (change.level is None and change.status is None):
            return rule
        return dataclasses.replace(rule, level=change.level or rule.level, status=change.status or rule.status)


def take_changes(sources: Sources) -> tuple[RuleChanges, list[tuple[str, str]], list[RuleError]]:
    """The changes among the sources of a rule set, the other sources, and what is wrong with the changes."""
    others = [source for source in sources if source[0] != CHANGES_PATH]
    for path, text in sources:
        if path == CHANGES_PATH:
            try:
                return msgspec.json.decode(text, type=RuleChanges), others, []
            except msgspec.DecodeError as error:
                return RuleChanges(), others, [RuleError(path, None, None, str(error))]
    return RuleChanges(), others, []


def trial_sources(sources: Sources, given: Sources, rule_ids: Collection[str]) -> list[tuple[str, str]]:
    """The sources of a rule set with others that count in place of its own, their rules (`rule_ids`) being on."""
    changes, others, _ = take_changes(sources)
    rules = dict(changes.rules)
    for rule_id in rule_ids:
        rules[rule_id] = msgspec.structs.replace(rules.get(rule_id, RuleChange()), enabled=True)
    changed = msgspec.json.encode(RuleChanges(changes.selection, rules, changes.fold), order="deterministic").decode()
    first = [(f"{TRIAL_PREFIX}{number:05d}/{name}", text) for number, (name, text) in enumerate(given)]
    return sorted([*first, *others, (CHANGES_PATH, changed)])
