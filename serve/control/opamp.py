"""POST /v1/opamp: the OpAMP server over plain HTTP (specification 0.11 and later), for collectors of any maker.

Senders show a key with the scope `ingest` or a client certificate. What will pass is 429 or 503 with Retry-After of at
least 30 seconds, which is the least that the specification recommends; what never will says BAD_REQUEST.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from fastapi import APIRouter, Request, Response

from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.agent_door import StampedRoute
from serve.control.opamp_messages import BAD_REQUEST, UNAVAILABLE, UnreadableMessage, error_message
from serve.control.opamp_services import OpampCaller, OpampServices
from serve.control.opamp_state import read_said
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
from serve.ingest.token_bucket import TokenBucket
from store.postgres import StorageUnavailable

PATH: Final = "/v1/opamp"
MOST_BYTES: Final = 64 * 2**20
"""Of a message, as it comes and without its compression."""
LEAST_RETRY_S: Final = 30

_UID_BYTES: Final = 16
# One instance: a poll every half minute, and what it says of its own accord besides.
_MESSAGES_PER_S: Final = 0.5
_BURST: Final = 20.0
_REMEMBERED: Final = 50_000
# One replica.
_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 4 * MOST_BYTES
_READ_AT_ONCE: Final = 4


class Throttle:
    """Who may send now. Not safe for threads; `clock` is in seconds and does not go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[TenantId, bytes], TokenBucket] = OrderedDict()
        self._requests = 0
        self._bytes = 0

    def check(self, tenant: TenantId, instance_uid: bytes) -> None:
        """Counts a message of an instance; raises WireError 429 when there are too many."""
        now = self._clock()
        bucket = self._buckets.pop((tenant, instance_uid), None) or TokenBucket(_MESSAGES_PER_S, _BURST, now)
        self._buckets[tenant, instance_uid] = bucket
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.take(now, 1):
            raise WireError(429, "this instance sends too often: poll every 30 seconds", retry_after_s=LEAST_RETRY_S)

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Room for a request of so many bytes while the block runs; raises WireError 503 when there is none."""
        if self._requests >= _AT_ONCE or self._bytes + size > _BYTES_AT_ONCE:
            raise WireError(503, "too many agents report at once", retry_after_s=LEAST_RETRY_S, reason="busy")
        self._requests += 1
        self._bytes += size
        try:
            yield
        finally:
            self._requests -= 1
            self._bytes -= size


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
        with self._throttle.room(MOST_BYTES if declared is None else declared):
            body = await read_body(request.stream(), MOST_BYTES, declared)
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


def opamp_routes(door: OpampDoor) -> APIRouter:
    """The one route. It is not in the OpenAPI document: what goes through it is protobuf."""
    router = APIRouter(route_class=StampedRoute)

    @router.post(PATH, include_in_schema=False)
    async def opamp(request: Request) -> Response:
        return wire_response(await door.handle(request))

    return router
