"""vLLM as a backend of the advisor: a light supervisor here, the engine itself in a child process.

The child (``serve.engine_process``) exists so that this side always answers at once, also while gigabytes load; so
that the engine can run at low priority; and so that a crash or a hang of native code costs one process, which is
started again. docs/decisions/0005-llm-engine.md has the measurements. The plain class becomes a deployment by
``serve.deployment(max_ongoing_requests=...)(Engine)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from serve.engine_profile import EngineProfile
from serve.llm import SEED, BackendUnavailable, EngineState, EngineStateName, Generation

_LINE_LIMIT_BYTES = 4 * 1024 * 1024
_LONGEST_BACKOFF_S = 60.0
_PROMPT_LIMIT_CHARACTERS = 256 * 1024
_ROOT = Path(__file__).resolve().parent.parent


class EngineStartError(Exception):
    """The weights could not be prepared or the engine did not come up; the message says why."""


class Engine:
    """Keeps the LLMBackend contract over one supervised engine process.

    ``work_dir`` takes the logs and vLLM's caches. ``prepare_command``, if given, is run first; it writes one JSON
    object a line: ``{"event": "progress", "detail": ...}``, at last ``{"event": "done", "path": MODEL_FOLDER}``
    (``cluster.weights`` is one). Without it the profile's model is the path or name that vLLM is given.
    ``engine_command`` starts the child.

    The constructor returns at once. Where no event loop runs yet, work starts with the first call of a method.
    """

    name = "engine"

    def __init__(
        self,
        profile: EngineProfile,
        work_dir: str | Path,
        prepare_command: Sequence[str] = (),
        engine_command: Sequence[str] = (sys.executable, "-m", "serve.engine_process"),
    ) -> None:
        self._profile = profile
        self._work_dir = Path(work_dir)
        self._prepare_command = tuple(prepare_command)
        self._engine_command = tuple(engine_command)
        self._state: tuple[EngineStateName, str] = ("loading", "not started yet")
        self._process: Process | None = None
        self._slots = asyncio.Semaphore(profile.concurrency)
        self._waiting = 0
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._abort_checks: set[asyncio.Task[None]] = set()
        self._aborted: dict[str, asyncio.Event] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False
        with contextlib.suppress(RuntimeError):  # no loop is running yet
            self._ensure_started()

    @property
    def process_id(self) -> int | None:
        """The engine process, if there is one. Its memory is the engine's memory."""
        return self._process.pid if self._process else None

    async def state(self) -> EngineState:
        """What the engine is doing. Answers at once in every state."""
        self._ensure_started()
        name, detail = self._state
        return EngineState(name, detail, self._profile.model)

    async def generate(
        self, system: str, user: str, schema: dict[str, Any], max_tokens: int, deadline_s: float, cache_salt: str
    ) -> Generation:
        """See LLMBackend. Waits for a free slot within the deadline; beyond ``max_waiting`` it does not wait."""
        self._ensure_started()
        started = time.monotonic()
        if self._waiting >= self._profile.max_waiting:
            raise BackendUnavailable("unavailable", f"{self._waiting} requests are waiting already")
        if len(system) + len(user) > _PROMPT_LIMIT_CHARACTERS:
            raise BackendUnavailable("refused", f"the prompt is longer than {_PROMPT_LIMIT_CHARACTERS} characters")
        request: dict[str, Any] = {"op": "generate", "id": uuid.uuid4().hex, "system": system, "user": user}
        request |= {"schema": schema, "max_tokens": max_tokens, "cache_salt": cache_salt, "seed": SEED}
        try:
            async with asyncio.timeout(deadline_s):
                await self._take_slot()
                try:
                    answer = await self._ask(request)
                finally:
                    self._slots.release()
        except TimeoutError as error:
            raise BackendUnavailable("timeout", f"no answer in {deadline_s:g} s") from error
        if answer["event"] == "refused":
            raise BackendUnavailable("refused", answer["detail"])
        return Generation(
            text=answer["text"],
            model=self._profile.model,
            prompt_tokens=answer["prompt_tokens"],
            output_tokens=answer["output_tokens"],
            seconds=time.monotonic() - started,
            truncated=answer["truncated"],
        )

    async def close(self) -> None:
        """Stop the engine process and wait until it is gone."""
        self._closed = True
        self._state = ("off", "closed")
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        for check in tuple(self._abort_checks):
            check.cancel()

    def _ensure_started(self) -> None:
        if self._supervisor is None and not self._closed:
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def _take_slot(self) -> None:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        name, detail = self._state
        process = self._process
        if name != "ready" or process is None:
            raise BackendUnavailable("unavailable", f"the engine is {name}: {detail}")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[request["id"]] = answer
        try:
            self._send(process, request)
            return await answer
        except asyncio.CancelledError:  # the deadline passed or the caller went away: stop the work as well
            self._abort(process, request["id"])
            raise
        finally:
            del self._answers[request["id"]]

    def _send(self, process: Process, message: dict[str, Any]) -> None:
        assert process.stdin is not None  # noqa: S101 - stdin=PIPE guarantees it
        if process.stdin.is_closing():
            raise BackendUnavailable("died", "the engine process has ended")
        process.stdin.write(json.dumps(message).encode() + b"\n")

    def _abort(self, process: Process, request_id: str) -> None:
        with contextlib.suppress(BackendUnavailable):
            self._send(process, {"op": "abort", "id": request_id})
        check = asyncio.get_running_loop().create_task(self._expect_abort(process, request_id))
        self._abort_checks.add(check)
        check.add_done_callback(self._abort_checks.discard)

    async def _expect_abort(self, process: Process, request_id: str) -> None:
        """An engine that does not even take an abort hangs; only killing it frees it."""
        done = self._aborted[request_id] = asyncio.Event()
        try:
            async with asyncio.timeout(self._profile.abort_grace_s):
                await done.wait()
        except TimeoutError:
            _kill(process)
        finally:
            del self._aborted[request_id]

    async def _supervise(self) -> None:
        deaths = 0
        while True:
            try:
                model_path = await self._prepare()
                ready_for_s, cause = await self._run(model_path)
            except (EngineStartError, OSError, ValueError) as error:  # ValueError: a line that is not JSON
                ready_for_s, cause = 0.0, str(error)
            deaths = 1 if ready_for_s >= self._profile.stable_s else deaths + 1
            if deaths > self._profile.max_restarts:
                self._state = ("failed", f"{cause}; gave up after {deaths} attempts")
                return
            pause = min(_LONGEST_BACKOFF_S, self._profile.restart_backoff_s * 2 ** (deaths - 1))
            self._state = ("failed", f"{cause}; starting again in {pause:g} s")
            await asyncio.sleep(pause)

    async def _prepare(self) -> str:
        """Run the prepare command; the model's path."""
        self._work_dir.mkdir(parents=True, exist_ok=True)
        if not self._prepare_command:
            return self._profile.model
        self._state = ("converting", "checking the model's weights")
        with self._open_log("weights.log") as log:
            process = await asyncio.create_subprocess_exec(
                *self._prepare_command, stdin=DEVNULL, stdout=PIPE, stderr=log, env=self._environment(),
                start_new_session=True,
            )  # fmt: skip
            try:
                assert process.stdout is not None  # noqa: S101 - stdout=PIPE guarantees it
                path = ""
                async for line in process.stdout:
                    message = _message(line)
                    path = message.get("path", path)
                    self._state = ("converting", str(message.get("detail", "the weights are ready")))
                status = await process.wait()
            finally:
                await _end(process)
        if status != 0 or not path:
            raise EngineStartError(f"preparing the weights failed with status {status}, see {log.name}")
        return str(path)

    async def _run(self, model_path: str) -> tuple[float, str]:
        """Start the engine process and follow it to its end: seconds it was ready, and why it ended."""
        self._state = ("loading", "the engine is loading the model")
        with self._open_log("engine.log") as log:
            process = await asyncio.create_subprocess_exec(
                *self._engine_command, stdin=PIPE, stdout=PIPE, stderr=log, env=self._environment(),
                cwd=self._work_dir, limit=_LINE_LIMIT_BYTES, start_new_session=True,
            )  # fmt: skip
        self._process = process
        profile = self._profile
        try:
            start = {"model_path": model_path, "engine_args": profile.engine_args, "niceness": profile.niceness}
            self._send(process, {**start, "warm_up": profile.warm_up})
            started = time.monotonic()
            async with asyncio.timeout(profile.start_timeout_s):
                await self._until_ready(process)
            ready_at = time.monotonic()
            self._state = ("ready", f"loaded in {ready_at - started:.0f} s")
            await self._follow(process)
            status = await process.wait()
            return time.monotonic() - ready_at, f"the engine process ended with status {status}"
        except TimeoutError as error:
            raise EngineStartError(f"the engine was not ready after {profile.start_timeout_s:g} s") from error
        finally:
            self._process = None
            if self._state[0] == "ready":
                self._state = ("failed", "the engine process ended")
            self._fail_waiting()
            await _end(process)

    async def _until_ready(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101 - stdout=PIPE guarantees it
        line = await process.stdout.readline()
        if not line:
            raise EngineStartError(f"the engine ended while it was loading, see {self._work_dir / 'engine.log'}")
        message = _message(line)
        if message["event"] != "ready":
            raise EngineStartError(f"the engine could not start: {message.get('detail', 'no reason given')}")

    async def _follow(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101 - stdout=PIPE guarantees it
        async for line in process.stdout:
            message = _message(line)
            request_id = message.get("id", "")
            if message["event"] == "aborted":
                if (done := self._aborted.get(request_id)) is not None:
                    done.set()
            elif (answer := self._answers.get(request_id)) is not None and not answer.done():
                answer.set_result(message)

    def _fail_waiting(self) -> None:
        for done in self._aborted.values():
            done.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BackendUnavailable("died", "the engine process ended while it was answering"))

    def _open_log(self, name: str) -> IO[bytes]:
        """A new log; that of the start before is kept beside it, because it tells why that one ended."""
        path = self._work_dir / name
        if path.exists():
            path.replace(path.with_suffix(".previous.log"))
        return path.open("wb")

    def _environment(self) -> dict[str, str]:
        caches = {
            name: str(self._work_dir / "cache")
            for name in ("HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "XDG_CACHE_HOME")
        }
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        return {**os.environ, **caches, **self._profile.environment, "PYTHONPATH": path}


def _message(line: bytes) -> dict[str, Any]:
    """One line of a child. Raises ValueError if it is not an object with an event."""
    message = json.loads(line)
    if not isinstance(message, dict) or not isinstance(message.get("event"), str):
        raise ValueError(f"the engine process wrote something else than a message: {line[:80]!r}")
    return message


def _kill(process: Process) -> None:
    """Kill the process and all it started; it leads a session of its own."""
    if process.returncode is None:  # once it is reaped, its number may belong to somebody else
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process) -> None:
    _kill(process)
    await process.wait()
