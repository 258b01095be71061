"""Certificates of agents from somebody else's authority, by a program of the operator's (a company's CA, a vault).

The program gets the certificate request (PKCS #10, PEM) on standard input, and in its environment what the certificate
must say: TRUSTSOC_CERTIFICATE_URI (a subject alternative name of type URI), TRUSTSOC_TENANT, TRUSTSOC_AGENT and
TRUSTSOC_CERTIFICATE_DAYS. It writes the certificate and what lies between it and the authority in PEM to standard
output. Nothing that it writes is believed before it was checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from serve.control.certificate_signer import CertificateRequest, IssuedCertificate
from serve.errors import WireError
from serve.peer import PeerIdentity, identity_of

logger = structlog.get_logger("external_authority")

_ANSWER_S: Final = 20.0
_MOST_BYTES: Final = 65_536
_MOST_SIGNERS: Final = 5
_RETRY_S: Final = 60
_SUBJECT = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
# The program has its own secrets; those of this process are none of its business.
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


class BadCertificate(Exception):
    """The authority's program wrote something that is no certificate for this agent."""


class ExternalAuthority:
    """An authority that is asked through a program. Its certificates are revoked where they are made.

    `command`: the program and its arguments; empty where nobody set one. `trusted`: a file of the authorities that
    agents and this server believe, in PEM.
    """

    def __init__(self, command: Sequence[str], trusted: Path, days: int) -> None:
        self._command, self._trusted, self._days = tuple(command), trusted, days

    def authority(self) -> str:
        """The certificates that agents trust, in PEM; raises WireError 503 without a program or without them."""
        if not self._command:
            raise _unavailable(
                "agents' certificates are made elsewhere, and nobody has said how: set TRUSTSOC_AGENT_AUTHORITY_COMMAND"
            )
        try:
            text = self._trusted.read_text("ascii")
            x509.load_pem_x509_certificates(text.encode())
        except (OSError, ValueError) as error:
            raise _unavailable(f"the authority's certificates cannot be read from {self._trusted}") from error
        return text

    async def sign(
        self, request: CertificateRequest, tenant_name: str, identity: PeerIdentity, now: datetime
    ) -> IssuedCertificate:
        """A certificate for the agent, checked, with what lies between it and the authority. Raises WireError 503."""
        trusted = x509.load_pem_x509_certificates(self.authority().encode())
        written = await self._answer(request.pem, tenant_name, identity)
        try:
            return checked(written, request, identity, trusted, now)
        except BadCertificate as error:
            logger.error("certificate_refused", agent=identity.agent, tenant=str(identity.tenant), error=str(error))
            raise _unavailable(f"what the authority's program wrote cannot be used: {error}") from error

    def revoke(self, serials: Sequence[str], now: datetime) -> bool:
        """False: a revocation list of somebody else's is not ours to write."""
        return False

    async def _answer(self, pem: str, tenant_name: str, identity: PeerIdentity) -> bytes:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "TRUSTSOC_CERTIFICATE_URI": identity.uri,
            "TRUSTSOC_TENANT": tenant_name,
            "TRUSTSOC_AGENT": identity.agent,
            "TRUSTSOC_CERTIFICATE_DAYS": str(self._days),
        }
        pipe = asyncio.subprocess.PIPE
        try:
            program = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, limit=_MOST_BYTES
            )
        except OSError as error:
            raise _unavailable(f"the authority's program cannot be started: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(_ANSWER_S):
                written, said = await program.communicate(pem.encode("ascii"))
        except TimeoutError as error:
            raise _unavailable(f"the authority's program did not answer within {_ANSWER_S:.0f} s") from error
        finally:
            if program.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    program.kill()
                await program.wait()
        if program.returncode != 0 or len(written) > _MOST_BYTES:
            words = said.decode("utf-8", "replace")[-2000:]
            logger.error("authority_program_failed", status=program.returncode, agent=identity.agent, said=words)
            raise _unavailable(f"the authority's program ended with status {program.returncode}: the log has its words")
        return written


def checked(
    written: bytes,
    request: CertificateRequest,
    identity: PeerIdentity,
    trusted: Sequence[x509.Certificate],
    now: datetime,
) -> IssuedCertificate:
    """The certificate that a program wrote, when it is for this key and agent alone and by a trusted authority.

    Raises BadCertificate, which says what is wrong with it.
    """
    try:
        leaf, *between = x509.load_pem_x509_certificates(written)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        is_authority = _says_authority(leaf)
        purposes = _purposes(leaf)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise BadCertificate(f"no certificate with a name of type URI ({type(error).__name__})") from error
    if leaf.public_key().public_bytes(*_SUBJECT) != request.key.public_bytes(*_SUBJECT):
        raise BadCertificate("it is for another key than the request's")
    if identity_of(uris) != identity:
        raise BadCertificate(f"it must name {identity.uri} and no other agent")
    if is_authority:
        raise BadCertificate("it may sign certificates itself")
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise BadCertificate("it is not good for clients (extended key usage)")
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise BadCertificate("it is not valid now")
    _check_signers(leaf, between, trusted, now)
    chain = b"".join(item.public_bytes(Encoding.PEM) for item in (leaf, *between))
    return IssuedCertificate(
        chain.decode("ascii"), f"{leaf.serial_number:x}", leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )


def _check_signers(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], now: datetime
) -> None:
    item = leaf
    for _ in range(_MOST_SIGNERS):
        if any(_signed_by(item, authority) for authority in trusted):
            return
        above = next((other for other in between if other != item and _signed_by(item, other)), None)
        if above is None or not _says_authority(above) or not above.not_valid_before_utc <= now:
            break
        item = above
    raise BadCertificate("no authority that agents and this server believe has signed it")


def _signed_by(item: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        item.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _says_authority(item: x509.Certificate) -> bool:
    try:
        return item.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _purposes(item: x509.Certificate) -> x509.ExtendedKeyUsage | None:
    try:
        return item.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _unavailable(detail: str) -> WireError:
    return WireError(503, detail, retry_after_s=_RETRY_S, reason="external_authority")
