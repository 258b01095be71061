"""What the advisor needs to know about the world, as shapes: ATT&CK, retrieval hits and playbooks are passed in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol


class Mitigation(Protocol):
    """A countermeasure as the corpus holds it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...


class Analytic(Protocol):
    """A way to detect a technique as the corpus holds it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def log_sources(self) -> tuple[str, ...]: ...
    @property
    def platforms(self) -> tuple[str, ...]: ...


class Technique(Protocol):
    """A live ATT&CK technique as the corpus holds it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def tactics(self) -> tuple[str, ...]: ...
    @property
    def platforms(self) -> tuple[str, ...]: ...
    @property
    def url(self) -> str: ...
    @property
    def source_version(self) -> str: ...
    @property
    def mitigations(self) -> Sequence[Mitigation]: ...
    @property
    def analytics(self) -> Sequence[Analytic]: ...


class Corpus(Protocol):
    """ATT&CK: `version` of the release, `notice` to show beside its text, live techniques by id."""

    @property
    def version(self) -> str: ...
    @property
    def notice(self) -> str: ...
    @property
    def techniques(self) -> Mapping[str, Technique]: ...
    def current_id(self, technique_id: str, /) -> str | None: ...


class Hit(Protocol):
    """One technique that retrieval found; hits come best first."""

    @property
    def technique_id(self) -> str: ...
    @property
    def score(self) -> float: ...


class PlaybookStep(Protocol):
    """One thing a responder does. `disruptive`: it stops, blocks or changes something that may be in use."""

    @property
    def id(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def disruptive(self) -> bool: ...


class Playbook(Protocol):
    """Our own answer to some techniques, as steps in order."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def techniques(self) -> Sequence[str]: ...
    @property
    def steps(self) -> Sequence[PlaybookStep]: ...


def corpus_digest(corpus: Corpus) -> str:
    """SHA-256 in hex over all that an advisory may quote of the corpus, so that it can be told which text was used."""
    whole = hashlib.sha256(corpus.version.encode())
    for key in sorted(corpus.techniques):
        item = corpus.techniques[key]
        parts = [item.id, item.name, *item.tactics, item.source_version, item.url]
        parts += [part for measure in item.mitigations for part in (measure.id, measure.name, measure.text)]
        parts += [part for check in item.analytics for part in (check.id, check.name, check.text, *check.log_sources)]
        whole.update("\x1f".join(parts).encode("utf-8", "replace") + b"\x1e")
    return whole.hexdigest()
