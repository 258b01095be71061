"""Signing agents' certificate requests with the authority of `trustsoc cert`, and revoking what was signed.

The private key of the authority stays in its file and is read for each signature: certificates are signed at enrolment
and rotation only. A request proves possession of its key and says nothing else that counts: names come from the server.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serve.errors import WireError
from serve.peer import PeerIdentity

AGENT_DAYS = 90
MOST_CSR_BYTES = 8192
_BACKDATED = timedelta(minutes=5)  # clocks of agents may be a little behind
_REVOKED_DAYS = 3650
_RETRY_S = 300

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request whose key somebody has proved to possess."""

    key: PublicKey
    pem: str


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A signed certificate in PEM, what lies between it and the authority behind it; `serial` in hex."""

    pem: str
    serial: str
    begins: datetime
    ends: datetime


class CertificateSigner(Protocol):
    """Whoever makes certificates for agents."""

    def authority(self) -> str:
        """The certificates that agents trust, in PEM; raises WireError 503 without them."""

    async def sign(
        self, request: CertificateRequest, tenant_name: str, identity: PeerIdentity, now: datetime
    ) -> IssuedCertificate:
        """A client certificate for the agent. Raises WireError 503 while the authority cannot sign."""

    def revoke(self, serials: Sequence[str], now: datetime) -> bool:
        """Puts certificates on the revocation list; False: not ours to do."""


class EmbeddedAuthority:
    """The authority in one folder (`authority.pem`, `authority.key`, `revoked.pem`), as `trustsoc cert` makes it."""

    def __init__(self, folder: Path, days: int = AGENT_DAYS) -> None:
        self._folder = folder
        self._days = days

    def authority(self) -> str:
        """The certificate that agents trust, in PEM; raises WireError 503 without one."""
        return self._read("authority.pem").decode("ascii")

    async def sign(
        self, request: CertificateRequest, tenant_name: str, identity: PeerIdentity, now: datetime
    ) -> IssuedCertificate:
        """A client certificate for the agent. Raises WireError 503 while the authority cannot sign."""
        authority, authority_key = self._pair()
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{identity.agent} of {tenant_name}"[:64])])
        issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority.subject)
            .public_key(request.key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + timedelta(days=self._days))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGNATURES_ONLY, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(authority_key, SHA256())
        )
        return IssuedCertificate(
            certificate.public_bytes(Encoding.PEM).decode("ascii"),
            f"{certificate.serial_number:x}",
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )

    def revoke(self, serials: Sequence[str], now: datetime) -> bool:
        """Puts certificates on the revocation list, which the edge takes over within seconds; False: not ours to do."""
        if not (self._folder / "authority.key").exists():
            return False
        with self._alone():
            authority, key = self._pair()
            path = self._folder / "revoked.pem"
            entries = list(x509.load_pem_x509_crl(path.read_bytes())) if path.exists() else []
            known = {entry.serial_number for entry in entries}
            for serial in {int(text, 16) for text in serials} - known:
                entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
                entries.append(entry.build())
            builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
            builder = builder.last_update(now - _BACKDATED).next_update(now + timedelta(days=_REVOKED_DAYS))
            for item in entries:
                builder = builder.add_revoked_certificate(item)
            _replace(path, builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
        return True

    def _pair(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self._read("authority.pem"))
            key = load_pem_private_key(self._read("authority.key"), password=None)
        except ValueError as error:
            raise _unavailable("the authority's files are damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _unavailable("the authority's key is not of a curve")
        return certificate, key

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise _unavailable("there is no authority: `trustsoc cert init` makes one") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer of the revocation list at a time, over all replicas of the machine."""
        descriptor = os.open(self._folder / ".revoked.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def read_request(pem: str) -> CertificateRequest:
    """A certificate request whose signature proves possession of its key. Raises WireError 422.

    Nobody has shown anything yet, so the kind of key is looked at before its signature is: others cost more to check.
    """
    if len(pem) > MOST_CSR_BYTES:
        raise WireError(422, f"csr: a certificate request has at most {MOST_CSR_BYTES} bytes", field="csr")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = _accepted(request.public_key())
        good = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise WireError(422, "csr is no certificate request in PEM (PKCS #10)", field="csr") from error
    if not good:
        raise WireError(422, "csr is not signed by the key that it names", field="csr")
    return CertificateRequest(key, pem)


def _accepted(key: object) -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    raise WireError(422, "csr must be of a key on the curves P-256, P-384 or Ed25519", field="csr")


_SIGNATURES_ONLY = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=False,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _unavailable(detail: str) -> WireError:
    return WireError(503, detail, retry_after_s=_RETRY_S, reason="authority_unavailable")


def _replace(path: Path, content: bytes) -> None:
    """Replaces the file whole, so that nobody reads half a list."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
