"""What an agent and the server say to each other: the signed envelope of a request. Standard library only.

A sender holds a signing key: an id and a secret, whose text as it was shown is the HMAC-SHA256 key. Every attempt has a
timestamp and a nonce of its own; the idempotency key stays the same on every attempt to send a batch.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

ENVELOPE_VERSION: Final = "TRUSTSOC-HMAC-SHA256-V1"
SIGNATURE_PREFIX: Final = "v1="

CLIENT_HEADER: Final = "X-Client-Id"
TIMESTAMP_HEADER: Final = "X-Request-Timestamp"
NONCE_HEADER: Final = "X-Nonce"
DIGEST_HEADER: Final = "X-Payload-Hash"
IDEMPOTENCY_HEADER: Final = "X-Idempotency-Key"
KEY_HEADER: Final = "X-Key-Id"
SIGNATURE_HEADER: Final = "X-Signature"
SERVER_TIME_HEADER: Final = "X-Server-Time"

# Visible ASCII alone: no part can hold the newline that separates parts, and no two texts look or compare alike.
_PART = re.compile(r"[!-~]+")
_FORMS: Final[dict[str, tuple[re.Pattern[str], str]]] = {
    CLIENT_HEADER: (re.compile(r"[!-~]{1,64}"), "the tenant's id or name"),
    TIMESTAMP_HEADER: (re.compile(r"[1-9][0-9]{12}"), "milliseconds since 1970-01-01T00:00:00Z, 13 digits"),
    NONCE_HEADER: (re.compile(r"[A-Za-z0-9_-]{16,64}"), "16 to 64 of A-Z a-z 0-9 _ -"),
    DIGEST_HEADER: (re.compile(r"[0-9a-f]{64}"), "the SHA-256 of the body as sent, 64 lower-case hex digits"),
    IDEMPOTENCY_HEADER: (re.compile(r"[!-~]{1,120}"), "1 to 120 visible ASCII characters"),
    KEY_HEADER: (re.compile(r"[!-~]{1,64}"), "the id of the signing key"),
    SIGNATURE_HEADER: (re.compile(r"v1=[0-9a-f]{64}"), "v1= and 64 lower-case hex digits"),
}


class EnvelopeError(Exception):
    """The envelope cannot be made or read. `kind` tells a header that is missing from one of the wrong form."""

    def __init__(self, kind: Literal["missing", "malformed"], detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key as its holder keeps it. `secret` is the whole text that was shown once; repr() hides it."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class EnvelopeParts:
    """What is signed besides method and path. `payload_hash` is the hex SHA-256 of the body as sent on the wire."""

    client_id: str
    timestamp_ms: int
    nonce: str
    payload_hash: str
    idempotency_key: str
    key_id: str


@dataclass(frozen=True, slots=True)
class SignedHeaders:
    """A whole envelope: its parts and the signature, as the headers carry them."""

    parts: EnvelopeParts
    signature: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send, besides Authorization and those of the protocol."""
        return _texts(self.parts) | {SIGNATURE_HEADER: self.signature}

    def signed_by(self, secret: str, method: str, path: str) -> bool:
        """Whether the holder of the secret signed these parts for this method and path; takes constant time."""
        return hmac.compare_digest(signature(secret, string_to_sign(method, path, self.parts)), self.signature)


def string_to_sign(method: str, path: str, parts: EnvelopeParts) -> bytes:
    """The canonical form: nine lines joined by a newline, each of visible ASCII, so no two requests have the same one.

    Raises EnvelopeError for a part of the wrong form.
    """
    for what, value in (("method", method), ("path", path)):
        if not _PART.fullmatch(value):
            raise EnvelopeError("malformed", f"the {what} must be visible ASCII without spaces, not {value!r}")
    texts = _texts(parts)
    for header, value in texts.items():
        _check(header, value)
    return "\n".join((ENVELOPE_VERSION, method.upper(), path, *texts.values())).encode("ascii")


def signature(secret: str, message: bytes) -> str:
    """The text of X-Signature for a canonical form."""
    return SIGNATURE_PREFIX + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def sign(
    key: SigningKey,
    *,
    method: str,
    path: str,
    client_id: str,
    body: bytes,
    idempotency_key: str,
    timestamp_ms: int,
    nonce: str,
) -> SignedHeaders:
    """The envelope of one attempt to send `body`, compressed as it will go out. Raises EnvelopeError."""
    parts = EnvelopeParts(client_id, timestamp_ms, nonce, payload_hash(body), idempotency_key, key.key_id)
    return SignedHeaders(parts, signature(key.secret, string_to_sign(method, path, parts)))


def payload_hash(body: bytes) -> str:
    """The text of X-Payload-Hash."""
    return hashlib.sha256(body).hexdigest()


def new_nonce() -> str:
    """A nonce that nobody can guess or meet by chance: 24 characters from 144 random bits."""
    return base64.urlsafe_b64encode(secrets.token_bytes(18)).decode("ascii")


def read_envelope(headers: Mapping[str, str]) -> SignedHeaders:
    """The envelope in the headers (names of any case where the mapping allows it). Raises EnvelopeError."""
    missing = [name for name in _FORMS if not headers.get(name.lower(), "")]
    if missing:
        raise EnvelopeError("missing", f"the signed envelope lacks {', '.join(missing)}")
    found = {name: headers[name.lower()] for name in _FORMS}
    for header, value in found.items():
        _check(header, value)
    parts = EnvelopeParts(
        client_id=found[CLIENT_HEADER],
        timestamp_ms=int(found[TIMESTAMP_HEADER]),
        nonce=found[NONCE_HEADER],
        payload_hash=found[DIGEST_HEADER],
        idempotency_key=found[IDEMPOTENCY_HEADER],
        key_id=found[KEY_HEADER],
    )
    return SignedHeaders(parts, found[SIGNATURE_HEADER])


def _texts(parts: EnvelopeParts) -> dict[str, str]:
    return {
        CLIENT_HEADER: parts.client_id,
        TIMESTAMP_HEADER: str(parts.timestamp_ms),
        NONCE_HEADER: parts.nonce,
        DIGEST_HEADER: parts.payload_hash,
        IDEMPOTENCY_HEADER: parts.idempotency_key,
        KEY_HEADER: parts.key_id,
    }


def _check(header: str, value: str) -> None:
    form, meaning = _FORMS[header]
    if not form.fullmatch(value):
        raise EnvelopeError("malformed", f"{header} must be {meaning}")
