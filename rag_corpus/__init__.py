"""The advisor's library: MITRE ATT&CK and our own playbooks, and finding in them what an incident is about."""

from rag_corpus.attack import Analytic, AttackCorpus, CorpusError, Mitigation, Technique
from rag_corpus.chunks import ChunkLimits
from rag_corpus.corpus import load_attack_corpus
from rag_corpus.embedder import Embedder, EmbedderError, MiniLmEmbedder
from rag_corpus.index import IndexReport, build_index
from rag_corpus.playbook import Playbook, PlaybookError, PlaybookStep, load_playbooks
from rag_corpus.retriever import Retriever, TechniqueHit
from rag_corpus.vector_index import VectorIndex

__all__ = [
    "Analytic",
    "AttackCorpus",
    "ChunkLimits",
    "CorpusError",
    "Embedder",
    "EmbedderError",
    "IndexReport",
    "MiniLmEmbedder",
    "Mitigation",
    "Playbook",
    "PlaybookError",
    "PlaybookStep",
    "Retriever",
    "Technique",
    "TechniqueHit",
    "VectorIndex",
    "build_index",
    "load_attack_corpus",
    "load_playbooks",
]
