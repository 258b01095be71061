"""One advisory at a time: the deterministic part on a thread, then one question to a language model, guarded.

This file knows nothing of queues or stores; serve.advisor drives it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from advise.advisory import validate
from advise.brief import IncidentBrief
from advise.candidates import RETRIEVED_PER_QUERY, Query, map_techniques, queries_for
from advise.guard import Plan, Rejected, review
from advise.knowledge import Corpus, Hit, Playbook, corpus_digest
from advise.merge import fall_back, merge
from advise.prompt import CONTEXT_TOKENS, Question, ask
from advise.select import select_evidence
from advise.template import Sources, write_advisory
from serve.llm import BackendUnavailable, LLMBackend

_log = structlog.get_logger(__name__)

PLAYBOOKS = 3
_CACHED_QUERIES = 2048
_QueryKey = tuple[str, tuple[str, ...]]
Result = TypeVar("Result")


class Retriever(Protocol):
    """Finds techniques for texts, best first, and playbooks for techniques. Called on one thread; may raise."""

    def retrieve(self, queries: Sequence[str], k: int = 10, platforms: Sequence[str] = ()) -> Sequence[Hit]: ...
    def playbooks_for(self, techniques: Sequence[str], k: int = 3) -> Sequence[Playbook]: ...


class NoEvidence(ValueError):
    """An incident without a single record cannot be advised on: nothing could be cited."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The template advisory and the question to a model about it; None when nothing of it may be asked.

    `complete` is False when retrieval was too slow; its hits are kept when they come, so a later draft is complete.
    """

    brief: IncidentBrief
    advisory: dict[str, Any]
    question: Question | None
    complete: bool = True


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
        retrieval_deadline_s: float = 0.6,
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
        self._hits: OrderedDict[_QueryKey, Sequence[Hit]] = OrderedDict()
        self._searches: dict[_QueryKey, asyncio.Task[Sequence[Hit]]] = {}
        self._searcher = ThreadPoolExecutor(1, thread_name_prefix="retriever")

    async def prewarm(self, texts: Sequence[str], platforms: Iterable[tuple[str, ...]]) -> None:
        """Asks the retriever ahead, such as about a rule pack (candidates.query_text), so that none waits later."""
        pairs = [(text, wanted) for wanted in platforms for text in texts]
        if self._retriever is not None:
            for text, wanted in pairs:
                await self._found(self._retriever, text, wanted)

    def close(self) -> None:
        """Lets go of the retriever's thread; searches that have not begun are dropped."""
        self._searcher.shutdown(wait=False, cancel_futures=True)

    async def draft(self, brief: IncidentBrief, fallback_reason: str) -> Draft:
        """The deterministic advisory, valid by the public schema. Raises NoEvidence.

        Retrieval that fails or takes too long costs its suggestions, never the advisory; the advisory says so.
        """
        if not brief.evidence:
            raise NoEvidence(f"incident {brief.incident_id or brief.title!r} has no record that could be cited")
        selection = await asyncio.to_thread(select_evidence, brief)
        queries = await asyncio.to_thread(queries_for, brief, selection)
        remarks = list(self._remarks)
        found, playbooks, complete = await self._retrieved(brief, queries, remarks)
        mapping = await asyncio.to_thread(map_techniques, brief, selection, self._corpus, found)
        sources = Sources(self._corpus, self._digest, playbooks, tuple(remarks))
        advisory = await asyncio.to_thread(write_advisory, brief, selection, mapping, sources, fallback_reason)
        await asyncio.to_thread(validate, advisory)
        question = await asyncio.to_thread(ask, brief, selection, advisory, self._delimiter(), self._context_tokens)
        return Draft(brief, advisory, question, complete)

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
    ) -> tuple[list[tuple[Query, Sequence[Hit]]], Sequence[Playbook], bool]:
        retriever = self._retriever
        if retriever is None:
            return [], (), True
        try:
            async with asyncio.timeout(self._retrieval_deadline_s):
                hits = await asyncio.gather(*(self._found(retriever, query.text, brief.platforms) for query in queries))
                wanted = [*brief.techniques] or [hit.technique_id for best in hits for hit in best[:1]]
                playbooks = await self._searched(retriever.playbooks_for, wanted, PLAYBOOKS)
        except TimeoutError:
            _log.info("retrieval_slow", incident=brief.incident_id, seconds=self._retrieval_deadline_s)
            remarks.append("Retrieval over ATT&CK and the playbooks did not answer in time; only rule tags are shown.")
            return [], (), False
        except Exception:  # whatever the index raises: suggestions are lost, the advisory is not
            _log.exception("retrieval_failed", incident=brief.incident_id)
            remarks.append("Retrieval over ATT&CK and the playbooks failed; only rule tags are shown.")
            return [], (), True
        return list(zip(queries, hits, strict=True)), playbooks, True

    async def _found(self, retriever: Retriever, text: str, platforms: tuple[str, ...]) -> Sequence[Hit]:
        """Rules' titles repeat from incident to incident, so their hits are kept; the corpus never changes here.

        A search that outlives its caller's patience goes on and is kept all the same.
        """
        key = (text, platforms)
        if key in self._hits:
            self._hits.move_to_end(key)
            return self._hits[key]
        if key not in self._searches:
            search = self._searched(retriever.retrieve, [text], RETRIEVED_PER_QUERY, platforms)
            self._searches[key] = asyncio.create_task(self._kept(key, search))
            self._searches[key].add_done_callback(_noticed)
        return await asyncio.shield(self._searches[key])

    async def _kept(self, key: _QueryKey, search: Awaitable[Sequence[Hit]]) -> Sequence[Hit]:
        try:
            self._hits[key] = await search
        finally:
            del self._searches[key]
        if len(self._hits) > _CACHED_QUERIES:
            self._hits.popitem(last=False)
        return self._hits[key]

    async def _searched(self, search: Callable[..., Result], *arguments: Any) -> Result:
        """One search at a time: embedding and index use the cores better so, and need not be safe for threads."""
        return await asyncio.get_running_loop().run_in_executor(self._searcher, search, *arguments)


def _noticed(search: asyncio.Task[Sequence[Hit]]) -> None:
    """A search that fails after its callers have left is logged here, not lost."""
    if not search.cancelled() and (error := search.exception()) is not None:
        _log.warning("search_failed", error=f"{type(error).__name__}: {error}")


def _judged(draft: Draft, question: Question, text: str, model: str) -> dict[str, Any]:
    verdict = review(text, Plan(draft.brief, question, draft.advisory))
    if isinstance(verdict, Rejected):
        _log.info("answer_rejected", incident=draft.brief.incident_id, model=model, reasons=verdict.reasons)
        return fall_back(draft.advisory, verdict.summary)
    merged = merge(draft.advisory, verdict, model)
    validate(merged)
    return merged
