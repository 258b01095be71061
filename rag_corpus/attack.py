"""What the rest of the house sees of MITRE ATT&CK: techniques with their mitigations and analytics, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ATTACK_NOTICE = (
    "© 2025 The MITRE Corporation. This work is reproduced and distributed with the permission of The MITRE "
    "Corporation. MITRE ATT&CK® and ATT&CK® are registered trademarks of The MITRE Corporation.\n"
    "The MITRE Corporation (MITRE) hereby grants you a non-exclusive, royalty-free license to use ATT&CK® for "
    "research, development, and commercial purposes. Any copy you make for such purposes is authorized provided that "
    "you reproduce MITRE's copyright designation and this license in any such copy.\n"
    "Terms: https://attack.mitre.org/resources/terms-of-use/. Technique texts are shortened for display: citation "
    "marks and link targets are left out."
)


class CorpusError(Exception):
    """The ATT&CK data cannot be used: where it was read from and what is wrong is in the message."""


@dataclass(frozen=True, slots=True)
class Mitigation:
    """A countermeasure of one technique. `text` says how it applies to that technique (plain text, may be empty)."""

    id: str
    name: str
    text: str
    source_version: str = ""


@dataclass(frozen=True, slots=True)
class Analytic:
    """How to detect one technique on some platforms. `name` is its detection strategy's; `log_sources` where to look,
    each `source: channel`."""

    id: str
    name: str
    text: str
    log_sources: tuple[str, ...]
    platforms: tuple[str, ...] = ()
    source_version: str = ""


@dataclass(frozen=True, slots=True)
class Technique:
    """A live technique or sub-technique. `description` is whole sentences of `source_version`'s text, paragraphs kept;
    `tactics` are short names in kill-chain order."""

    id: str
    name: str
    tactics: tuple[str, ...]
    platforms: tuple[str, ...]
    description: str
    url: str
    source_version: str
    mitigations: tuple[Mitigation, ...]
    analytics: tuple[Analytic, ...]


@dataclass(frozen=True, slots=True)
class AttackCorpus:
    """All live techniques by id.

    `procedures` holds sentences from threat reports per technique, the retriever's training text. `degraded` names
    what is missing (a package that is not installed) in sentences for an operator; empty when all is there.
    """

    version: str
    notice: str
    techniques: Mapping[str, Technique]
    aliases: Mapping[str, str] = field(default_factory=dict)
    procedures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()

    def current_id(self, technique_id: str) -> str | None:
        """The live id that `technique_id` (any case) has today, following revocations; None when unknown."""
        wanted = technique_id.strip().upper()
        if wanted in self.techniques:
            return wanted
        return self.aliases.get(wanted)
