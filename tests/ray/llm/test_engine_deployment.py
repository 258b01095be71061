"""The engine as a Serve deployment: what the advisor sees through the handle. No model is loaded here."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from serve.engine import Engine
from serve.engine_profile import EngineProfile
from serve.llm import BackendUnavailable, EngineBackend, Generation

# Ray's own models use deprecated pydantic calls.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "unit" / "llm" / "scripted_engine.py"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A small cluster for this module, unless the session has one already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 1024 * 1024,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            _node_ip_address="127.0.0.1",
        )
    yield
    if started:
        from ray import serve

        serve.shutdown()
        ray.shutdown()


@pytest.fixture
async def backend(cluster: None, tmp_path: Path) -> AsyncIterator[EngineBackend]:
    from ray import serve

    gate = tmp_path / "gate"
    profile = EngineProfile("cpu", "scripted", 1, 0, {"script": "waits-for", "mark": str(gate)}, {})
    deployment = serve.deployment(max_ongoing_requests=16, ray_actor_options={"num_cpus": 0})(Engine)
    application = deployment.bind(profile, tmp_path / "work", (), (sys.executable, str(SCRIPT)))
    handle = await asyncio.to_thread(serve.run, application, name="engine-test", route_prefix=None)
    yield EngineBackend(handle, "scripted")
    await asyncio.to_thread(serve.delete, "engine-test")


async def ask(backend: EngineBackend, user: str, deadline_s: float = 30.0) -> Generation:
    return await backend.generate("system", user, {"type": "object"}, 8, deadline_s, "tenant")


async def until_state(backend: EngineBackend, wanted: str) -> None:
    async with asyncio.timeout(60):
        while (await backend.state()).state != wanted:
            await asyncio.sleep(0.05)


def scripted_processes(work: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(SCRIPT) in process.cmdline() and Path(process.cwd()) == work:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


async def test_the_handle_keeps_the_contract(backend: EngineBackend, tmp_path: Path) -> None:
    await until_state(backend, "loading")
    with pytest.raises(BackendUnavailable) as loading:
        await ask(backend, "hello")
    assert loading.value.reason == "unavailable"

    (tmp_path / "gate").touch()
    await until_state(backend, "ready")
    assert (await ask(backend, "hello")).text == '{"user": "hello", "salt": "tenant"}'
    with pytest.raises(BackendUnavailable) as refused:
        await ask(backend, "refuse")
    assert (refused.value.reason, refused.value.detail) == ("refused", "ValueError: too long")
    with pytest.raises(BackendUnavailable) as late:
        await ask(backend, "wait for ever", deadline_s=0.2)
    assert late.value.reason == "timeout"

    # The one slot is taken until the cancellation has reached the replica.
    call = asyncio.create_task(ask(backend, "wait for ever", deadline_s=600.0))
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await ask(backend, "again")).output_tokens == 5


async def test_a_replica_that_is_killed_takes_its_engine_along_and_comes_back(
    backend: EngineBackend, tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    await until_state(backend, "ready")
    [engine] = scripted_processes(tmp_path / "work")
    replica = engine.parent()
    assert replica is not None
    call = asyncio.create_task(ask(backend, "wait for ever", deadline_s=600.0))
    await asyncio.sleep(0.2)
    os.kill(replica.pid, signal.SIGKILL)
    with pytest.raises(BackendUnavailable) as caught:
        await call
    assert caught.value.reason == "died"
    async with asyncio.timeout(30):
        while engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)
    await until_state(backend, "ready")
    assert (await ask(backend, "again")).output_tokens == 5
