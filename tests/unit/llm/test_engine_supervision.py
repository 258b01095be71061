"""The engine's supervisor: what callers see while its process loads, answers, hangs, dies and comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.engine import Engine
from serve.engine_profile import EngineProfile
from serve.llm import BackendUnavailable, EngineState

SCRIPT = Path(__file__).with_name("scripted_engine.py")
PROFILE = EngineProfile(
    name="cpu",
    model="scripted",
    concurrency=1,
    niceness=0,
    engine_args={},
    environment={},
    max_waiting=2,
    start_timeout_s=20.0,
    abort_grace_s=20.0,
    max_restarts=2,
    restart_backoff_s=0.01,
)
StartEngine = Callable[..., Engine]


@pytest.fixture
async def start_engine(tmp_path: Path) -> AsyncIterator[StartEngine]:
    engines: list[Engine] = []

    def start(script: str, prepare_command: tuple[str, ...] = (), **changes: Any) -> Engine:
        arguments = {"script": script, "mark": str(tmp_path / "mark")}
        profile = dataclasses.replace(PROFILE, engine_args=arguments, **changes)
        engine = Engine(profile, tmp_path / "work", prepare_command, (sys.executable, str(SCRIPT)))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        await engine.close()


async def until(engine: Engine, accept: Callable[[EngineState], bool]) -> EngineState:
    async with asyncio.timeout(30):
        while not accept(state := await engine.state()):
            await asyncio.sleep(0.005)
    return state


def is_ready(state: EngineState) -> bool:
    return state.state == "ready"


async def ask(engine: Engine, user: str = "hello", deadline_s: float = 20.0) -> Any:
    generation = await engine.generate("system", user, {"type": "object"}, 10, deadline_s, "tenant")
    return json.loads(generation.text)


async def refusal(engine: Engine, user: str = "hello", deadline_s: float = 20.0) -> BackendUnavailable:
    with pytest.raises(BackendUnavailable) as caught:
        await ask(engine, user, deadline_s)
    return caught.value


async def test_answers_when_ready_and_passes_the_salt_on(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    assert await until(engine, is_ready) == EngineState("ready", "loaded in 0 s", "scripted")
    assert await ask(engine) == {"user": "hello", "salt": "tenant"}


async def test_says_that_it_loads_and_turns_requests_away_meanwhile(start_engine: StartEngine) -> None:
    engine = start_engine("never-ready")
    assert (await until(engine, lambda state: "loading the model" in state.detail)).state == "loading"
    error = await refusal(engine)
    assert error.reason == "unavailable"
    assert "loading" in error.detail


async def test_an_engine_made_outside_an_event_loop_starts_with_the_first_call(tmp_path: Path) -> None:
    profile = dataclasses.replace(PROFILE, engine_args={"script": "good"})
    engine = await asyncio.to_thread(Engine, profile, tmp_path, (), (sys.executable, str(SCRIPT)))
    assert engine.process_id is None
    await until(engine, is_ready)
    await engine.close()


async def test_the_caller_hears_why_a_request_is_refused(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    await until(engine, is_ready)
    error = await refusal(engine, "refuse")
    assert (error.reason, error.detail) == ("refused", "ValueError: too long")


async def test_an_oversized_prompt_never_reaches_the_process(start_engine: StartEngine) -> None:
    engine = start_engine("dies-answering")
    await until(engine, is_ready)
    process = engine.process_id
    assert (await refusal(engine, "x" * 300_000)).reason == "refused"
    assert engine.process_id == process
    assert (await engine.state()).state == "ready"


async def test_a_deadline_ends_the_wait_and_frees_the_engine(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    await until(engine, is_ready)
    process = engine.process_id
    assert (await refusal(engine, "wait for ever", deadline_s=0.05)).reason == "timeout"
    assert await ask(engine) == {"user": "hello", "salt": "tenant"}
    assert engine.process_id == process


async def test_the_deadline_counts_the_wait_for_a_slot(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    await until(engine, is_ready)
    long_one = asyncio.create_task(ask(engine, "wait for ever"))
    await asyncio.sleep(0)
    assert (await refusal(engine, deadline_s=0.05)).reason == "timeout"
    long_one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long_one
    assert await ask(engine) == {"user": "hello", "salt": "tenant"}


async def test_only_so_many_may_wait(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    await until(engine, is_ready)
    waiting = [asyncio.create_task(ask(engine, "wait for ever")) for _ in range(1 + PROFILE.max_waiting)]
    await asyncio.sleep(0)
    error = await refusal(engine)
    assert (error.reason, error.detail) == ("unavailable", "2 requests are waiting already")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await ask(engine) == {"user": "hello", "salt": "tenant"}


async def test_a_process_killed_while_answering_comes_back(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    await until(engine, is_ready)
    first = engine.process_id
    assert first is not None
    pending = asyncio.create_task(ask(engine, "wait for ever"))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(BackendUnavailable) as caught:
        await pending
    assert caught.value.reason == "died"
    await until(engine, lambda state: is_ready(state) and engine.process_id not in (None, first))
    assert await ask(engine) == {"user": "hello", "salt": "tenant"}


async def test_a_process_that_ignores_an_abort_is_replaced(start_engine: StartEngine) -> None:
    engine = start_engine("ignores-everything", abort_grace_s=0.05)
    await until(engine, is_ready)
    first = engine.process_id
    assert (await refusal(engine, deadline_s=0.05)).reason == "timeout"
    await until(engine, lambda state: is_ready(state) and engine.process_id not in (None, first))


async def test_a_process_that_writes_nonsense_is_replaced(start_engine: StartEngine) -> None:
    engine = start_engine("babbles")
    await until(engine, is_ready)
    assert (await refusal(engine)).reason == "died"
    await until(engine, is_ready)


async def test_a_start_that_fails_once_is_tried_again(start_engine: StartEngine) -> None:
    engine = start_engine("dies-once")
    await until(engine, is_ready)
    assert await ask(engine) == {"user": "hello", "salt": "tenant"}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("dies-loading", "ended while it was loading"),
        ("says-failed", "ValueError: no such model"),
    ],
)
async def test_it_gives_up_after_the_agreed_number_of_starts(
    start_engine: StartEngine, script: str, words: str
) -> None:
    engine = start_engine(script)
    state = await until(engine, lambda state: "gave up" in state.detail)
    assert state.state == "failed"
    assert words in state.detail
    assert "after 3 attempts" in state.detail
    assert (await refusal(engine)).reason == "unavailable"


async def test_a_process_that_never_gets_ready_is_given_up(start_engine: StartEngine) -> None:
    engine = start_engine("never-ready", start_timeout_s=0.05, max_restarts=0)
    assert "was not ready after 0.05 s" in (await until(engine, lambda state: "gave up" in state.detail)).detail


async def test_closing_leaves_no_process(start_engine: StartEngine) -> None:
    engine = start_engine("good")
    await until(engine, is_ready)
    process = engine.process_id
    assert process is not None
    await engine.close()
    assert not psutil.pid_exists(process)
    assert (await engine.state()).state == "off"
    assert (await refusal(engine)).reason == "unavailable"


async def test_the_weights_are_prepared_first_and_their_progress_is_shown(start_engine: StartEngine) -> None:
    lines = ['{"event":"progress","detail":"unpacking"}', '{"event":"done","path":"/models/one"}']
    code = f"import sys; print({lines[0]!r}, flush=True); sys.stdin.read(); print({lines[1]!r})"
    engine = start_engine("good", (sys.executable, "-c", code))
    seen = set()
    await until(engine, lambda state: seen.add(state.state) or is_ready(state))
    assert seen >= {"converting", "ready"}


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "print('done')", "pass"])
async def test_weights_that_cannot_be_prepared_are_a_failure(start_engine: StartEngine, code: str) -> None:
    engine = start_engine("good", (sys.executable, "-c", code))
    assert (await until(engine, lambda state: "gave up" in state.detail)).state == "failed"
