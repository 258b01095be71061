"""What of the corpus is embedded and what is searched by keyword: short texts, chosen to give the most per second.

Measured on sentences of threat reports and on rule titles: one opening passage finds as much as all windows of a
description once it is fused with the rest; the shortest procedure sentences teach the ridge head as much as random
ones for half the tokens; whole documents cost nothing on the keyword side and help it most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rag_corpus.attack import AttackCorpus, Technique
from rag_corpus.attack_text import sentences
from rag_corpus.embedder import text_key

DESCRIPTION, ANALYTICS, PROCEDURES = "description", "analytics", "procedures"


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """How much is embedded for each technique. The defaults make about 200,000 tokens of ATT&CK v18.1."""

    description_characters: int = 300
    analytics: int = 2
    procedures: int = 16
    shortest_procedure: int = 40


DEFAULT_LIMITS = ChunkLimits()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A text to embed. `key` is a technique id, `id` stands for the text and nothing else."""

    kind: str
    key: str
    text: str

    @property
    def id(self) -> str:
        return text_key(self.text)


def technique_chunks(corpus: AttackCorpus, limits: ChunkLimits) -> Iterator[Chunk]:
    """Texts to embed, by technique: the opening of its description, analytics, procedure sentences."""
    for technique in corpus.techniques.values():
        yield Chunk(DESCRIPTION, technique.id, opening(technique, limits.description_characters))
        for text in _analytic_texts(technique)[: limits.analytics]:
            yield Chunk(ANALYTICS, technique.id, text)
        for text in chosen_procedures(corpus.procedures.get(technique.id, ()), limits):
            yield Chunk(PROCEDURES, technique.id, text)


def chosen_procedures(procedures: Sequence[str], limits: ChunkLimits) -> list[str]:
    """The shortest sentences that still say something, then the next ones."""
    order = sorted(procedures, key=lambda text: (len(text) < limits.shortest_procedure, len(text), text))
    return order[: limits.procedures]


def opening(technique: Technique, characters: int) -> str:
    """Name and first sentences, as many as fit into `characters`, at least one."""
    text = ""
    for sentence in sentences(" ".join(technique.description.split())):
        if text and len(text) + len(sentence) > characters:
            break
        text = f"{text} {sentence}".strip()
    return f"{technique.name}: {text}" if text else technique.name


def technique_document(corpus: AttackCorpus, technique: Technique) -> str:
    """Everything known of a technique as one document for keyword search; the name counts twice."""
    parts = [technique.name, technique.name, technique.description]
    for analytic in technique.analytics:
        parts += [analytic.text, *analytic.log_sources]
    parts += corpus.procedures.get(technique.id, ())
    return "\n".join(parts)


def _analytic_texts(technique: Technique) -> list[str]:
    """Analytics for servers first: that is where this system's evidence comes from."""
    servers = ("Linux", "Windows")
    ordered = sorted(technique.analytics, key=lambda analytic: not any(name in servers for name in analytic.platforms))
    return list(dict.fromkeys(analytic.text for analytic in ordered if analytic.text))
