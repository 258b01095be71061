"""A small corpus and a fast embedder, so that the whole path from texts to hits runs in milliseconds."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from rag_corpus.attack import ATTACK_NOTICE, Analytic, AttackCorpus, Technique
from rag_corpus.corpus import load_attack_corpus
from rag_corpus.embedder import Vectors, normalised
from rag_corpus.sparse import tokens


class WordHashEmbedder:
    """Sums a fixed pseudo-random vector a word: similar words, similar vectors. Counts the texts it was given."""

    name = "word-hash"
    dimension = 64

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded.extend(texts)
        rows = [self._sum(text) for text in texts]
        return normalised(np.stack(rows)) if rows else np.zeros((0, self.dimension), dtype=np.float32)

    def _sum(self, text: str) -> Vectors:
        total = np.zeros(self.dimension, dtype=np.float32)
        for word in tokens(text):
            total += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dimension)
        return total


def _technique(identity: str, name: str, description: str, platforms: tuple[str, ...]) -> Technique:
    analytic = Analytic(f"AN{identity[1:5]}", name, f"Detects {description.lower()}", ("auditd: execve",), platforms)
    return Technique(identity, name, ("persistence",), platforms, description, "", "18.1", (), (analytic,))


SMALL = {
    technique.id: technique
    for technique in (
        _technique("T1053", "Scheduled Task", "Abuse of task scheduling for persistence.", ("Linux", "Windows")),
        _technique("T1053.003", "Cron", "Abuse of the cron utility through crontab files.", ("Linux",)),
        _technique("T1053.005", "Scheduled Task", "Abuse of the Windows task scheduler schtasks.", ("Windows",)),
        _technique("T1110.001", "Password Guessing", "Guessing passwords of accounts over SSH.", ("Linux",)),
        _technique("T1505.003", "Web Shell", "Backdoor script on a web server.", ("Linux", "Windows")),
        _technique("T1486", "Data Encrypted for Impact", "Ransomware encrypts files for money.", ("Windows",)),
    )
}
PROCEDURES = {
    "T1053.003": ("Rocke installed a cron job that downloaded files.", "Skidmap wrote crontab entries to return."),
    "T1110.001": ("Emotet guessed passwords with a list of common ones.",),
    "T1486": ("Conti encrypts files with a separate key for each one.",),
}


@pytest.fixture(scope="session")
def attack_corpus() -> AttackCorpus:
    """The installed packages' corpus."""
    return load_attack_corpus()


@pytest.fixture
def embedder() -> WordHashEmbedder:
    return WordHashEmbedder()


@pytest.fixture
def small_corpus() -> AttackCorpus:
    return AttackCorpus("18.1", ATTACK_NOTICE, SMALL, {"T1168": "T1053.003"}, PROCEDURES)
