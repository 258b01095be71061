"""The advisor's service: a template at once, prose when it is earned, and nothing that a model or a store can break."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from advise.advisory import validate
from advise.brief import InvalidIncident, brief_from_detail
from advise.candidates import queries_for
from advise.select import select_evidence
from detect.record import TenantId
from rag_corpus.corpus import load_attack_corpus
from serve.advice import Adviser
from serve.advisor import AdvisorService, AdvisorSettings
from tests.contract.advisor.backends import (
    HONEST,
    BrokenBackend,
    DyingBackend,
    HangingBackend,
    ScriptedBackend,
)
from tests.contract.advisor.memory import MemoryAdvisoryStore
from tests.unit.advise.incidents import ssh_incident

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
TENANT = TenantId(uuid4())
INCIDENT = UUID(ssh_incident()["incident_id"])
KEY = (TENANT, INCIDENT)
CORPUS = load_attack_corpus()


class Desk:
    """A service with its store, its backend and a clock that the test moves."""

    def __init__(self, backend: ScriptedBackend, retriever: Any = None, **settings: Any) -> None:
        self.store = MemoryAdvisoryStore(NOW)
        self.backend = backend
        adviser = Adviser(CORPUS, retriever, backend, delimiter=lambda: "d41d8cd9", retrieval_deadline_s=0.2)
        self.service = AdvisorService(
            self.store, adviser, backend, lambda: self.store.now, AdvisorSettings(llm_deadline_s=0.05, **settings)
        )

    async def happens(self, **changes: Any) -> None:
        """A detector stores the incident."""
        await self.store.put(TENANT, ssh_incident() | changes)

    async def settle(self) -> None:
        """Writes what is due and asks what waits."""
        await self.service.run_once()
        while await self.service.ask_once():
            pass

    def said(self) -> list[tuple[str, str | None]]:
        """Generator and reason of every version."""
        return [(item.generator, item.fallback_reason) for item in self.store.versions.get(KEY, [])]

    def later(self, seconds: float) -> None:
        self.store.now += timedelta(seconds=seconds)


async def test_the_template_is_stored_before_any_model_is_asked() -> None:
    desk = Desk(ScriptedBackend())
    await desk.happens()
    assert await desk.service.run_once() == 1
    assert desk.said() == [("template", "pending: the model is being asked")]
    assert desk.backend.users == []
    validate(desk.store.versions[KEY][0].body)


async def test_an_accepted_sentence_becomes_the_next_version_and_the_work_is_done() -> None:
    desk = Desk(ScriptedBackend())
    await desk.happens()
    await desk.settle()
    assert desk.said() == [("template", "pending: the model is being asked"), ("scripted-1", None)]
    newest = desk.store.versions[KEY][-1].body
    validate(newest)
    assert newest["summary"][-1]["text"] == HONEST
    assert desk.store.queue == {}


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (lambda: ScriptedBackend("I am a teapot"), "invalid: schema"),
        (lambda: ScriptedBackend("{}"), "invalid: schema"),
        (DyingBackend, "died: the engine went away"),
        (BrokenBackend, "died: RuntimeError"),
        (HangingBackend, "timeout: no answer within 0.05 s"),
    ],
)
async def test_a_model_that_fails_costs_only_its_prose(backend: Callable[[], ScriptedBackend], reason: str) -> None:
    desk = Desk(backend())
    await desk.happens()
    await desk.settle()
    assert desk.said()[-1] == ("template", reason)
    newest = desk.store.versions[KEY][-1].body
    validate(newest)
    assert [item["text"] for item in newest["timeline"]] and desk.store.queue == {}


async def test_without_a_model_the_template_says_so_and_is_final() -> None:
    desk = Desk(ScriptedBackend(state="off"))
    await desk.happens()
    await desk.settle()
    assert desk.said() == [("template", "llm_off")]
    assert desk.store.queue == {} and desk.backend.users == []


async def test_while_the_model_loads_the_work_waits_and_is_asked_when_it_is_ready() -> None:
    desk = Desk(ScriptedBackend(state="loading"))
    await desk.happens()
    await desk.settle()
    assert desk.said() == [("template", "pending: the model is loading")]
    assert desk.store.queue[KEY].error == "pending: the model is loading"
    desk.later(60)
    await desk.settle()
    assert len(desk.said()) == 1
    desk.backend.now = "ready"
    desk.later(600)
    await desk.settle()
    assert desk.said()[-1] == ("scripted-1", None)


async def test_a_model_that_never_comes_is_not_waited_for_for_ever() -> None:
    desk = Desk(ScriptedBackend(state="failed"), llm_patience=3)
    await desk.happens()
    for _ in range(5):
        await desk.settle()
        desk.later(3600)
    assert desk.said() == [("template", "unavailable: it is failed")]
    assert desk.store.queue == {}


async def test_an_advisory_that_says_the_same_is_not_stored_again() -> None:
    desk = Desk(ScriptedBackend(state="off"))
    await desk.happens()
    await desk.settle()
    await desk.happens(revision=4)
    await desk.settle()
    assert len(desk.said()) == 1
    assert desk.store.queue == {}


async def test_prose_is_not_overwritten_by_the_template_of_the_same_facts() -> None:
    desk = Desk(ScriptedBackend())
    await desk.happens()
    await desk.settle()
    await desk.happens(revision=4)
    await desk.settle()
    assert [generator for generator, _ in desk.said()] == ["template", "scripted-1"]


async def test_only_the_newest_revision_is_asked_about() -> None:
    desk = Desk(ScriptedBackend())
    for revision in (3, 4, 5):
        await desk.happens(revision=revision, severity=("medium", "high", "critical")[revision - 3])
        await desk.service.run_once()
    await desk.settle()
    assert len(desk.backend.users) == 1
    assert [item.revision for item in desk.store.versions[KEY]] == [3, 4, 5, 5]


async def test_the_most_severe_incident_is_asked_about_first_however_many_wait() -> None:
    desk = Desk(ScriptedBackend())
    severities = {uuid4(): severity for severity in ("medium", "high", "medium", "critical", "high")}
    for incident_id, severity in severities.items():
        await desk.store.put(TENANT, ssh_incident() | {"incident_id": str(incident_id), "severity": severity})
    await desk.service.run_once()
    answered: list[UUID] = []
    while await desk.service.ask_once():
        written = [key[1] for key, versions in desk.store.versions.items() if versions[-1].generator != "template"]
        answered += [incident_id for incident_id in written if incident_id not in answered]
    assert [severities[incident_id] for incident_id in answered] == ["critical", "high", "high", "medium", "medium"]


async def test_an_answer_that_a_newer_revision_has_overtaken_is_dropped() -> None:
    desk = Desk(ScriptedBackend())
    await desk.happens()
    await desk.service.run_once()
    await desk.happens(revision=4, severity="critical")
    await desk.service.ask_once()
    assert [generator for generator, _ in desk.said()] == ["template"]
    await desk.settle()
    assert desk.said()[-1] == ("scripted-1", None)
    assert desk.store.versions[KEY][-1].body["severity"] == "critical"


async def test_a_poisoned_incident_is_named_put_off_longer_each_time_and_stops_nobody() -> None:
    desk = Desk(ScriptedBackend(state="off"))
    await desk.store.put(TENANT, ssh_incident() | {"incident_id": str(uuid4()), "severity": "unheard of"})
    await desk.happens()
    await desk.settle()
    assert desk.said() == [("template", "llm_off")]
    (poisoned,) = desk.store.queue.values()
    assert poisoned.error is not None and "unheard of" in poisoned.error
    first = poisoned.not_before - desk.store.now
    desk.later(3600)
    await desk.settle()
    assert poisoned.not_before - desk.store.now == 2 * first
    assert poisoned.work.attempts == 2


async def test_an_incident_without_records_is_named() -> None:
    desk = Desk(ScriptedBackend(state="off"))
    await desk.happens(timeline=[])
    await desk.settle()
    assert (desk.store.queue[KEY].error or "").startswith("NoEvidence: ")


async def test_an_incident_that_is_gone_leaves_the_queue() -> None:
    desk = Desk(ScriptedBackend(state="off"))
    await desk.happens()
    desk.store.incidents.clear()
    await desk.settle()
    assert desk.store.queue == {} and desk.said() == []


async def test_the_loop_outlives_a_store_that_is_away_and_stops_when_cancelled() -> None:
    desk = Desk(ScriptedBackend(), poll_s=0.01)
    desk.store.away = True
    await desk.happens()
    running = asyncio.create_task(desk.service.run())
    await asyncio.sleep(0)
    desk.store.away = False
    async with asyncio.timeout(10):
        while len(desk.said()) < 2:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.said()[-1] == ("scripted-1", None)


class FailingRetriever:
    """Fails or hangs, as an index may."""

    def retrieve(self, queries: Sequence[str], k: int = 10, platforms: Sequence[str] = ()) -> Sequence[Any]:
        raise OSError("the collection is locked by another process")

    def playbooks_for(self, techniques: Sequence[str], k: int = 3) -> Sequence[Any]:
        return ()


async def test_retrieval_that_fails_costs_its_suggestions_and_the_advisory_says_so() -> None:
    desk = Desk(ScriptedBackend(state="off"), retriever=FailingRetriever())
    await desk.happens()
    await desk.settle()
    (version,) = desk.store.versions[KEY]
    assert "Retrieval over ATT&CK and the playbooks failed; only rule tags are shown." in version.body["notes"]
    assert {item["id"] for item in version.body["techniques"]} == {"T1110.001", "T1078", "T1053.003"}


async def test_a_caller_s_incident_is_answered_and_not_stored() -> None:
    desk = Desk(ScriptedBackend())
    advisory = await desk.service.analyze(ssh_incident())
    validate(advisory)
    assert advisory["generator"] == "template"
    assert advisory["evidence"][0]["source"] == "caller"
    assert desk.store.versions == {} and desk.backend.users == []


async def test_a_caller_may_wait_for_the_model() -> None:
    desk = Desk(ScriptedBackend())
    advisory = await desk.service.analyze(ssh_incident(), wait_for_llm_s=5)
    assert advisory["generator"] == "scripted-1"


async def test_a_caller_waits_no_longer_than_said() -> None:
    desk = Desk(HangingBackend())
    async with asyncio.timeout(5):
        advisory = await desk.service.analyze(ssh_incident(), wait_for_llm_s=0.1)
    assert advisory["generator"] == "template"
    assert advisory["fallback_reason"].startswith("timeout")


async def test_a_caller_s_mistake_is_named() -> None:
    with pytest.raises(InvalidIncident, match=r"\$\.title"):
        await Desk(ScriptedBackend()).service.analyze({"title": 5, "evidence": ["x"]})


async def test_callers_and_queue_ask_one_at_a_time_under_salts_of_their_own() -> None:
    desk = Desk(ScriptedBackend())
    await desk.happens()
    await desk.service.run_once()
    await asyncio.gather(
        desk.service.ask_once(), *(desk.service.analyze(ssh_incident(), 5, cache_salt=f"tenant {n}") for n in range(3))
    )
    assert desk.backend.most_at_once == 1
    assert len(set(desk.backend.salts)) == 4
    assert not any(str(TENANT) in salt for salt in desk.backend.salts)


async def test_status_says_what_the_model_is_doing() -> None:
    status = await Desk(ScriptedBackend(state="converting")).service.status()
    assert status["llm"] == {"state": "converting", "detail": "it is converting", "model": "scripted-1"}


class SlowRetriever:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = 0

    def retrieve(self, queries: Sequence[str], k: int = 10, platforms: Sequence[str] = ()) -> Sequence[Any]:
        self.asked += 1
        assert self.go.wait(30)
        return [SimpleNamespace(technique_id="T1110.003", score=1.0)]

    def playbooks_for(self, techniques: Sequence[str], k: int = 3) -> Sequence[Any]:
        return ()


async def test_slow_retrieval_delays_nothing_and_joins_the_next_version() -> None:
    retriever = SlowRetriever()
    desk = Desk(ScriptedBackend(state="off"), retriever=retriever)
    await desk.happens()
    await desk.settle()
    (first,) = desk.store.versions[KEY]
    assert "T1110.003" not in {item["id"] for item in first.body["techniques"]}
    retriever.go.set()
    async with asyncio.timeout(10):
        while desk.store.queue:
            desk.later(5)
            await desk.settle()
    assert "T1110.003" in {item["id"] for item in desk.store.versions[KEY][-1].body["techniques"]}
    assert retriever.asked == 3


async def test_what_was_asked_ahead_is_not_asked_again() -> None:
    retriever = SlowRetriever()
    retriever.go.set()
    adviser = Adviser(CORPUS, retriever, ScriptedBackend(), delimiter=lambda: "d41d8cd9")
    brief = brief_from_detail(ssh_incident())
    texts = [query.text for query in queries_for(brief, select_evidence(brief))]
    await adviser.prewarm(texts, [("Linux",)])
    assert retriever.asked == 3
    draft = await adviser.draft(brief, "llm_off")
    assert draft.complete and retriever.asked == 3
    adviser.close()
