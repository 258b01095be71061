"""Reads an ATT&CK STIX bundle (2.0 or 2.1, as MITRE publishes it) into an `AttackRelease`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from rag_corpus.attack import Analytic, CorpusError
from rag_corpus.attack_text import one_line
from rag_corpus.release import AttackRelease, ReleasedLink, ReleasedMitigation, ReleasedTechnique

_ATTACK_SOURCES = ("mitre-attack", "mitre-mobile-attack", "mitre-ics-attack")


class _Reference(msgspec.Struct):
    source_name: str = ""
    external_id: str = ""
    url: str = ""


class _Phase(msgspec.Struct):
    kill_chain_name: str = ""
    phase_name: str = ""


class LogSource(msgspec.Struct):
    """Where an analytic looks: `auditd:SYSCALL`, channel `execve`."""

    name: str = ""
    channel: str | None = None


class _StixObject(msgspec.Struct):
    """The few fields of the many STIX types that the corpus reads; all others are skipped while parsing."""

    type: str
    id: str = ""
    name: str = ""
    description: str | None = None
    revoked: bool = False
    x_mitre_deprecated: bool = False
    external_references: list[_Reference] = []
    kill_chain_phases: list[_Phase] = []
    x_mitre_platforms: list[str] = []
    x_mitre_version: str = ""
    relationship_type: str = ""
    source_ref: str = ""
    target_ref: str = ""
    x_mitre_analytic_refs: list[str] = []
    x_mitre_log_source_references: list[LogSource] = []


class _Bundle(msgspec.Struct):
    objects: list[_StixObject]


def read_bundle(data: bytes, origin: str, version: str | None = None) -> AttackRelease:
    """Parse a bundle. `origin` names it in errors; `version` is used where the bundle states none (STIX 2.0 editions
    have no collection object). Raises CorpusError when it is not an ATT&CK bundle."""
    try:
        objects = msgspec.json.decode(data, type=_Bundle).objects
    except msgspec.DecodeError as error:
        raise CorpusError(f"{origin} is not a STIX bundle: {error}") from error
    by_type: dict[str, list[_StixObject]] = {}
    for item in objects:
        by_type.setdefault(item.type, []).append(item)
    stated = (item.x_mitre_version for item in by_type.get("x-mitre-collection", ()))
    version = next((text for text in stated if text), version)
    if version is None:
        raise CorpusError(f"{origin} states no ATT&CK version: it holds no x-mitre-collection")
    if not by_type.get("attack-pattern"):
        raise CorpusError(f"{origin} holds no ATT&CK techniques")
    links = [item for item in by_type.get("relationship", ()) if _live(item)]
    techniques = {item.id: _technique(item) for item in by_type["attack-pattern"] if _attack_id(item)}
    mitigations = {
        item.id: ReleasedMitigation(item.id, _attack_id(item), item.name, item.description or "")
        for item in by_type.get("course-of-action", ())
        if _live(item) and _attack_id(item).startswith("M")
    }
    return AttackRelease(
        version=version,
        techniques=techniques,
        mitigations=mitigations,
        mitigates=_links(links, "mitigates", mitigations, techniques),
        procedures=_links(links, "uses", None, techniques),
        revoked_by={link.source_ref: link.target_ref for link in links if link.relationship_type == "revoked-by"},
        analytics=_analytics(by_type, links, version),
    )


def log_source_names(sources: Iterable[LogSource]) -> tuple[str, ...]:
    """`name: channel` of each source, in order and once."""
    names = (
        f"{source.name}: {source.channel}" if source.channel not in (None, "", "None") else source.name
        for source in sources
        if source.name
    )
    return tuple(dict.fromkeys(names))


def _live(item: _StixObject) -> bool:
    return not (item.revoked or item.x_mitre_deprecated)


def _attack_id(item: _StixObject) -> str:
    return next((ref.external_id for ref in item.external_references if ref.source_name in _ATTACK_SOURCES), "")


def _technique(item: _StixObject) -> ReleasedTechnique:
    url = next((ref.url for ref in item.external_references if ref.source_name in _ATTACK_SOURCES), "")
    return ReleasedTechnique(
        stix_id=item.id,
        id=_attack_id(item),
        name=item.name,
        description=item.description or "",
        tactics=tuple(phase.phase_name for phase in item.kill_chain_phases),
        platforms=tuple(item.x_mitre_platforms),
        url=url,
        live=_live(item),
    )


def _links(
    links: Iterable[_StixObject],
    kind: str,
    sources: Mapping[str, object] | None,
    targets: Mapping[str, object],
) -> tuple[ReleasedLink, ...]:
    return tuple(
        ReleasedLink(link.source_ref, link.target_ref, link.description or "")
        for link in links
        if link.relationship_type == kind
        and link.target_ref in targets
        and (sources is None or link.source_ref in sources)
    )


def _analytics(
    by_type: Mapping[str, list[_StixObject]], links: Iterable[_StixObject], version: str
) -> dict[str, tuple[Analytic, ...]]:
    """Analytics per technique, through the detection strategies that detect it (ATT&CK v18 and later)."""
    analytics = {item.id: item for item in by_type.get("x-mitre-analytic", ()) if _live(item)}
    strategies = {item.id: item for item in by_type.get("x-mitre-detection-strategy", ()) if _live(item)}
    found: dict[str, list[Analytic]] = {}
    for link in links:
        strategy = strategies.get(link.source_ref)
        if link.relationship_type != "detects" or strategy is None:
            continue
        for reference in strategy.x_mitre_analytic_refs:
            item = analytics.get(reference)
            if item is not None:
                found.setdefault(link.target_ref, []).append(
                    Analytic(
                        id=_attack_id(item),
                        name=strategy.name,
                        text=one_line(item.description or ""),
                        log_sources=log_source_names(item.x_mitre_log_source_references),
                        platforms=tuple(item.x_mitre_platforms),
                        source_version=version,
                    )
                )
    return {target: tuple(sorted(items, key=lambda item: item.id)) for target, items in found.items()}
