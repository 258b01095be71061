"""The contract between the advisor and whatever writes its prose, and the backends that are not our own engine.

A backend takes a system and a user text and a JSON schema, and gives back text that was decoded under that schema. It
promises nothing about truth or even validity: the caller parses, validates and guards what comes back, and shows its
template when the backend raises BackendUnavailable. ``serve.engine.Engine`` keeps the same contract.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import httpx
import orjson

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

EngineStateName = Literal["off", "installing", "converting", "loading", "ready", "failed"]
UnavailableReason = Literal["unavailable", "timeout", "died", "refused"]

SEED = 7
_STATE_TIMEOUT_S = 2.0
_HANDLE_GRACE_S = 2.0
_ANSWER_LIMIT_BYTES = 256 * 1024


@dataclass(frozen=True)
class EngineState:
    """What a backend is doing. ``detail`` is one sentence for a person; ``model`` is "" when there is none."""

    state: EngineStateName
    detail: str
    model: str


@dataclass(frozen=True)
class Generation:
    """One answer. ``seconds`` is the wait the caller saw; ``truncated`` means that max_tokens cut the text short."""

    text: str
    model: str
    prompt_tokens: int
    output_tokens: int
    seconds: float
    truncated: bool = False


class BackendUnavailable(Exception):
    """No text came back; the caller shows its template.

    ``reason``: unavailable (off, still loading, too many waiting), timeout (the deadline passed), died (the engine
    went away meanwhile), refused (this request can never succeed as it is, or the answer is not one).
    """

    def __init__(self, reason: UnavailableReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: UnavailableReason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class LLMBackend(Protocol):
    """Writes text under a schema. Implementations must answer ``state`` at once, also while they load."""

    name: str

    async def state(self) -> EngineState:
        """What the backend is doing now. Never raises."""
        ...

    async def generate(
        self, system: str, user: str, schema: dict[str, Any], max_tokens: int, deadline_s: float, cache_salt: str
    ) -> Generation:
        """Greedy, seeded text under ``schema`` within ``deadline_s`` seconds, waiting included.

        ``cache_salt`` separates prompt caches: pass one value per tenant, so that timing tells no tenant what another
        one asked. Raises BackendUnavailable and nothing else; cancelling the call stops the work.
        """
        ...


class NoBackend:
    """``LLM=none``: there is no model, and asking for one says so."""

    name = "none"

    async def state(self) -> EngineState:
        return EngineState("off", "no language model is configured (LLM=none)", "")

    async def generate(
        self, system: str, user: str, schema: dict[str, Any], max_tokens: int, deadline_s: float, cache_salt: str
    ) -> Generation:
        raise BackendUnavailable("unavailable", "no language model is configured (LLM=none)")


class OpenAIBackend:
    """A server on the operator's own network that speaks ``POST /v1/chat/completions`` with ``json_schema`` answers.

    The answer is capped at 256 KiB, redirects are not followed and proxy variables of the environment are not used,
    so that evidence goes to the configured address and nowhere else. ``cache_salt`` travels as vLLM's field of that
    name; other servers ignore it. Without ``model`` the first model the server lists is used.
    """

    name = "url"

    def __init__(self, url: str, model: str = "", api_key: str = "") -> None:
        base = url.rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._model = model
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113 - asyncio.timeout bounds every call as a whole; httpx bounds only its parts
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def state(self) -> EngineState:
        try:
            async with asyncio.timeout(_STATE_TIMEOUT_S):
                model = self._model or await self._first_model()
                await self._request("GET", "/models", None)
        except TimeoutError:
            return EngineState("failed", f"{self._base} did not answer in {_STATE_TIMEOUT_S:.0f} s", self._model)
        except BackendUnavailable as error:
            return EngineState("failed", error.detail, self._model)
        return EngineState("ready", f"served by {self._base}", model)

    async def generate(
        self, system: str, user: str, schema: dict[str, Any], max_tokens: int, deadline_s: float, cache_salt: str
    ) -> Generation:
        started = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                model = self._model or await self._first_model()
                body = _completion_body(model, system, user, schema, max_tokens, cache_salt)
                answer = await self._request("POST", "/chat/completions", body)
        except TimeoutError as error:
            raise BackendUnavailable("timeout", f"{self._base} gave no answer in {deadline_s:g} s") from error
        return _generation(answer, model, time.monotonic() - started)

    async def _first_model(self) -> str:
        answer = await self._request("GET", "/models", None)
        try:
            self._model = str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise BackendUnavailable("refused", f"{self._base}/models lists no model") from error
        return self._model

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        address = f"{self._base}{path}"
        payload = None if body is None else json.dumps(body).encode()  # plain ASCII, whatever the evidence holds
        content = bytearray()
        try:
            async with self._client.stream(method, address, content=payload) as response:
                async for chunk in response.aiter_raw():  # undecoded, so that no compressed answer can swell
                    content += chunk
                    if len(content) > _ANSWER_LIMIT_BYTES:
                        raise BackendUnavailable("refused", f"{address} answered with over {_ANSWER_LIMIT_BYTES} bytes")
                status = response.status_code
        except httpx.ConnectError as error:
            raise BackendUnavailable("unavailable", f"{address} cannot be reached: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BackendUnavailable("died", f"{address} broke off: {type(error).__name__}") from error
        if status != httpx.codes.OK:
            temporary = status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR
            raise BackendUnavailable("unavailable" if temporary else "refused", f"{address} answered {status}")
        try:
            return orjson.loads(content)
        except ValueError as error:
            raise BackendUnavailable("refused", f"{address} answered with something that is not JSON") from error


class EngineBackend:
    """Our own engine behind a Ray Serve handle (``serve.engine.Engine``).

    The replica keeps the deadline; this side allows two seconds more before it gives up on the replica itself.
    """

    name = "engine"

    def __init__(self, handle: DeploymentHandle, model: str = "") -> None:
        self._handle = handle
        self._model = model

    async def state(self) -> EngineState:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            async with asyncio.timeout(_STATE_TIMEOUT_S):
                state: EngineState = await self._handle.state.remote()
                return state
        except TimeoutError:
            return EngineState("loading", "the engine's replica is starting or busy", self._model)
        except (RayError, RayServeException) as error:
            return EngineState("failed", f"the engine's replica is away: {type(error).__name__}", self._model)

    async def generate(
        self, system: str, user: str, schema: dict[str, Any], max_tokens: int, deadline_s: float, cache_salt: str
    ) -> Generation:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        started = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s + _HANDLE_GRACE_S):
                response = self._handle.generate.remote(system, user, schema, max_tokens, deadline_s, cache_salt)
                try:
                    answer: Generation = await response
                except asyncio.CancelledError:
                    response.cancel()  # Serve does not do this by itself, and the replica would go on writing
                    raise
        except BackendUnavailable as error:
            raise BackendUnavailable(error.reason, error.detail) from None  # without Ray's remote traceback
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise BackendUnavailable("timeout", f"the engine's replica gave no answer in {waited:.1f} s") from error
        except (RayError, RayServeException) as error:
            raise BackendUnavailable("died", f"the engine's replica is away: {type(error).__name__}") from error
        return answer


def backend_for(
    setting: str, *, engine: DeploymentHandle | None = None, model: str = "", api_key: str = ""
) -> LLMBackend:
    """The backend that the setting ``LLM`` names: ``none``, ``cpu``, ``gpu`` (these two need ``engine``) or a URL.

    Raises ValueError for anything else.
    """
    if setting == "none":
        return NoBackend()
    if setting in ("cpu", "gpu"):
        if engine is None:
            raise ValueError(f"LLM={setting} needs the engine's deployment")
        return EngineBackend(engine, model)
    if setting.startswith(("http://", "https://")):
        return OpenAIBackend(setting, model, api_key)
    raise ValueError(f"LLM={setting!r} is none of: none, cpu, gpu, http://..., https://...")


def _completion_body(
    model: str, system: str, user: str, schema: dict[str, Any], max_tokens: int, cache_salt: str
) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": SEED,
        "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
        "cache_salt": cache_salt,
    }


def _generation(answer: Any, model: str, seconds: float) -> Generation:
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("the message has no text")
        return Generation(
            text=text,
            model=model,
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            output_tokens=int(usage.get("completion_tokens", 0)),
            seconds=seconds,
            truncated=choice.get("finish_reason") == "length",
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BackendUnavailable("refused", "the answer does not have the shape of a chat completion") from error
