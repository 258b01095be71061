"""The advisor as a Serve deployment: prepares its corpus in the background, then works through the advisory queue.

Until the corpus is ready incidents wait in their durable queue; nothing else waits for the advisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from datetime import UTC, datetime
from typing import Any

import structlog

from actors.logs import configure_logs
from advise.brief import InvalidIncident
from advise.candidates import query_text
from detect.sigma import load_rule_set, starter_pack
from rag_corpus.attack import AttackCorpus
from rag_corpus.corpus import load_attack_corpus
from rag_corpus.embedder import MiniLmEmbedder
from rag_corpus.index import build_index
from rag_corpus.playbook import load_playbooks
from rag_corpus.retriever import Retriever
from serve.advice import Adviser, NoEvidence
from serve.advisor import AdvisorService
from serve.advisor_store import PostgresAdvisoryStore
from serve.arguments import EdgeArguments
from serve.llm import LLMBackend, backend_for
from serve.loopback import listen_on_loopback
from serve.settings import Settings
from store.postgres import connect_pool
from store.vectors import QdrantIndex

logger = structlog.get_logger("advisor")

# Below ingest and detection, above the language model: advice is waited for by people, not by senders.
_NICENESS = 5
_RESTART_S = 5.0
# The first start embeds the corpus; afterwards a query is one short text.
_EMBEDDING_THREADS = 2
_NO_RETRIEVAL = "Retrieval over ATT&CK and the playbooks is not available; only rule tags are shown."


async def _prewarm(adviser: Adviser) -> None:
    """Looks up the installed rules' titles ahead of their first incident, so that its advisory takes no second."""
    rules = await asyncio.to_thread(lambda: load_rule_set(starter_pack()).rules)
    texts = [query_text(rule.title, rule.description) for rule in rules]
    await adviser.prewarm(texts, [("Linux",), ("Windows",), ()])


class AdvisorDeployment:
    """Answers at once in every state; `engine` is the handle of the engine's deployment, None without one."""

    def __init__(self, arguments: EdgeArguments, engine: Any) -> None:
        configure_logs()
        self._settings = Settings()
        if self._settings.loopback_only:
            listen_on_loopback()
        self._backend: LLMBackend = backend_for(
            arguments.llm,
            engine=engine,
            model=self._settings.llm_model,
            api_key=self._settings.llm_api_key.get_secret_value(),
        )
        self._service: AdvisorService | None = None
        self._detail = "loading ATT&CK"
        self._corpus: dict[str, Any] = {}
        self._running = asyncio.get_running_loop().create_task(self._run_forever())

    async def status(self) -> dict[str, Any]:
        """State of corpus, queue and language model."""
        if self._service is not None:
            return await self._service.status() | {"corpus": self._corpus}
        state = await self._backend.state()
        llm = {"state": state.state, "detail": state.detail, "model": state.model}
        return {"ready": False, "state": "preparing", "detail": self._detail, "llm": llm}

    async def analyze(self, incident: dict[str, Any], wait_s: float, cache_salt: str) -> dict[str, Any]:
        """The advisory, or `invalid` or `starting` with a sentence that says what to do."""
        if self._service is None:
            return {"starting": self._detail}
        try:
            return await self._service.analyze(incident, wait_s, cache_salt)
        except (InvalidIncident, NoEvidence) as error:
            return {"invalid": str(error)}

    async def _run_forever(self) -> None:
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
        while True:
            try:
                await self._run()
            except Exception:  # whatever broke, the queue is durable: begin again
                logger.exception("the advisor stopped; it starts again")
                self._service = None
                await asyncio.sleep(_RESTART_S)

    async def _run(self) -> None:
        corpus, retriever, remarks = await asyncio.to_thread(self._prepare)
        settings = self._settings
        app = await connect_pool(settings.app_dsn.get_secret_value(), name="advisor", max_size=4)
        writer = await connect_pool(settings.writer_dsn.get_secret_value(), name="advisor queue", max_size=1)
        try:
            adviser = Adviser(corpus, retriever, self._backend, delimiter=lambda: secrets.token_hex(8), remarks=remarks)
            store = PostgresAdvisoryStore(app, writer)
            self._service = AdvisorService(store, adviser, self._backend, lambda: datetime.now(UTC))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._service.run())
                tasks.create_task(_prewarm(adviser))
        finally:
            app.terminate()
            writer.terminate()

    def _prepare(self) -> tuple[AttackCorpus, Retriever | None, tuple[str, ...]]:
        """Corpus and index; an index that cannot be had costs retrieval, not advice."""
        corpus = load_attack_corpus()
        playbooks = load_playbooks()
        self._corpus = {"version": corpus.version, "techniques": len(corpus.techniques), "playbooks": len(playbooks)}
        try:
            embedder = MiniLmEmbedder(threads=_EMBEDDING_THREADS)
            index = self._open_index()
            report = build_index(corpus, playbooks, embedder, index, self._settings.caches / "corpus", self._progress)
        except Exception as error:  # any trouble of model or index has the same answer
            logger.exception("retrieval is not available")
            self._corpus["retrieval"] = f"off: {error}"
            return corpus, None, (*corpus.degraded, _NO_RETRIEVAL)
        self._corpus |= {"retrieval": "on", "index": report.version, "chunks": report.chunks}
        retriever = Retriever(corpus, playbooks, embedder, index, report.ridge, report.version)
        return corpus, retriever, tuple(corpus.degraded)

    def _open_index(self) -> QdrantIndex:
        settings = self._settings
        if settings.qdrant_url:
            return QdrantIndex.connect(settings.qdrant_url, settings.qdrant_api_key.get_secret_value() or None)
        return QdrantIndex.open_folder(settings.data_dir / "qdrant")

    def _progress(self, stage: str, done: int, total: int) -> None:
        self._detail = f"building the corpus: {stage} {done} of {total}"
