"""The largest body of requests that the framework reads in one piece, which it does before anybody has shown a key."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY: Final = 8 * 2**20
"""Bytes. Most requests are a few hundred; overlays with long lists are the largest that people have."""

_API: Final = "/api/"
_OWN_LIMITS: Final = frozenset({"/api/replay", "/api/rules/backtest", "/api/admin/rule-packs"})


class BodyLimit:
    """ASGI middleware: a request to the API that sends more is refused with 413, unless its route has a limit of its
    own and reads its body itself (serve.ingest.body.read_body)."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_bounded(scope["path"]):
            receive = _bounded(receive)
        await self._application(scope, receive, send)


def _is_bounded(path: str) -> bool:
    # An index of the bulk door may be called api.
    return path.startswith(_API) and path not in _OWN_LIMITS and not path.endswith("/_bulk")


def _bounded(receive: Receive) -> Receive:
    """Whoever reads the body within the application is told by an exception, which is answered like any other."""
    size = 0

    async def receive_within_limit() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes")
        return message

    return receive_within_limit
