"""Loads the ATT&CK corpus: ids and detection of the newest release, joined with the fullest prose there is."""

from __future__ import annotations

from collections.abc import Iterable

from detect.kill_chain import TACTICS
from rag_corpus.attack import ATTACK_NOTICE, AttackCorpus, Mitigation, Technique
from rag_corpus.attack_text import one_line, plain_text
from rag_corpus.packaged import COMPACT_PACKAGE, PROSE_PACKAGE, read_compact, read_prose
from rag_corpus.release import AttackRelease, ReleasedTechnique

_NO_COMPACT = (
    f"{COMPACT_PACKAGE} is not installed: techniques are those of an older release, without analytics or log sources."
)
_NO_PROSE = f"{PROSE_PACKAGE} is not installed: technique texts are shortened to their first sentences."
_NOTHING = "No ATT&CK data is installed: techniques come from rule tags alone, without names, texts or retrieval."


def load_attack_corpus() -> AttackCorpus:
    """The corpus from the installed packages, about half a second.

    With one package missing it is poorer and says so in `degraded`; with both missing it is empty and says so.
    Raises CorpusError when an installed package does not hold what its pinned version holds.
    """
    compact, prose = read_compact(), read_prose()
    if compact is None and prose is None:
        return AttackCorpus(version="none", notice=ATTACK_NOTICE, techniques={}, degraded=(_NOTHING,))
    if compact is None or prose is None:
        only = compact or prose
        assert only is not None  # noqa: S101 - narrows the type: one of the two is there
        return corpus_of(only, None, degraded=(_NO_PROSE,) if compact else (_NO_COMPACT,))
    return corpus_of(compact, prose)


def corpus_of(newest: AttackRelease, prose: AttackRelease | None, degraded: tuple[str, ...] = ()) -> AttackCorpus:
    """Join two releases: `newest` decides what exists and how it is detected; `prose` gives full texts for what was
    already there then. Every text keeps the version it comes from."""
    releases = (newest,) if prose is None else (prose, newest)
    mitigations = _mitigations(newest, releases)
    techniques = {
        item.id: _technique(item, newest, releases, mitigations.get(item.stix_id, ()))
        for item in sorted(newest.techniques.values(), key=lambda technique: technique.id)
        if item.live
    }
    return AttackCorpus(
        version=newest.version,
        notice=ATTACK_NOTICE,
        techniques=techniques,
        aliases=_aliases(newest, releases, techniques),
        procedures=_procedures(newest, releases),
        degraded=degraded,
    )


def _technique(
    item: ReleasedTechnique,
    newest: AttackRelease,
    releases: Iterable[AttackRelease],
    mitigations: tuple[Mitigation, ...],
) -> Technique:
    description, version = "", newest.version
    for release in releases:
        known = release.techniques.get(item.stix_id)
        text = plain_text(known.description) if known else ""
        if len(text) > len(description):
            description, version = text, release.version
    order = {tactic: position for position, tactic in enumerate(TACTICS)}
    return Technique(
        id=item.id,
        name=item.name,
        tactics=tuple(sorted(item.tactics, key=lambda tactic: order.get(tactic, len(order)))),
        platforms=item.platforms,
        description=description,
        url=item.url,
        source_version=version,
        mitigations=mitigations,
        analytics=newest.analytics.get(item.stix_id, ()),
    )


def _mitigations(newest: AttackRelease, releases: Iterable[AttackRelease]) -> dict[str, tuple[Mitigation, ...]]:
    """Mitigations per technique's STIX id, in the order of their ids, with the longest text any release has."""
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for release in releases:
        for link in release.mitigates:
            text = one_line(link.description)
            known = texts.get((link.source, link.target), ("", release.version))
            if len(text) > len(known[0]):
                texts[link.source, link.target] = (text, release.version)
    found: dict[str, dict[str, Mitigation]] = {}
    for link in newest.mitigates:
        measure = newest.mitigations[link.source]
        text, version = texts.get((link.source, link.target), ("", newest.version))
        found.setdefault(link.target, {})[measure.id] = Mitigation(measure.id, measure.name, text, version)
    return {target: tuple(items[key] for key in sorted(items)) for target, items in found.items()}


def _procedures(newest: AttackRelease, releases: Iterable[AttackRelease]) -> dict[str, tuple[str, ...]]:
    """Report sentences per live technique id: one a (reporter, technique) pair, the first release's text if it has one.

    A sentence about a technique that was revoked since then counts for its successor."""
    live = {item.stix_id: item.id for item in newest.techniques.values() if item.live}
    texts: dict[tuple[str, str], str] = {}
    for release in releases:
        for link in release.procedures:
            target = live.get(_successor(link.target, newest))
            if target is None or texts.get((target, link.source)):
                continue
            texts[target, link.source] = one_line(link.description)
    found: dict[str, list[str]] = {}
    for technique_id, source in sorted(texts):
        text = texts[technique_id, source]
        if text:
            found.setdefault(technique_id, []).append(text)
    return {technique_id: tuple(dict.fromkeys(items)) for technique_id, items in found.items()}


def _aliases(newest: AttackRelease, releases: Iterable[AttackRelease], live: dict[str, Technique]) -> dict[str, str]:
    """Old id -> live id for every revoked technique of any release whose successor is live."""
    aliases: dict[str, str] = {}
    for release in releases:
        for item in release.techniques.values():
            successor = newest.techniques.get(_successor(item.stix_id, newest))
            if successor is not None and successor.id != item.id and successor.id in live and item.id not in live:
                aliases[item.id] = successor.id
    return aliases


def _successor(stix_id: str, newest: AttackRelease) -> str:
    seen: set[str] = set()
    while stix_id in newest.revoked_by and stix_id not in seen:
        seen.add(stix_id)
        stix_id = newest.revoked_by[stix_id]
    return stix_id
