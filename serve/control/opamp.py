"""POST /v1/opamp: the OpAMP server over plain HTTP (specification 0.11 and later), for collectors of any maker.

Senders show a key with the scope `ingest` or a client certificate. What will pass is 429 or 503 with Retry-After of at
least 30 seconds, which is the least that the specification recommends; what never will says BAD_REQUEST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request, Response

from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.opamp_messages import BAD_REQUEST, UNAVAILABLE, UnreadableMessage, error_message
from serve.control.opamp_services import OpampCaller, OpampServices
from serve.control.opamp_state import read_said
from serve.control.pace import Pace
from serve.errors import PROTOBUF, WireAnswer, WireError, problem
from serve.ingest.body import (
    ACCEPTED_ENCODINGS,
    check_declared_length,
    compressed_answer,
    content_encoding,
    read_body,
    read_out,
)
from serve.ingest.doors import wire_response
from serve.stamped_route import StampedRoute
from store.postgres import StorageUnavailable

PATH: Final = "/v1/opamp"
MOST_BYTES: Final = 64 * 2**20
"""Of a message, as it comes and without its compression."""
LEAST_RETRY_S: Final = 30

_UID_BYTES: Final = 16
# One instance: a poll every half minute, and what it says of its own accord besides.
_MESSAGES_PER_S: Final = 0.5
_BURST: Final = 20.0
# One replica.
_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 4 * MOST_BYTES
_READ_AT_ONCE: Final = 4
_BODY_S: Final = 60.0


class Throttle:
    """Who may send now. Not safe for threads; `clock` is in seconds and does not go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._pace = Pace(_MESSAGES_PER_S, _BURST, clock, least_retry_s=LEAST_RETRY_S)
        self._all = _Room()
        self._rooms: dict[TenantId, _Room] = {}

    def check(self, tenant: TenantId, instance_uid: bytes) -> None:
        """Counts a message of an instance; raises WireError 429 when there are too many."""
        self._pace.check((tenant, instance_uid), "this instance sends too often: poll every 30 seconds")

    @contextmanager
    def room(self, tenant: TenantId, size: int) -> Iterator[None]:
        """Room for a request of so many bytes while the block runs; raises WireError 503 when there is none.

        A tenant has half of all at most: whoever sends slowly keeps no other tenant's agents waiting.
        """
        own = self._rooms.get(tenant, _Room())
        for_all = self._all.holds(size, _AT_ONCE, _BYTES_AT_ONCE)
        if not for_all or not own.holds(size, _AT_ONCE // 2, _BYTES_AT_ONCE // 2):
            raise WireError(503, "too many agents report at once", retry_after_s=LEAST_RETRY_S, reason="busy")
        self._rooms[tenant] = own
        self._all.take(1, size)
        own.take(1, size)
        try:
            yield
        finally:
            self._all.take(-1, -size)
            own.take(-1, -size)
            if not own.requests:
                del self._rooms[tenant]


@dataclass(slots=True)
class _Room:
    """Requests that are being read, and the bytes that were set aside for them."""

    requests: int = 0
    bytes: int = 0

    def holds(self, size: int, most: int, most_bytes: int) -> bool:
        """Whether one more request of that size fits."""
        return self.requests < most and self.bytes + size <= most_bytes

    def take(self, requests: int, size: int) -> None:
        """Counts; negative numbers give back."""
        self.requests += requests
        self.bytes += size


class OpampDoor:
    """Reads messages, and answers each in the protocol's own terms. Wired once per replica."""

    def __init__(self, authenticator: Authenticator, services: OpampServices, throttle: Throttle) -> None:
        self._authenticator = authenticator
        self._services = services
        self._throttle = throttle
        self._readers = asyncio.Semaphore(_READ_AT_ONCE)

    async def handle(self, request: Request) -> WireAnswer:
        """Answers one message. Never raises for bad input or for storage trouble."""
        try:
            answer = await self._accept(request)
        except StorageUnavailable as error:
            wait = max(LEAST_RETRY_S, round(error.retry_after_s))
            answer = refusal(WireError(503, "the store is unavailable: retry later", retry_after_s=wait))
        except WireError as error:
            answer = refusal(error)
        return compressed_answer(answer, request.headers.get("accept-encoding", ""))

    async def _accept(self, request: Request) -> WireAnswer:
        headers = request.headers
        tenant, principal = await self._authenticator.tenant_principal(headers, "ingest")
        peer = self._authenticator.peer(headers)
        caller = OpampCaller(tenant, principal.key_id, None if peer is None else peer.agent)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != PROTOBUF:
            raise WireError(415, f"Content-Type {kind[:60]!r} is not supported: OpAMP over HTTP sends {PROTOBUF}")
        encoding = content_encoding(headers.get("content-encoding", ""))
        declared = check_declared_length(headers.get("content-length", ""), MOST_BYTES)
        with self._throttle.room(tenant, MOST_BYTES if declared is None else declared):
            body = await _body_in_time(request, declared)
            try:
                async with self._readers:
                    said = await read_out(body, encoding, MOST_BYTES, read_said)
            except UnreadableMessage as error:
                raise WireError(400, str(error)) from error
            if len(said.instance_uid) != _UID_BYTES or not any(said.instance_uid):
                detail = f"instance_uid must have {_UID_BYTES} bytes, not all of them zero"
                malformed = error_message(BAD_REQUEST, detail, instance_uid=said.instance_uid[:64])
                return WireAnswer(200, PROTOBUF, malformed, {})
            self._throttle.check(tenant, said.instance_uid)
            return WireAnswer(200, PROTOBUF, await self._services.exchange(caller, said), {})


async def _body_in_time(request: Request, declared: int | None) -> bytes:
    try:
        async with asyncio.timeout(_BODY_S):
            return await read_body(request.stream(), MOST_BYTES, declared)
    except TimeoutError as error:
        raise WireError(503, f"the body took more than {_BODY_S:.0f} s", retry_after_s=LEAST_RETRY_S) from error


def refusal(error: WireError) -> WireAnswer:
    """A refusal as OpAMP clients read it; those of authentication are HTTP's alone."""
    if error.retryable:
        wait = max(LEAST_RETRY_S, error.retry_after_s or 0)
        body = error_message(UNAVAILABLE, error.detail, retry_after_s=wait)
        return WireAnswer(error.status, PROTOBUF, body, {"Retry-After": str(wait)})
    if error.status in {401, 403}:
        return problem(error)
    headers = {"Accept-Encoding": ACCEPTED_ENCODINGS} if error.status == 415 else {}
    return WireAnswer(error.status, PROTOBUF, error_message(BAD_REQUEST, error.detail), headers)


def opamp_routes(door: OpampDoor, route_class: type[StampedRoute]) -> APIRouter:
    """The one route. It is not in the OpenAPI document: what goes through it is protobuf."""
    router = APIRouter(route_class=route_class)

    @router.post(PATH, include_in_schema=False)
    async def opamp(request: Request) -> Response:
        return wire_response(await door.handle(request))

    return router
