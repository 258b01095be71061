"""Who calls the agent API: an agent that signs every request with its key and, over TLS, shows its certificate.

The signature covers method, path, time, nonce and body, so it is enough by itself; a certificate must name the same
agent. Every answer states the server's time: an answer without it is some proxy's.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from fastapi import Request

from actors.metrics import Metrics
from agent.contract import payload_hash
from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.pace import Pace
from serve.errors import WireError
from serve.ingest.body import check_declared_length, read_body
from serve.ingest.envelope import EnvelopeCheck
from serve.stamped_route import StampedRoute
from store.tenants import Principal

_OFF_THE_LOOP: Final = 1 << 20
# One agent: a poll every half minute, and while it is at work what a job prints and brings.
REQUESTS_PER_S: Final = 10.0
BURST: Final = 200.0


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

    def __init__(
        self, authenticator: Authenticator, envelopes: EnvelopeCheck, pace: Pace, *, need_certificate: bool
    ) -> None:
        self._authenticator = authenticator
        self._envelopes = envelopes
        self._pace = pace
        self._need_certificate = need_certificate

    async def admit(self, request: Request, most_bytes: int) -> AgentCaller:
        """The agent and its body of at most so many bytes; raises WireError 400, 401, 403, 409, 413, 429, 503.

        The signature is over the digest that the headers state, so it is checked before anything of the body is read:
        nobody without a key makes this replica hold a body.
        """
        if self._need_certificate and self._authenticator.peer(request.headers) is None:
            detail = "agents show their certificate here: use the TLS port"
            raise WireError(401, detail, reason="certificate_missing")
        signed = await self._envelopes.admit(request.headers)
        if not signed.envelope.signed_by(signed.key.secret, request.method, request.scope["path"]):
            detail = "X-Signature does not fit: check the secret and the canonical form (docs/wire.md)"
            raise WireError(401, detail, reason="bad_signature")
        detail = f"this agent sends more than {REQUESTS_PER_S:.0f} requests a second: is it running twice?"
        self._pace.check((signed.sender.tenant, signed.sender.agent), detail)
        declared = check_declared_length(request.headers.get("content-length", ""), most_bytes)
        body = await read_body(request.stream(), most_bytes, declared)
        large = len(body) > _OFF_THE_LOOP
        hashed = await asyncio.to_thread(payload_hash, body) if large else payload_hash(body)
        if not hmac.compare_digest(hashed, signed.envelope.parts.payload_hash):
            raise WireError(400, "X-Payload-Hash is not the SHA-256 of the body as it came", reason="digest_mismatch")
        await signed.spend(signed.sender, signed.envelope)
        return AgentCaller(signed.sender.tenant, signed.sender.agent, body)


def counted_route(metrics: Metrics) -> type[StampedRoute]:
    """A stamped route whose answers are counted, by its path and their status."""

    class CountedRoute(StampedRoute):
        def answered(self, status: int) -> None:
            metrics.count("agent_requests", path=self.path_format, status=str(status))

    return CountedRoute
