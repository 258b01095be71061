"""Who calls the agent API: an agent that signs every request with its key and, over TLS, shows its certificate.

The signature covers method, path, time, nonce and body, so it is enough by itself; a certificate must name the same
agent. Every answer states the server's time: an answer without it is some proxy's.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from agent.contract import SERVER_TIME_HEADER, payload_hash
from detect.record import TenantId
from serve.auth import Authenticator
from serve.errors import WireError, problem
from serve.ingest.body import read_body
from serve.ingest.doors import wire_response
from serve.ingest.envelope import EnvelopeCheck
from store.postgres import StorageUnavailable
from store.tenants import Principal

M = TypeVar("M", bound=BaseModel)

_OFF_THE_LOOP: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class AgentCaller:
    """An agent whose request is in order, with its body."""

    tenant: TenantId
    agent: str
    body: bytes


class AgentAuthenticator(Authenticator):
    """As the other, and besides: a request with neither key nor certificate is of the tenant that its envelope names.

    What that is worth the signature decides, which is checked against that tenant's signing keys alone.
    """

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The holder of key or certificate, or whoever signs for the tenant in X-Client-Id; raises WireError."""
        if headers.get("authorization") or self.peer(headers) is not None:
            return await super().principal(headers)
        stated = headers.get("x-client-id", "").strip().lower()
        try:
            tenant = TenantId(UUID(stated))
        except ValueError:
            tenant = None
        # UUID() reads other spellings as well, which are not what agents were told.
        if tenant is None or str(tenant) != stated:
            raise WireError(401, "X-Client-Id must be the tenant's id", reason="envelope_missing")
        return Principal(tenant, "", frozenset({"ingest"}), admin=False)


class AgentDoor:
    """Admits agents. `need_certificate`: a signature alone, without a certificate, is not enough."""

    def __init__(self, authenticator: Authenticator, envelopes: EnvelopeCheck, *, need_certificate: bool) -> None:
        self._authenticator = authenticator
        self._envelopes = envelopes
        self._need_certificate = need_certificate

    async def admit(self, request: Request, most_bytes: int) -> AgentCaller:
        """The agent and its body of at most so many bytes; raises WireError 400, 401, 403, 409, 413, 503."""
        if self._need_certificate and self._authenticator.peer(request.headers) is None:
            detail = "agents show their certificate here: use the TLS port"
            raise WireError(401, detail, reason="certificate_missing")
        signed = await self._envelopes.admit(request.headers)
        body = await read_body(request.stream(), most_bytes)
        large = len(body) > _OFF_THE_LOOP
        hashed = await asyncio.to_thread(payload_hash, body) if large else payload_hash(body)
        if not hmac.compare_digest(hashed, signed.envelope.parts.payload_hash):
            raise WireError(400, "X-Payload-Hash is not the SHA-256 of the body as it came", reason="digest_mismatch")
        if not signed.envelope.signed_by(signed.key.secret, request.method, request.scope["path"]):
            detail = "X-Signature does not fit: check the secret and the canonical form (docs/wire.md)"
            raise WireError(401, detail, reason="bad_signature")
        await signed.spend(signed.sender, signed.envelope)
        return AgentCaller(signed.sender.tenant, signed.sender.agent, body)


class StampedRoute(APIRoute):
    """A route whose every answer, a refusal too, carries the server's time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI with the stamp around it."""
        handle = super().get_route_handler()

        async def stamped(request: Request) -> Response:
            try:
                response = await handle(request)
            except WireError as error:
                response = wire_response(problem(error))
            except StorageUnavailable as error:
                wait = max(1, round(error.retry_after_s))
                response = wire_response(problem(WireError(503, "the store is unavailable", retry_after_s=wait)))
            response.headers[SERVER_TIME_HEADER] = str(time.time_ns() // 1_000_000)
            return response

        return stamped


def read_model(model: type[M], body: bytes) -> M:
    """The body as the model has it. Raises WireError 422, which names the first wrong values."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        parts = [f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise WireError(422, "; ".join(parts)[:500]) from error


async def small_body(stream: AsyncIterator[bytes], limit: int) -> bytes:
    """The body of a request that nobody signs."""
    return await read_body(stream, limit)
