"""OTLP/HTTP for senders of this host: `POST /v1/logs` with the local token; 200 means that the batch is on disk.

An ASGI application, served by uvicorn's protocol (serving.py). Answers as docs/wire.md says for `/v1/logs`, but for a
token that is wrong (503, see `_admit`); partial_success is never used: of a batch that can be read every record is
accepted.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agent.forwarder.answers import Answer, Refusal, refused, success
from agent.forwarder.batch import BodyEncoding, BodyKind
from agent.forwarder.config import is_token
from agent.forwarder.intake import Body, Intake
from agent.forwarder.meter import Meter

logger = logging.getLogger("agent.forwarder.listener")

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Page: TypeAlias = Callable[[], tuple[str, bytes]]
"""Makes the content type and the text of a page."""

LOGS_PATH: Final = "/v1/logs"
POISON_PATH: Final = "/poison/"
"""A POST to this and a name takes that batch from poison/ and sends it anew."""
_WRONG_RETRY_S = 10
_ENCODINGS: Final[dict[str, BodyEncoding]] = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "zstd": "zstd",
    "deflate": "deflate",
    "zlib": "deflate",  # what collectors call it
}


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """`most_sent`: bytes of one body as sent; `most_held`: of all bodies in memory at once; `body_s`: seconds that a
    body may take to arrive."""

    most_sent: int = 16 << 20
    most_held: int = 32 << 20
    body_s: float = 30.0


class Listener:
    """The application. `token` may be replaced while it runs; `pages` are shown to this host alone."""

    def __init__(
        self, intake: Intake, meter: Meter, token: str, limits: ListenerLimits, pages: Mapping[str, Page]
    ) -> None:
        self.token = token
        self.draining = False
        self._intake = intake
        self._meter = meter
        self._limits = limits
        self._pages = pages
        self._held = 0
        self._wrong_at = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Never raises for bad input or trouble with the disk."""
        page = self._pages.get(scope["path"]) if scope["method"] in {"GET", "HEAD"} else None
        if page is not None and _is_local(scope):
            await _reply(send, _shown(page))
            return
        answer = await self._answer(scope, receive)
        self._meter.count("requests_total", label=str(answer.status))
        await _reply(send, answer)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        kind: BodyKind = "json" if _media_type(headers) == "application/json" else "protobuf"
        try:
            self._check(scope, headers)
            if scope["path"] != LOGS_PATH:
                await self._intake.store_again(scope["path"].removeprefix(POISON_PATH))
                return success(kind)
            encoding = _encoding(headers.get("content-encoding", ""))
            declared = self._declared(headers.get("content-length", ""))
            async with asyncio.timeout(self._limits.body_s) as limit:
                body = await self._read(receive, declared)
                limit.reschedule(None)
            try:
                await self._intake.store(Body(kind, encoding, body))
            finally:
                self._held -= len(body)
        except Refusal as refusal:
            return refused(refusal, kind)
        except TimeoutError:
            detail = f"the body did not arrive within {self._limits.body_s:.0f} s: send it again"
            return refused(Refusal(503, "broken_off", detail), kind)
        except Exception:
            logger.exception("unexpected error at the listener")
            detail = "an unexpected error, which is logged: keep the batch and retry later"
            return refused(Refusal(503, "internal", detail, 30), kind)
        return success(kind)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Everything that the headers alone can tell."""
        logs = scope["path"] == LOGS_PATH
        if not logs and not scope["path"].startswith(POISON_PATH):
            raise Refusal(404, "not_found", f"logs come to {LOGS_PATH}: switch other signals off at the sender")
        if scope["method"] != "POST":
            raise Refusal(405, "wrong_method", "log records come here by POST, as OTLP in protobuf or JSON")
        self._admit(headers.get("authorization", ""))
        if (connection := scope.get("state", {}).get("connection")) is not None:
            connection.admitted = True
        if logs and _media_type(headers) not in {"application/json", "application/x-protobuf"}:
            stated = headers.get("content-type", "")[:60]
            detail = f"Content-Type {stated!r} is not supported: send OTLP in protobuf or JSON"
            raise Refusal(415, "unsupported_media", detail)
        if self.draining:
            raise Refusal(503, "stopping", "the forwarder is stopping: send it again", 5)

    def _admit(self, authorization: str) -> None:
        """Raises Refusal for who does not bring the token.

        A token of the right form that is another one is mostly ours of yesterday, or of tomorrow: token and sender are
        renewed one after the other. Collectors throw their data away on 401, so it is asked to come back; nothing of it
        is read. What has not even the form was never set up, and no waiting mends that.
        """
        scheme, _, stated = authorization.partition(" ")
        given = stated.strip()
        if scheme.lower() != "bearer" or not is_token(given):
            raise Refusal(401, "unauthenticated", "the local token is missing: send Authorization: Bearer TOKEN")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            self._meter.count("wrong_tokens_total")
            self._wrong_at = time.monotonic()
            detail = (
                "a sender of this host has another local token than the forwarder: give it the new one, or SIGHUP here"
            )
            if self._meter.trouble("sender", "degraded", detail):
                logger.warning("%s", detail)
            said = "this is not the local token: keep the data, give me the new token"
            raise Refusal(503, "wrong_token", said, _WRONG_RETRY_S)
        if time.monotonic() - self._wrong_at > 2 * _WRONG_RETRY_S:
            # The other sender has not come back with its wrong one.
            self._meter.well("sender")

    def _declared(self, header: str) -> int | None:
        if not header:
            return None
        if not (header.isascii() and header.isdigit()):
            raise Refusal(400, "malformed", "Content-Length is not a number")
        if len(header) > 15 or int(header) > self._limits.most_sent:
            raise self._too_large()
        if self._held + int(header) > self._limits.most_held:
            raise _busy()
        return int(header)

    async def _read(self, receive: Receive, declared: int | None) -> bytes:
        """The whole body, which stays counted in `_held` when this returns."""
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(503, "broken_off", f"the body broke off after {size} bytes: send it again")
                part = message.get("body", b"")
                size += len(part)
                self._held += len(part)
                parts.append(part)
                if size > self._limits.most_sent:
                    raise self._too_large()
                if self._held > self._limits.most_held:
                    raise _busy()
                if not message.get("more_body"):
                    break
            if declared is not None and size != declared:
                raise Refusal(503, "broken_off", f"the body has {size} bytes, {declared} were declared: send it again")
        except BaseException:
            self._held -= size
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> Refusal:
        detail = f"the body is larger than {self._limits.most_sent} bytes: send smaller batches"
        return Refusal(413, "too_large", detail)


def _shown(page: Page) -> Answer:
    try:
        kind, text = page()
    except Exception:
        logger.exception("a page cannot be shown")
        return Answer(503, b"", {"retry-after": "5"})
    return Answer(200, text, {"content-type": kind, "cache-control": "no-store"})


async def _reply(send: Send, answer: Answer) -> None:
    headers = answer.headers | {"content-length": str(len(answer.body))}
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await send({"type": "http.response.body", "body": answer.body})


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _encoding(header: str) -> BodyEncoding:
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    if not names:
        return "identity"
    found = _ENCODINGS.get(names[0]) if len(names) == 1 else None
    if found is None:
        raise Refusal(415, "unsupported_media", f"Content-Encoding {header.strip()[:40]!r} is not supported")
    return found


def _busy() -> Refusal:
    return Refusal(503, "busy", "other requests fill the memory for bodies: retry in a moment", 1)


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
