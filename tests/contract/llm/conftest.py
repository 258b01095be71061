"""The backends under test. The real engine is started once a session; its weights stay in pytest's cache folder."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from cluster.llm_setup import llm_support
from serve.engine import Engine
from serve.engine_profile import cpu_flags, cpu_profile
from serve.llm import LLMBackend, NoBackend, OpenAIBackend
from tests.contract.llm.chat_server import running, sampling, served_by

START_TIMEOUT_S = 600


async def until_ready(engine: Engine, not_process: int | None = None) -> None:
    """Wait for readiness, of a process other than ``not_process`` where one is given."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            state = await engine.state()
            assert "gave up" not in state.detail, state.detail
            if state.state == "ready" and engine.process_id != not_process:
                return
            await asyncio.sleep(0.1)


@pytest.fixture(scope="session")
async def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """The real engine with the packaged model."""
    support = llm_support()
    if not support.usable:
        pytest.skip(support.reason)
    cache = request.config.cache
    assert cache is not None
    prepare = (sys.executable, "-m", "cluster.weights", str(cache.mkdir("llm-weights")))
    engine = Engine(cpu_profile(cpu_flags()), tmp_path_factory.mktemp("engine"), prepare)
    await until_ready(engine)
    yield engine
    await engine.close()


@pytest.fixture
def none_backend() -> LLMBackend:
    return NoBackend()


@pytest.fixture
async def url_backend() -> AsyncIterator[LLMBackend]:
    async with running(sampling) as server:
        backend = OpenAIBackend(server.url)
        yield backend
        await backend.close()


@pytest.fixture
async def url_to_engine_backend(engine: Engine) -> AsyncIterator[LLMBackend]:
    async with running(served_by(engine)) as server:
        backend = OpenAIBackend(server.url)
        yield backend
        await backend.close()


@pytest.fixture
def engine_backend(engine: Engine) -> LLMBackend:
    return engine
