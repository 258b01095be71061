"""The advisor as a service: works through the queue of incidents, and answers callers with incidents of their own.

The deterministic advisory is stored at once. A model is asked afterwards, one question at a time and only about the
newest revision; whatever it does costs or adds prose, nothing else. Plain class: its clock, store and backend are
arguments, serve/app.py wires it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from advise.brief import brief_from_caller, brief_from_detail
from advise.merge import fall_back
from advise.template import TEMPLATE
from detect.event import severity_rank
from detect.record import TenantId
from serve.advice import Adviser, Draft
from serve.advisor_store import AdvisoryStore
from serve.llm import EngineState, LLMBackend
from store.advisories import AdvisoryWork
from store.postgres import StorageUnavailable

_log = structlog.get_logger(__name__)

LLM_OFF = "llm_off"
_Key = tuple[TenantId, UUID]


@dataclass(frozen=True, slots=True)
class AdvisorSettings:
    """Times in seconds. `llm_queue` bounds the questions that wait; the oldest gives way and keeps its template."""

    poll_s: float = 0.5
    batch: int = 20
    llm_deadline_s: float = 60.0
    llm_queue: int = 256
    retrieval_patience: int = 3
    wait_for_llm_s: float = 15.0
    llm_patience: int = 20
    backoff_s: float = 5.0
    backoff_limit_s: float = 600.0
    settled: int = 10_000


class AdvisorService:
    """`run` works until it is cancelled; `analyze` and `status` may be called at any time beside it."""

    def __init__(
        self,
        store: AdvisoryStore,
        adviser: Adviser,
        backend: LLMBackend,
        clock: Callable[[], datetime],
        settings: AdvisorSettings | None = None,
    ) -> None:
        self._store = store
        self._adviser = adviser
        self._backend = backend
        self._clock = clock
        self._settings = settings or AdvisorSettings()
        self._one_question = asyncio.Semaphore(1)
        self._questions: OrderedDict[_Key, tuple[AdvisoryWork, Draft]] = OrderedDict()
        self._asked = asyncio.Event()
        self._asking: dict[_Key, int] = {}
        self._written: OrderedDict[_Key, int] = OrderedDict()
        self._counts = {"written": 0, "unchanged": 0, "prose_accepted": 0, "prose_rejected": 0, "failed": 0}

    async def status(self) -> dict[str, Any]:
        """What the advisor and its model are doing, for the API's status page."""
        state = await self._backend.state()
        return {
            "ready": True,
            "state": "ready",
            "llm": {"state": state.state, "detail": state.detail, "model": state.model},
            "waiting_for_llm": len(self._questions),
            "counts": dict(self._counts),
        }

    async def analyze(self, incident: Any, wait_for_llm_s: float = 0.0, cache_salt: str = "caller") -> dict[str, Any]:
        """An advisory for a caller's own incident; nothing is stored.

        With `wait_for_llm_s` above 0 a ready model is asked and waited for that long at most. Raises
        advise.brief.InvalidIncident and serve.advice.NoEvidence, both the caller's to mend.
        """
        brief = await asyncio.to_thread(brief_from_caller, incident)
        state = await self._backend.state()
        draft = await self._adviser.draft(brief, _why_not_now(state) or "not asked: the caller did not wait for it")
        if wait_for_llm_s <= 0 or state.state != "ready":
            return draft.advisory
        try:
            async with asyncio.timeout(wait_for_llm_s), self._one_question:
                return await self._adviser.ask_model(draft, wait_for_llm_s, cache_salt)
        except TimeoutError:
            return fall_back(draft.advisory, f"timeout: no answer within {wait_for_llm_s:g} s")

    async def run(self) -> None:
        """Works through the queue until cancelled. A store that is away is waited for."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_forever())
            tasks.create_task(self._ask_forever())

    async def run_once(self) -> int:
        """Writes the advisories that are due now, without asking a model; how many pieces of work there were."""
        due = await self._store.due(self._clock(), self._settings.batch)
        for work in due:
            await self._advise(work)
        return len(due)

    async def ask_once(self) -> bool:
        """Asks the model about the most severe incident that waits, of equals the one that waits longest; False when
        none waits."""
        if not self._questions:
            return False
        key = max(self._questions, key=lambda waiting: severity_rank(self._questions[waiting][1].advisory["severity"]))
        work, draft = self._questions.pop(key)
        self._asking[key] = work.revision
        try:
            async with self._one_question:
                body = await self._adviser.ask_model(draft, self._settings.llm_deadline_s, str(work.tenant))
            await self._conclude(work, body)
        except StorageUnavailable as error:
            _log.warning("store_unavailable", incident=str(work.incident_id), reason=error.reason)
        except Exception as error:  # one poisoned incident must not stop the others
            await self._put_off(work, error)
        finally:
            self._asking.clear()
        return True

    async def _write_forever(self) -> None:
        while True:
            try:
                worked = await self.run_once()
            except StorageUnavailable as error:
                _log.warning("store_unavailable", reason=error.reason)
                await asyncio.sleep(error.retry_after_s)
                continue
            if not worked:
                await asyncio.sleep(self._settings.poll_s)

    async def _ask_forever(self) -> None:
        while True:
            if not await self.ask_once():
                self._asked.clear()
                await self._asked.wait()

    async def _advise(self, work: AdvisoryWork) -> None:
        try:
            await self._write(work)
        except StorageUnavailable as error:
            _log.warning("store_unavailable", incident=str(work.incident_id), reason=error.reason)
        except Exception as error:  # one poisoned incident must not stop the others
            await self._put_off(work, error)

    async def _write(self, work: AdvisoryWork) -> None:
        """Stores the template unless it is stored already, then decides what becomes of the question to the model."""
        key = (work.tenant, work.incident_id)
        if work.revision in {self._waiting(key), self._asking.get(key)}:
            return  # its question is under way; the lease only ran out
        state = await self._backend.state()
        waiting = _why_not_now(state)
        if self._written.get(key) == work.revision and waiting and waiting != LLM_OFF:
            await self._wait_for_llm(work, waiting)
            return
        detail = await self._store.detail(work.tenant, work.incident_id)
        if detail is None:
            await self._store.finish(work.tenant, work.incident_id, work.revision)
            return
        draft = await self._adviser.draft(brief_from_detail(detail), waiting or "pending: the model is being asked")
        latest = await self._store.latest(work.tenant, work.incident_id)
        if latest is None or _is_news(draft.advisory, latest.body):
            await self._save(work, draft.advisory)
        if not draft.complete and work.attempts <= self._settings.retrieval_patience:
            await self._again_soon(work)
            return
        self._remember(key, work.revision)
        if waiting is None:
            self._enqueue(key, work, draft)
        elif waiting == LLM_OFF:
            await self._store.finish(work.tenant, work.incident_id, work.revision)
        else:
            await self._wait_for_llm(work, waiting)

    async def _conclude(self, work: AdvisoryWork, body: dict[str, Any]) -> None:
        """Stores what came of the question, unless a newer revision has overtaken it."""
        accepted = body["fallback_reason"] is None
        self._counts["prose_accepted" if accepted else "prose_rejected"] += 1
        if not accepted:
            _log.info("prose_not_used", incident=str(work.incident_id), reason=body["fallback_reason"])
        detail = await self._store.detail(work.tenant, work.incident_id)
        if detail is not None and detail["revision"] == body["revision"]:
            await self._save(work, body)
            await self._store.finish(work.tenant, work.incident_id, work.revision)

    async def _save(self, work: AdvisoryWork, body: dict[str, Any]) -> None:
        """The next version, unless it says what the newest one says."""
        latest = await self._store.latest(work.tenant, work.incident_id)
        if latest is not None and _said(latest.body) == _said(body):
            self._counts["unchanged"] += 1
            return
        await self._store.save(
            work.tenant,
            work.incident_id,
            work.revision,
            generator=body["generator"],
            fallback_reason=body["fallback_reason"],
            body=body,
        )
        self._counts["written"] += 1

    async def _again_soon(self, work: AdvisoryWork) -> None:
        """Retrieval goes on by itself meanwhile; the next look finds its hits."""
        until = self._clock() + timedelta(seconds=self._settings.poll_s)
        await self._store.postpone(
            work.tenant, work.incident_id, work.revision, until=until, error="pending: retrieval is slow"
        )

    async def _wait_for_llm(self, work: AdvisoryWork, reason: str) -> None:
        """The incident comes back later and later; after `llm_patience` leases its template is final."""
        if work.attempts > self._settings.llm_patience:
            await self._store.finish(work.tenant, work.incident_id, work.revision)
            return
        until = self._clock() + timedelta(seconds=self._settings.wait_for_llm_s * work.attempts)
        await self._store.postpone(work.tenant, work.incident_id, work.revision, until=until, error=reason)

    async def _put_off(self, work: AdvisoryWork, error: Exception) -> None:
        """Counts and names a failure; the incident comes back after a time that doubles with each attempt."""
        self._counts["failed"] += 1
        _log.exception("advisory_failed", incident=str(work.incident_id), attempts=work.attempts)
        wait = min(self._settings.backoff_s * 2 ** min(work.attempts - 1, 20), self._settings.backoff_limit_s)
        until = self._clock() + timedelta(seconds=wait)
        reason = f"{type(error).__name__}: {error}"[:500]
        try:
            await self._store.postpone(work.tenant, work.incident_id, work.revision, until=until, error=reason)
        except StorageUnavailable as away:
            _log.warning("store_unavailable", incident=str(work.incident_id), reason=away.reason)

    def _waiting(self, key: _Key) -> int | None:
        """The revision whose question waits, None when none does."""
        return self._questions[key][0].revision if key in self._questions else None

    def _enqueue(self, key: _Key, work: AdvisoryWork, draft: Draft) -> None:
        self._questions.pop(key, None)
        self._questions[key] = (work, draft)
        while len(self._questions) > self._settings.llm_queue:
            self._questions.popitem(last=False)
        self._asked.set()

    def _remember(self, key: _Key, revision: int) -> None:
        self._written[key] = revision
        self._written.move_to_end(key)
        if len(self._written) > self._settings.settled:
            self._written.popitem(last=False)


def _why_not_now(state: EngineState) -> str | None:
    """Why the model cannot be asked now; None when it can."""
    if state.state == "ready":
        return None
    if state.state == "off":
        return LLM_OFF
    if state.state == "failed":
        return f"unavailable: {state.detail}"
    return f"pending: the model is {state.state}"


def _said(body: dict[str, Any]) -> dict[str, Any]:
    """An advisory without its revision: a new revision that says the same is not worth a version."""
    return {key: value for key, value in body.items() if key != "revision"}


def _is_news(template: dict[str, Any], newest: dict[str, Any]) -> bool:
    """Whether a template must be stored over the newest version: not over prose about the same facts, and not merely
    to say once more that the model's answer is awaited."""
    if _facts(template) != _facts(newest):
        return True
    return newest["generator"] == TEMPLATE and not str(template["fallback_reason"]).startswith("pending")


def _facts(body: dict[str, Any]) -> dict[str, Any]:
    """The part of an advisory that no model can touch."""
    kept = ("title", "severity", "timeline", "evidence", "next_checks", "confidence", "corpus")
    return {key: body[key] for key in kept} | {
        "techniques": [(item["id"], item["confidence"], item["why"]) for item in body["techniques"]],
        "actions": [item["id"] for item in body["actions"]],
    }
