"""One advisory at a time: the deterministic part on a thread, then one question to a language model, guarded.

This file knows nothing of queues or stores; serve.advisor drives it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from advise.advisory import validate
from advise.brief import IncidentBrief
from advise.candidates import RETRIEVED_PER_QUERY, Query, map_techniques, queries_for
from advise.guard import Plan, Rejected, review
from advise.knowledge import Corpus, Hit, Playbook, corpus_digest
from advise.merge import fall_back, merge
from advise.prompt import CONTEXT_TOKENS, Question, ask
from advise.select import Selection, select_evidence
from advise.template import Sources, write_advisory
from serve.llm import BackendUnavailable, LLMBackend

_log = structlog.get_logger(__name__)

PLAYBOOKS = 3
_CACHED_QUERIES = 2048


class Retriever(Protocol):
    """Finds techniques for texts, best first, and playbooks for techniques. Called on a thread; may raise."""

    def retrieve(self, queries: Sequence[str], k: int = 10, platforms: Sequence[str] = ()) -> Sequence[Hit]: ...
    def playbooks_for(self, techniques: Sequence[str], k: int = 3) -> Sequence[Playbook]: ...


class NoEvidence(ValueError):
    """An incident without a single record cannot be advised on: nothing could be cited."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The template advisory and the question to a model about it; None when nothing of it may be asked."""

    brief: IncidentBrief
    advisory: dict[str, Any]
    question: Question | None


class Adviser:
    """`delimiter` gives a new random text for each prompt; `retriever` is None where there is none.

    `remarks` are sentences that every advisory carries, such as those on a degraded corpus.
    """

    def __init__(
        self,
        corpus: Corpus,
        retriever: Retriever | None,
        backend: LLMBackend,
        *,
        delimiter: Callable[[], str],
        remarks: Sequence[str] = (),
        retrieval_deadline_s: float = 3.0,
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        self._corpus = corpus
        self._digest = corpus_digest(corpus)
        self._retriever = retriever
        self._backend = backend
        self._delimiter = delimiter
        self._remarks = tuple(remarks)
        self._retrieval_deadline_s = retrieval_deadline_s
        self._context_tokens = context_tokens
        self._hits: OrderedDict[tuple[str, tuple[str, ...]], Sequence[Hit]] = OrderedDict()

    async def draft(self, brief: IncidentBrief, fallback_reason: str) -> Draft:
        """The deterministic advisory, valid by the public schema. Raises NoEvidence.

        Retrieval that fails or takes too long costs its suggestions, never the advisory; the advisory says so.
        """
        if not brief.evidence:
            raise NoEvidence(f"incident {brief.incident_id or brief.title!r} has no record that could be cited")
        selection = await asyncio.to_thread(select_evidence, brief)
        queries = await asyncio.to_thread(queries_for, brief, selection)
        remarks = list(self._remarks)
        found, playbooks = await self._retrieved(brief, queries, remarks)
        return await asyncio.to_thread(self._write, brief, selection, found, playbooks, tuple(remarks), fallback_reason)

    async def ask_model(self, draft: Draft, deadline_s: float, cache_salt: str) -> dict[str, Any]:
        """The advisory after one question to the model: with its sentence, or the template with the reason why not."""
        if draft.question is None:
            return fall_back(draft.advisory, "guard: no record of this incident may be shown to a model")
        question = draft.question
        try:
            async with asyncio.timeout(deadline_s + 1.0):  # a backend that forgets its deadline is cut off
                answer = await self._backend.generate(
                    question.system,
                    question.user,
                    question.schema,
                    question.max_tokens,
                    deadline_s,
                    hashlib.sha256(cache_salt.encode()).hexdigest()[:32],
                )
        except BackendUnavailable as error:
            return fall_back(draft.advisory, str(error))
        except TimeoutError:
            return fall_back(draft.advisory, f"timeout: no answer within {deadline_s:g} s")
        except Exception as error:  # a backend may die in any way: it costs prose, never the advisory
            _log.exception("backend_failed", backend=self._backend.name)
            return fall_back(draft.advisory, f"died: {type(error).__name__}")
        return await asyncio.to_thread(_judged, draft, question, answer.text, answer.model)

    async def _retrieved(
        self, brief: IncidentBrief, queries: Sequence[Query], remarks: list[str]
    ) -> tuple[list[tuple[Query, Sequence[Hit]]], Sequence[Playbook]]:
        if self._retriever is None:
            return [], ()
        try:
            async with asyncio.timeout(self._retrieval_deadline_s):
                found = [(query, await self._found(query.text, brief.platforms)) for query in queries]
                best = [hit.technique_id for _, hits in found for hit in hits[:1]]
                wanted = [*brief.techniques] or best
                playbooks = await asyncio.to_thread(self._retriever.playbooks_for, wanted, PLAYBOOKS)
        except TimeoutError:
            _log.warning("retrieval_timeout", seconds=self._retrieval_deadline_s)
            remarks.append("Retrieval over ATT&CK and the playbooks did not answer in time; only rule tags are shown.")
            return [], ()
        except Exception:  # whatever the index raises: suggestions are lost, the advisory is not
            _log.exception("retrieval_failed")
            remarks.append("Retrieval over ATT&CK and the playbooks failed; only rule tags are shown.")
            return [], ()
        return found, playbooks

    async def _found(self, text: str, platforms: tuple[str, ...]) -> Sequence[Hit]:
        """Rules' titles repeat from incident to incident, so their hits are kept; the corpus never changes here."""
        key = (text, platforms)
        if key not in self._hits:
            assert self._retriever is not None  # noqa: S101 - narrows the type: _retrieved looked
            self._hits[key] = await asyncio.to_thread(self._retriever.retrieve, [text], RETRIEVED_PER_QUERY, platforms)
            if len(self._hits) > _CACHED_QUERIES:
                self._hits.popitem(last=False)
        self._hits.move_to_end(key)
        return self._hits[key]

    def _write(
        self,
        brief: IncidentBrief,
        selection: Selection,
        found: Sequence[tuple[Query, Sequence[Hit]]],
        playbooks: Sequence[Playbook],
        remarks: tuple[str, ...],
        fallback_reason: str,
    ) -> Draft:
        mapping = map_techniques(brief, selection, self._corpus, found)
        sources = Sources(self._corpus, self._digest, playbooks, remarks)
        advisory = write_advisory(brief, selection, mapping, sources, fallback_reason)
        validate(advisory)
        return Draft(brief, advisory, ask(brief, selection, advisory, self._delimiter(), self._context_tokens))


def _judged(draft: Draft, question: Question, text: str, model: str) -> dict[str, Any]:
    verdict = review(text, Plan(draft.brief, question, draft.advisory))
    if isinstance(verdict, Rejected):
        _log.info("answer_rejected", incident=draft.brief.incident_id, model=model, reasons=verdict.reasons)
        return fall_back(draft.advisory, verdict.summary)
    merged = merge(draft.advisory, verdict, model)
    validate(merged)
    return merged
