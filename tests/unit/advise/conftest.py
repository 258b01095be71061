"""The real corpus and playbooks, loaded once; drafts of incidents as the service makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from advise.brief import brief_from_detail
from advise.candidates import map_techniques, queries_for
from advise.guard import Plan
from advise.knowledge import corpus_digest
from advise.prompt import ask
from advise.select import select_evidence
from advise.template import Sources, write_advisory
from rag_corpus.attack import AttackCorpus
from rag_corpus.corpus import load_attack_corpus

DELIMITER = "7f3a91c2"
PlanFor = Callable[[dict[str, Any]], Plan]


@cache
def real_sources() -> Sources:
    """The installed ATT&CK corpus without playbooks."""
    corpus = load_attack_corpus()
    return Sources(corpus, corpus_digest(corpus))


@pytest.fixture(scope="session")
def corpus() -> AttackCorpus:
    return load_attack_corpus()


@pytest.fixture(scope="session")
def sources() -> Sources:
    return real_sources()


@pytest.fixture(scope="session")
def plan_for(sources: Sources) -> PlanFor:
    """From an incident of the API to the question about it, with rule tags only."""

    def build(incident: dict[str, Any]) -> Plan:
        brief = brief_from_detail(incident)
        selection = select_evidence(brief)
        found = [(query, ()) for query in queries_for(brief, selection)]
        mapping = map_techniques(brief, selection, sources.corpus, found)
        advisory = write_advisory(brief, selection, mapping, sources, "pending: the model is being asked")
        question = ask(brief, selection, advisory, DELIMITER)
        assert question is not None
        return Plan(brief, question, advisory)

    return build
