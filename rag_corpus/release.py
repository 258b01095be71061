"""One ATT&CK release as read from any source, before it is joined: STIX ids are the keys that all sources share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rag_corpus.attack import Analytic


@dataclass(frozen=True, slots=True)
class ReleasedTechnique:
    """A technique as published, live or not. Texts still carry their markup."""

    stix_id: str
    id: str
    name: str
    description: str
    tactics: tuple[str, ...]
    platforms: tuple[str, ...]
    url: str
    live: bool


@dataclass(frozen=True, slots=True)
class ReleasedMitigation:
    """A live course of action."""

    stix_id: str
    id: str
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class ReleasedLink:
    """A described relationship from a mitigation, or from software or a group, to a technique."""

    source: str
    target: str
    description: str


@dataclass(frozen=True, slots=True)
class AttackRelease:
    """Everything the corpus takes from one source. Mappings are keyed by STIX id; `analytics` by the technique's."""

    version: str
    techniques: Mapping[str, ReleasedTechnique]
    mitigations: Mapping[str, ReleasedMitigation]
    mitigates: tuple[ReleasedLink, ...]
    procedures: tuple[ReleasedLink, ...]
    revoked_by: Mapping[str, str]
    analytics: Mapping[str, tuple[Analytic, ...]]
