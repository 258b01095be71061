"""A small HTTP server that speaks ``/v1/chat/completions``, well or badly as a test asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from serve.llm import BackendUnavailable, Generation, LLMBackend

MODEL = "chat-server-model"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ChatServer:
    """Where it listens, what was asked of it, and how many connections broke before their answer."""

    url: str
    requests: list[Request]


def http_answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def completion(text: str, finish_reason: str = "stop", prompt_tokens: int = 3, output_tokens: int = 5) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}
    choices = [{"index": 0, "message": message, "finish_reason": finish_reason}]
    return json.dumps({"id": "1", "object": "chat.completion", "choices": choices, "usage": usage}).encode()


@asynccontextmanager
async def running(behaviour: Behaviour) -> AsyncIterator[ChatServer]:
    """A server on a free port of the loopback; its open connections end with it."""
    requests: list[Request] = []
    open_tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_tasks.add(task)
        try:
            request = await _read(reader)
            requests.append(request)
            await behaviour(request, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            open_tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield ChatServer(f"http://127.0.0.1:{port}", requests)
    finally:
        server.close()
        for task in tuple(open_tasks):
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)
        await server.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, json.loads(content) if content else None)


def lists_models(request: Request, writer: asyncio.StreamWriter) -> bool:
    if request.path != "/v1/models":
        return False
    writer.write(http_answer(200, json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()))
    return True


async def sampling(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answers with the least value that the request's schema allows: every answer is valid."""
    if not lists_models(request, writer):
        schema = request.body["response_format"]["json_schema"]["schema"]
        writer.write(http_answer(200, completion(json.dumps(least_value(schema)))))


def served_by(backend: LLMBackend) -> Behaviour:
    """A server in front of a real backend."""

    async def behaviour(request: Request, writer: asyncio.StreamWriter) -> None:
        if lists_models(request, writer):
            return
        body = request.body
        system, user = (message["content"] for message in body["messages"])
        schema = body["response_format"]["json_schema"]["schema"]
        try:
            done: Generation = await backend.generate(
                system, user, schema, body["max_tokens"], 120.0, body["cache_salt"]
            )
        except BackendUnavailable as error:
            writer.write(http_answer(400 if error.reason == "refused" else 503, str(error).encode()))
            return
        reason = "length" if done.truncated else "stop"
        writer.write(http_answer(200, completion(done.text, reason, done.prompt_tokens, done.output_tokens)))

    return behaviour


def least_value(schema: dict[str, Any]) -> Any:
    """The smallest JSON value that a schema of the advisor's shape allows. Raises KeyError for any other schema."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "object":
            return {name: least_value(schema["properties"][name]) for name in schema["required"]}
        case "array":
            return [least_value(schema["items"])] * schema["minItems"]
        case "string":
            return "x" * schema["minLength"]
        case other:
            raise KeyError(other)
