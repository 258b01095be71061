"""The backend for a server on the operator's network: what it sends, and what a broken or hostile one costs."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from serve.llm import (
    BackendUnavailable,
    EngineBackend,
    Generation,
    NoBackend,
    OpenAIBackend,
    UnavailableReason,
    backend_for,
)
from tests.contract.llm.chat_server import MODEL, Behaviour, Request, completion, http_answer, lists_models, running

SCHEMA = {"enum": ["yes"]}


async def ask(backend: OpenAIBackend, deadline_s: float = 20.0) -> Generation:
    return await backend.generate("the system", "the user", SCHEMA, 64, deadline_s, "salt")


def always(content: bytes) -> Behaviour:
    async def behaviour(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return behaviour


async def test_the_request_is_a_chat_completion_under_the_schema() -> None:
    async with running(always(http_answer(200, completion('"yes"', "stop", 11, 2)))) as server:
        backend = OpenAIBackend(server.url + "/", model="m", api_key="secret")
        answer = await ask(backend)
        await backend.close()
    assert (answer.text, answer.model, answer.prompt_tokens, answer.output_tokens) == ('"yes"', "m", 11, 2)
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.body["messages"] == [
        {"role": "system", "content": "the system"},
        {"role": "user", "content": "the user"},
    ]
    assert request.body["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA, "strict": True}
    assert {name: request.body[name] for name in ("model", "max_tokens", "temperature", "cache_salt")} == {
        "model": "m",
        "max_tokens": 64,
        "temperature": 0,
        "cache_salt": "salt",
    }


async def test_without_a_model_the_first_one_of_the_server_is_used() -> None:
    async def behaviour(request: Request, writer: asyncio.StreamWriter) -> None:
        if not lists_models(request, writer):
            writer.write(http_answer(200, completion('"yes"')))

    async with running(behaviour) as server:
        backend = OpenAIBackend(f"{server.url}/v1")
        assert (await ask(backend)).model == MODEL
        assert (await backend.state()).model == MODEL
        await backend.close()
    assert [request.path for request in server.requests][:2] == ["/v1/models", "/v1/chat/completions"]


async def test_an_answer_cut_by_the_token_limit_says_so() -> None:
    async with running(always(http_answer(200, completion('"ye', "length")))) as server:
        backend = OpenAIBackend(server.url, model="m")
        assert (await ask(backend)).truncated
        await backend.close()


HOSTILE: dict[str, tuple[bytes, UnavailableReason]] = {
    "internal error": (http_answer(500, b"oops"), "unavailable"),
    "overloaded": (http_answer(429, b""), "unavailable"),
    "unauthorised": (http_answer(401, b"{}"), "refused"),
    "schema refused": (http_answer(400, b'{"error":"schema"}'), "refused"),
    "not JSON": (http_answer(200, b"<html>hello</html>"), "refused"),
    "empty": (http_answer(200, b""), "refused"),
    "broken UTF-8": (http_answer(200, b'{"choices": "\xff"}'), "refused"),
    "other JSON": (http_answer(200, b'{"choices": []}'), "refused"),
    "a list": (http_answer(200, b"[]"), "refused"),
    "usage of another kind": (http_answer(200, b'{"choices":[{"message":{"content":"x"}}],"usage":[1]}'), "refused"),
    "no text": (http_answer(200, b'{"choices":[{"message":{"content":null}}]}'), "refused"),
    "deep nesting": (http_answer(200, b"[" * 100_000), "refused"),
    "a huge number": (http_answer(200, b"9" * 200_000), "refused"),
    "huge": (http_answer(200, completion("x" * 2_000_000)), "refused"),
    "compressed": (http_answer(200, gzip.compress(b" " * 10_000_000), "Content-Encoding: gzip"), "refused"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "died"),
    "closed at once": (b"", "died"),
    "cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "died"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_bad_answer_is_the_one_error(name: str) -> None:
    content, reason = HOSTILE[name]
    async with running(always(content)) as server:
        backend = OpenAIBackend(server.url, model="m")
        with pytest.raises(BackendUnavailable) as caught:
            await ask(backend)
        assert caught.value.reason == reason
        assert (await backend.state()).state in ("failed", "ready")
        await backend.close()


async def test_a_redirect_is_not_followed() -> None:
    async with running(always(http_answer(200, completion('"yes"')))) as elsewhere:
        location = f"Location: {elsewhere.url}/v1/chat/completions"
        async with running(always(http_answer(307, b"", location))) as server:
            backend = OpenAIBackend(server.url, model="m")
            with pytest.raises(BackendUnavailable) as caught:
                await ask(backend)
            await backend.close()
    assert caught.value.reason == "refused"
    assert elsewhere.requests == []


async def test_proxy_settings_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(always(http_answer(200, completion('"no"')))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with running(always(http_answer(200, completion('"yes"')))) as server:
            backend = OpenAIBackend(server.url, model="m")
            assert (await ask(backend)).text == '"yes"'
            await backend.close()
    assert proxy.requests == []


async def test_a_server_that_hangs_or_dribbles_costs_the_deadline_and_no_more() -> None:
    hung_up = asyncio.Event()

    async def dribble(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            hung_up.set()

    async with running(dribble) as server:
        backend = OpenAIBackend(server.url, model="m")
        with pytest.raises(BackendUnavailable) as caught:
            await ask(backend, deadline_s=0.2)
        assert caught.value.reason == "timeout"
        async with asyncio.timeout(20):
            await hung_up.wait()  # the connection is given up, so the server can stop as well
        await backend.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with running(always(b"")) as server:
        pass
    backend = OpenAIBackend(server.url, model="m", api_key="secret")
    with pytest.raises(BackendUnavailable) as caught:
        await ask(backend)
    assert caught.value.reason == "unavailable"
    state = await backend.state()
    assert state.state == "failed"
    assert "secret" not in state.detail + str(caught.value)
    await backend.close()


def test_the_setting_chooses_the_backend() -> None:
    assert isinstance(backend_for("none"), NoBackend)
    assert isinstance(backend_for("http://10.0.0.5:8000", model="m"), OpenAIBackend)
    assert isinstance(backend_for("cpu", engine=object()), EngineBackend)  # type: ignore[arg-type]  # only kept here


@pytest.mark.parametrize("setting", ["cpu", "gpu", "", "yes", "file:///etc/passwd", "CPU"])
def test_a_setting_that_means_nothing_is_an_error(setting: str) -> None:
    with pytest.raises(ValueError, match="LLM="):
        backend_for(setting)


def test_the_error_survives_being_sent_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BackendUnavailable("died", "gone")))  # noqa: S301 - our own bytes
    assert (error.reason, error.detail, str(error)) == ("died", "gone", "died: gone")
    assert json.dumps(str(error))
