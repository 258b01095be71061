"""Who this agent is: the files that prove it, read anew whenever they change."""

from __future__ import annotations

import json
import logging
import secrets
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.contract import EnvelopeError, EnvelopeParts, SigningKey, new_nonce, payload_hash, sign, string_to_sign
from agent.forwarder.config import ConfigError, ServerConfig, read_api_key

logger = logging.getLogger("agent.forwarder.identity")

SKEW_S: Final = 60.0
"""How far the server's clock may be from ours, as far as we know it, before ours is corrected; it allows 300 s."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one reading of the files gave. `api_key` is '' when the certificate alone says who sends."""

    context: ssl.SSLContext
    signing_key: SigningKey
    api_key: str
    version: int

    def __repr__(self) -> str:
        return f"Credentials(key_id={self.signing_key.key_id!r}, version={self.version})"


def load_credentials(server: ServerConfig, version: int = 1) -> Credentials:
    """Raises ConfigError when a file is missing or does not fit the others."""
    try:
        context = ssl.create_default_context(cafile=str(server.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(server.certificate, server.key)
    except (OSError, ssl.SSLError) as error:
        names = f"{server.authority}, {server.certificate}, {server.key}"
        raise ConfigError(f"the TLS files cannot be used ({error}); they are {names}") from error
    return Credentials(context, _signing_key(server.signing_key), read_api_key(server.api_key), version)


class Identity:
    """The credentials of now, and a clock that is as right as the server's. Any thread may call any method."""

    def __init__(self, server: ServerConfig) -> None:
        """Raises ConfigError."""
        self._server = server
        self._lock = threading.Lock()
        self._seen = self._versions()
        self._now = load_credentials(server)
        self._offset_ms = 0

    @property
    def credentials(self) -> Credentials:
        """Whoever holds a connection made with another version makes a new one."""
        with self._lock:
            return self._now

    @property
    def offset_s(self) -> float:
        """Seconds that the server's clock is ahead of this host's; 0 while they agree well enough."""
        return self._offset_ms / 1000

    def reload(self, *, force: bool = False) -> bool:
        """Takes over files that have changed; False when none has, or they cannot be used (then the old ones stay)."""
        with self._lock:
            seen = self._versions()
            if seen == self._seen and not force:
                return False
            try:
                self._now = load_credentials(self._server, self._now.version + 1)
            except ConfigError as error:
                logger.warning("new credentials are not usable: %s", error)
                return False
            self._seen = seen
        logger.info("credentials were read anew, signing key %s", self._now.signing_key.key_id)
        return True

    def headers(self, credentials: Credentials, path: str, body: bytes, idempotency_key: str = "") -> dict[str, str]:
        """The signed envelope of one attempt, with a time and a nonce of its own. Raises EnvelopeError."""
        envelope = sign(
            credentials.signing_key,
            method="POST",
            path=path,
            client_id=self._server.client_id,
            body=body,
            idempotency_key=idempotency_key or secrets.token_hex(16),
            timestamp_ms=time.time_ns() // 1_000_000 + self._offset_ms,
            nonce=new_nonce(),
        )
        headers = envelope.headers
        if credentials.api_key:
            headers["Authorization"] = f"Bearer {credentials.api_key}"
        return headers

    def learn_time(self, server_ms: int) -> bool:
        """Hears the server's time; whether the clock had to be corrected."""
        measured = server_ms - time.time_ns() // 1_000_000
        if abs(measured - self._offset_ms) <= SKEW_S * 1000:
            return False
        # Within the tolerance a host's own clock is the better one: it is not late by the answer's way.
        self._offset_ms = measured if abs(measured) > SKEW_S * 1000 else 0
        logger.warning("this host's clock is %.0f s from the server's: corrected", measured / 1000)
        return True

    def _versions(self) -> tuple[int, ...]:
        server = self._server
        paths = (server.authority, server.certificate, server.key, server.signing_key, server.api_key)
        return tuple(path.stat().st_mtime_ns if path is not None and path.exists() else 0 for path in paths)


def _signing_key(path: Path) -> SigningKey:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        key = SigningKey(stated["key_id"], stated["secret"])
        string_to_sign("POST", "/", EnvelopeParts("x", 10**12, "n" * 16, payload_hash(b""), "x", key.key_id))
        key.secret.encode()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EnvelopeError) as error:
        # Not the error's own text: a JSON error can quote the secret.
        detail = error.strerror if isinstance(error, OSError) else 'it must be {"key_id": …, "secret": …}'
        raise ConfigError(f"the signing key in {path} cannot be used: {detail}") from error
    if not key.secret:
        raise ConfigError(f"the signing key in {path} has an empty secret")
    return key
