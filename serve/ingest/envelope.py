"""Verifying the signed envelope: time, key, digest, signature, nonce, each refusal with a reason of its own.

A sender that only knows OTLP drops its data on 400 and 401, so whatever passes by itself is 503. A nonce is spent only
when the signature is good: nobody without the key can use up nonces of those who have it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from agent.contract import EnvelopeError, SignedHeaders, payload_hash, read_envelope
from serve.auth import Authenticator
from serve.errors import WireError
from serve.ingest.intake import Sender, agent_run
from serve.signing_keyring import HeldKey, SigningKeyring
from store.nonces import Nonce

INGEST_PATH: Final = "/ingest/logs"

# Whether it was the first time.
SpendNonce: TypeAlias = Callable[[Nonce], Awaitable[bool]]

_METHOD = "POST"
_SKEW_RETRY_S = 5  # a clock does not mend itself within a second
_REPLICAS_APART = timedelta(seconds=60)  # how far the clocks of two replicas may be apart
_OFF_THE_LOOP = 1024 * 1024


class EnvelopeCheck:
    """Admits senders whose request is signed by a valid signing key of the tenant that their credential names."""

    def __init__(
        self,
        authenticator: Authenticator,
        keyring: SigningKeyring,
        spend: SpendNonce,
        clock: Callable[[], datetime],
        window_s: float,
    ) -> None:
        self._authenticator = authenticator
        self._keyring = keyring
        self._spend = spend
        self._clock = clock
        self._window = timedelta(seconds=window_s)

    async def admit(self, headers: Mapping[str, str]) -> SignedSender:
        """Everything that the headers alone can tell; raises WireError."""
        tenant, _ = await self._authenticator.tenant_principal(headers, "ingest")
        envelope = _read(headers)
        now = self._clock()
        self._check_time(envelope.parts.timestamp_ms, now)
        key = await self._keyring.find(tenant, envelope.parts.key_id)
        key.check_valid(now)
        peer = self._authenticator.peer(headers)
        if peer is not None and peer.agent != key.row.agent:
            detail = "the signing key is not of the agent that the client certificate names: use those of one agent"
            raise WireError(403, detail, reason="certificate_mismatch")
        return SignedSender(Sender(tenant, key.row.agent, agent_run(headers)), envelope, key, self._spend_once)

    def _check_time(self, timestamp_ms: int, now: datetime) -> None:
        ahead = _moment(timestamp_ms) - now
        if abs(ahead) <= self._window:
            return
        seconds = abs(ahead).total_seconds()
        detail = (
            f"this sender's clock is {seconds:.0f} s {'ahead of' if ahead > timedelta() else 'behind'} the server's, "
            f"{self._window.total_seconds():.0f} s are allowed: take the time of X-Server-Time and sign again"
        )
        raise WireError(503, detail, retry_after_s=_SKEW_RETRY_S, reason="clock_skew")

    async def _spend_once(self, sender: Sender, envelope: SignedHeaders) -> None:
        parts = envelope.parts
        # No replica takes this timestamp after the window, whatever its clock: then the nonce may be forgotten.
        expires = _moment(parts.timestamp_ms) + self._window + _REPLICAS_APART
        if not await self._spend(Nonce(sender.tenant, parts.key_id, parts.nonce, expires)):
            detail = "X-Nonce was used before: sign again with a new nonce and the same X-Idempotency-Key"
            raise WireError(409, detail, reason="replayed_nonce")


@dataclass(frozen=True, slots=True)
class SignedSender:
    """A sender whose envelope is in order as far as the headers tell."""

    sender: Sender
    envelope: SignedHeaders
    key: HeldKey
    spend: Callable[[Sender, SignedHeaders], Awaitable[None]]
    path: str = INGEST_PATH

    async def confirm(self, body: bytes) -> None:
        """Digest, then signature, then nonce; raises WireError."""
        hashed = await asyncio.to_thread(payload_hash, body) if len(body) > _OFF_THE_LOOP else payload_hash(body)
        if not hmac.compare_digest(hashed, self.envelope.parts.payload_hash):
            detail = "X-Payload-Hash is not the SHA-256 of the body as it came: hash what is sent, after compression"
            raise WireError(400, detail, reason="digest_mismatch")
        if not self.envelope.signed_by(self.key.secret, _METHOD, self.path):
            detail = "X-Signature does not fit: check the secret and the canonical form (docs/wire.md)"
            raise WireError(401, detail, reason="bad_signature")
        await self.spend(self.sender, self.envelope)


def _read(headers: Mapping[str, str]) -> SignedHeaders:
    try:
        return read_envelope(headers)
    except EnvelopeError as error:
        if error.kind == "missing":
            raise WireError(
                401, f"{error}: this address takes signed requests only", reason="envelope_missing"
            ) from error
        raise WireError(400, str(error), reason="envelope_malformed") from error


def _moment(timestamp_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)
