"""Batches go straight to their door: routing, dependencies and response objects cost more than reading the batch.

The doors speak in headers, bytes and WireAnswer, so nothing of the web framework is needed between them and the
server. Whatever is not a POST to one of them passes on to the framework, untouched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import WireAnswer

Door = Callable[[Mapping[str, str], AsyncIterator[bytes]], Awaitable[WireAnswer]]


def open_door(application: FastAPI, path: str, door: Door) -> None:
    """POSTs to `path` are the door's, by a route and, where the application has FastPath, without asking for one."""
    endpoint = _DoorEndpoint(door)
    # Ray Serve names every request by its route and looks for it in this order, so the busiest come first.
    application.router.routes.insert(0, Route(path, endpoint, methods=["POST"], include_in_schema=False))
    application.state.doors = {**_doors(application), path: endpoint}


class FastPath:
    """ASGI middleware: what was opened with `open_door` is entered at once."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        next_layer = self._application
        if scope["type"] == "http" and scope["method"] == "POST":
            next_layer = _doors(scope["app"]).get(scope["path"], next_layer)
        await next_layer(scope, receive, send)


def _doors(application: FastAPI) -> Mapping[str, ASGIApp]:
    doors: Mapping[str, ASGIApp] = getattr(application.state, "doors", {})
    return doors


class _DoorEndpoint:
    """A door as an ASGI application."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(await self._door(_headers(scope), _stream(receive)), send)


def _headers(scope: Scope) -> dict[str, str]:
    # Of a header that comes twice the first one counts, as in the framework.
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


async def _stream(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _answer(answer: WireAnswer, send: Send) -> None:
    headers = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode("latin-1")),
    ]
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
